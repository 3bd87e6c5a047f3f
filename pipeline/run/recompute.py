"""Computes rows of a finished run again and holds them against what is stored, bit by bit."""

from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.clips.reachable import find_witness
from pipeline.errors import StoreError
from pipeline.models.device import device_of
from pipeline.run.config import AttributeConfig
from pipeline.run.job import StagesOf, real_stages
from pipeline.run.plan import Plan, describe_run
from pipeline.run.steps import Explain, Load, read_rows
from pipeline.run.tally import LocalChannel, Tally
from pipeline.status import NOT_TRIED
from pipeline.store.opening import DAMAGE, Store
from pipeline.store.pending import PendingRows, read_status
from pipeline.store.run_folder import store_url


@dataclass(frozen=True)
class Difference:
    """Arrays in which the row that was computed again differs from the stored one."""

    row: int
    arrays: tuple[str, ...]
    largest: float
    """Largest difference of numbers that are there in both, 0 if there is none."""
    reason: str = ""
    """Why, where it is known."""

    def __str__(self) -> str:
        differ = f"{', '.join(self.arrays)} differ"
        by = f" by {self.largest:.2g} at the most" if self.largest else ""
        return f"row {self.row}: {differ}{by}{f'; {self.reason}' if self.reason else ''}"


def plan_again(run_url: str, store: Store) -> Plan:
    """Plan a run as its record says, to compute rows of it again.

    Raises
    ------
    StoreError
        If its manifest or model has changed, or its record was written by another release.
    StaaError
        As `describe_run` does, if the manifest or model can't be read any more.
    """
    store.record.check_has_model(run_url)
    try:
        config = AttributeConfig.model_validate(store.record.config | {"out": run_url})
    except ValidationError as error:
        first = error.errors()[0]
        raise StoreError(
            f"{store_url(run_url)}: this release can't run its configuration: "
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from error
    plan = describe_run(config)
    if differences := store.record.identity.differences(plan.record.identity):
        key, there, here = differences[0]
        raise StoreError(
            f"{store_url(run_url)} was made of something else than is there now: {key} was "
            f"{there!r:.80} and is {here!r:.80}"
        )
    # By which a clip that is gone is told from a storage that is.
    return replace(plan, witness=find_witness(plan.manifest))


def sample_rows(store: Store, n_rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw rows that were computed, in order; all of them, if there are fewer."""
    status = read_status(store)
    done = np.flatnonzero(~np.isin(status, NOT_TRIED))
    return np.sort(rng.choice(done, min(n_rows, len(done)), replace=False))


def recompute(
    plan: Plan, store: Store, rows: NDArray[np.int64], *, stages_of: StagesOf = real_stages
) -> list[Difference]:
    """Compute rows of a run again, in this process, and say which aren't what is stored.

    A row's bits don't depend on which other rows of its batch are computed, so only these rows are
    decoded. On another device, or with other versions of libraries, the last bits may differ.

    Parameters
    ----------
    rows
        In order.

    Raises
    ------
    StoreError
        If the store is damaged.
    StorageError
        If clips can't be read for as long as it is tried.
    """
    layout, size = plan.layout, plan.sizes.batch_size
    shards = np.unique(rows // layout.rows_per_shard)
    wanted = PendingRows(len(rows), shards, shards, rows, layout.rows_per_shard)
    channel = LocalChannel(Tally(layout.rows_per_shard))
    stages = stages_of(plan, device_of(plan.config.device), channel)
    load, explain = (
        Load(stages.load, wanted, channel),
        Explain(stages, channel, plan.sizes.batch_size),
    )
    found: list[Difference] = []
    for start, of_batch in groupby(rows.tolist(), lambda row: row // size * size):
        shard = layout.shard_rows(start // layout.rows_per_shard)
        batch = range(start, min(start + size, shard.stop))
        table = read_rows(plan.manifest, batch, plan.views)
        columns = explain(load({name: table[name].to_numpy() for name in table.column_names}))
        for row in of_batch:
            again = {name: columns[name][row - start] for name in layout.arrays()}
            if difference := _difference(row, again, _stored(store, row)):
                found.append(difference)
    return found


def _stored(store: Store, row: int) -> dict[str, Any]:
    values = {}
    for name in store.layout.arrays():
        try:
            values[name] = store.array(name)[row]
        except DAMAGE as error:
            url = store.object_url(name, row // store.layout.rows_per_shard)
            raise StoreError(f"{url} can't be read: {error}") from error
    return values


def _difference(row: int, again: dict[str, Any], stored: dict[str, Any]) -> Difference | None:
    arrays, largest = [], 0.0
    for name, value in stored.items():
        if isinstance(value, str) or np.asarray(value).dtype.kind in "TOU":
            if str(value) != str(again[name]):
                arrays.append(name)
            continue
        there, here = np.asarray(value), np.asarray(again[name])
        if there.dtype == here.dtype and there.tobytes() == here.tobytes():
            continue
        if np.array_equal(there, here, equal_nan=there.dtype.kind == "f"):
            continue
        arrays.append(name)
        if there.dtype.kind == "f":
            apart = np.abs(there.astype(np.float64) - here.astype(np.float64))
            largest = max(largest, float(np.nan_to_num(apart, nan=0.0).max()))
    if not arrays:
        return None
    reason = "the file has changed since" if "clip_digest" in arrays else ""
    return Difference(row, tuple(arrays), largest, reason)
