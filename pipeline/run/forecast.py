"""Measures a handful of clips of a planned run, and says what all of it will take.

The clips are read, decoded and explained in this process, and their shard is written to a folder of
its own: what is measured is what a run does. Nothing of it is kept, and the target isn't touched.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.columns import Columns
from pipeline.errors import ConfigError
from pipeline.models.device import device_of
from pipeline.run.gather import concatenated
from pipeline.run.job import StagesOf, real_stages
from pipeline.run.plan import Plan
from pipeline.run.resources import Room
from pipeline.run.steps import Explain, Load, read_rows
from pipeline.run.tally import LocalChannel, Tally
from pipeline.status import Status
from pipeline.store.create import create_store
from pipeline.store.opening import Found, find_store
from pipeline.store.pending import PendingRows, pending_of, read_status
from pipeline.store.shards import write_shard
from pipeline.store.space import free_bytes, size

N_BATCHES = 3
"""Batches that are measured; the first, in which libraries are loaded, isn't counted."""


@dataclass(frozen=True)
class Measured:
    """What a handful of clips took on this machine."""

    n_clips: int
    n_ok: int
    decode_s: float
    """To read and decode a clip, on one core."""
    explain_s: float
    """To explain a clip, by one copy of the model."""
    row_bytes: float
    """What is stored of a clip, compressed."""


@dataclass(frozen=True)
class Forecast:
    """What the pending rows of a run will take."""

    n_rows: int
    measured: Measured
    room: Room | None
    """What works side by side; None where one process decodes and explains in turn."""
    n_shards: int
    n_arrays: int
    free: int | None
    """Space at the target, in bytes; None where the storage doesn't tell."""

    @property
    def clips_per_s(self) -> float:
        """Rate of decoding and the models.

        They go on side by side, and the slower one bounds the rate; on CPUs they share these.
        """
        decode_s, explain_s = self.measured.decode_s, self.measured.explain_s
        if self.room is None:
            return 1 / (decode_s + explain_s)
        bound = self.room.pool.n_models / explain_s
        if self.room.pool.device == "cpu":
            return min(bound, self.room.cpus / (decode_s + explain_s * self.room.cpus_per_model))
        return min(bound, self.room.cpus / decode_s)

    @property
    def seconds(self) -> float:
        """Time that the rows take, s; starting isn't counted."""
        return self.n_rows / self.clips_per_s

    @property
    def lacking_cores(self) -> float:
        """Cores more that would have to decode to keep GPUs busy; 0 if there is none."""
        if self.room is None or self.room.pool.device == "cpu":
            return 0.0
        wanted = self.room.pool.n_models / self.measured.explain_s * self.measured.decode_s
        return max(0.0, wanted - self.room.cpus)

    @property
    def n_bytes(self) -> float:
        """Size of what is stored."""
        return self.n_rows * self.measured.row_bytes

    @property
    def n_objects(self) -> int:
        """Objects that are written: one for each array and shard."""
        return self.n_shards * self.n_arrays

    def lines(self) -> list[str]:
        """Say it, for people."""
        measured = self.measured
        by = "in one process"
        if self.room:
            pool = self.room.pool
            by = f"by {pool.n_models} models on {pool.device} and {self.room.cpus:g} cores"
        told = [
            f"{self.n_rows:,} clips at {self.clips_per_s:.3g} clips/s take {_time(self.seconds)}, "
            f"{by}",
            f"a clip takes {measured.decode_s:.3g} s of a core to decode and "
            f"{measured.explain_s:.3g} s of a model, measured here on {measured.n_clips} clips, "
            f"{measured.n_ok} of them ok",
        ]
        if self.lacking_cores >= 0.5:
            told.append(
                f"the models wait for decoding: {self.lacking_cores:.0f} cores more would keep "
                "them busy"
            )
        space = "" if self.free is None else f"; {size(self.free)} are free there"
        told.append(
            f"what is stored takes {size(self.n_bytes)} in {self.n_objects:,} objects{space}"
        )
        return told


def forecast(plan: Plan, room: Room | None, *, stages_of: StagesOf = real_stages) -> Forecast:
    """Measure some batches of a run's pending rows, evenly spread, and say what all will take.

    Parameters
    ----------
    room
        As in `Forecast`. Models are of another kind than the one that is measured where this
        process has no GPU and the cluster has.

    Raises
    ------
    ConfigError
        If nothing is left to compute, or none of the clips could be explained.
    StorageError
        If clips can't be read for as long as it is tried.
    """
    pending = _pending(plan)
    if not pending.n_rows:
        raise ConfigError(f"dry_run: no row of {plan.store_url} is pending, so nothing is to do")
    return Forecast(
        n_rows=pending.n_rows,
        measured=measure(plan, pending, stages_of=stages_of),
        room=room,
        n_shards=len(pending.shards),
        n_arrays=len(plan.layout.arrays()),
        free=free_bytes(plan.config.out),
    )


def measure(plan: Plan, pending: PendingRows, *, stages_of: StagesOf = real_stages) -> Measured:
    """Read, decode, explain and store some batches; raises as `forecast` does."""
    batch_size = plan.sizes.batch_size
    channel = LocalChannel(Tally(plan.layout.rows_per_shard))
    stages = stages_of(plan, device_of(plan.config.device), channel)
    load, explain = (
        Load(stages.load, pending, channel),
        Explain(stages, channel, batch_size),
    )
    decode_s, explain_s, batches = [], [], []
    for rows in _spread(plan, pending):
        table = read_rows(plan.manifest, rows, plan.views)
        columns = {name: table[name].to_numpy() for name in table.column_names}
        loaded, seconds = _timed(load, columns)
        decode_s.append(seconds)
        explained, seconds = _timed(explain, loaded)
        explain_s.append(seconds)
        batches.append(explained)
    counted = slice(1, None) if len(batches) > 1 else slice(None)
    computed = [batch["status"] != Status.PENDING for batch in batches]
    n_clips = sum(int(done.sum()) for done in computed)
    n_decoded = sum(int(done.sum()) for done in computed[counted])
    n_ok = sum(int((batch["status"] == Status.OK).sum()) for batch in batches)
    if not n_ok:
        raise ConfigError(
            f"dry_run: none of {n_clips} clips that were tried could be explained: "
            f"{next(str(text) for batch in batches for text in batch['message'] if text)}"
        )
    return Measured(
        n_clips=n_clips,
        n_ok=n_ok,
        decode_s=sum(decode_s[counted]) / n_decoded,
        # A batch takes the same time however many of its clips are there.
        explain_s=sum(explain_s[counted]) / (len(explain_s[counted]) * batch_size),
        row_bytes=_stored_bytes(plan, concatenated(batches)),
    )


def _pending(plan: Plan) -> PendingRows:
    """Rows that will be pending once the store is prepared for this call."""
    target, layout = find_store(plan.store_url), plan.layout
    status = np.full(layout.n_rows, Status.PENDING, np.uint8)
    if isinstance(target, Found) and not plan.call.overwrite:
        kept = read_status(target.store)
        again = np.isin(kept, plan.call.statuses_to_retry)
        status[: len(kept)] = np.where(again, Status.PENDING, kept)
    return pending_of(status, layout)


def _spread(plan: Plan, pending: PendingRows) -> list[range]:
    """Batches of pending rows, each in the middle of a part of the shards that are pending."""
    n_clips = plan.sizes.batch_size
    at = np.unique(np.linspace(0, len(pending.shards) - 1, N_BATCHES).astype(int))
    batches = []
    for shard in pending.shards[at].tolist():
        rows = plan.layout.shard_rows(shard)
        starts = [
            start
            for start in range(rows.start, rows.stop, n_clips)
            if pending.mask(np.arange(start, min(start + n_clips, rows.stop))).any()
        ]
        # Of few shards several batches.
        for start in starts[: N_BATCHES - len(at) + 1]:
            batches.append(range(start, min(start + n_clips, rows.stop)))
    return batches[:N_BATCHES]


def _stored_bytes(plan: Plan, columns: dict[str, NDArray[Any]]) -> float:
    """Size of what is stored of a row, measured on a store of these rows alone."""
    n_rows = len(columns["row"])
    # What an array takes is nearly the same whatever the rows of a shard.
    layout = replace(plan.layout, n_rows=n_rows, rows_per_shard=n_rows)
    values = {name: value for name, value in columns.items() if name != "row"}
    values["status"] = np.where(
        values["status"] == Status.PENDING, Status.MISSING, values["status"]
    ).astype(np.uint8)
    for name in ("video_id", "message"):
        values[name] = values[name].astype(np.dtypes.StringDType())
    with tempfile.TemporaryDirectory(prefix="staa-forecast-") as folder:
        url = str(Path(folder) / "store.zarr")
        store = create_store(url, plan.record.model_copy(update={"layout": layout}))
        write_shard(store, values, np.arange(n_rows))
        objects = (path for path in Path(url).rglob("*") if path.is_file())
        n_bytes = sum(path.stat().st_size for path in objects if path.name != "zarr.json")
    return n_bytes / n_rows


def _timed(step: Callable[[Columns], Columns], columns: Columns) -> tuple[Columns, float]:
    started_s = time.perf_counter()
    result = step(columns)
    return result, time.perf_counter() - started_s


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours = seconds / 3600
    return f"{hours:.2g} h" if hours < 10 else f"{hours:,.0f} h"
