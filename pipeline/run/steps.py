"""The steps of a run: read, load, explain and write, on Ray or in one process.

Each step works on a batch of rows and reports it through a `Channel`. Its rows are whole batches of
the model and lie inside one shard, so that a row's bits depend on its number alone.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.clips.columns import Columns
from pipeline.clips.views import Views
from pipeline.dataset.manifest import ROWS_PER_GROUP, Manifest
from pipeline.errors import StorageError, reason_of
from pipeline.logs import fields
from pipeline.run.gather import concatenated
from pipeline.run.tally import Channel, Commit
from pipeline.status import Status
from pipeline.store.lease import Lease
from pipeline.store.opening import Store, open_store
from pipeline.store.pending import PendingRows
from pipeline.store.shards import write_shard

WriteShard = Callable[..., NDArray[np.bool_]]
"""As `write_shard`."""
CHECK_S = 1.0
"""A lease that was seen to be held is taken to be held for this time. A driver that takes a lease
over waits for longer before it writes."""

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stages:
    """What is done to the rows of a run."""

    load: Callable[[Columns], Columns]
    """Manifest rows to frames, as `ClipLoader`."""
    attribute: Callable[..., Callable[[Columns], Columns]]
    """Makes what takes the columns of ``load`` to those of the store, as `Attributor`."""
    attribute_arguments: Mapping[str, Any]
    """Keyword arguments of ``attribute``."""
    attribute_bytes: int
    """Memory of a process that holds what ``attribute`` makes."""
    write: WriteShard = write_shard
    """Writes a shard."""


def read_rows(manifest: Manifest, rows: range, views: Views) -> pa.Table:
    """Rows of the manifest with their numbers in the column ``row``, each repeated for its views.

    Raises
    ------
    ManifestChangedError
        If the manifest isn't the one any more that the run was planned with.
    """
    numbers = views.video(np.asarray(rows))
    first, last = int(numbers[0]) // ROWS_PER_GROUP, int(numbers[-1]) // ROWS_PER_GROUP
    groups = pa.concat_tables([_row_group(manifest, group) for group in range(first, last + 1)])
    table = groups.take(pa.array(numbers - first * ROWS_PER_GROUP))
    return table.append_column("row", pa.array(rows, pa.int64()))


@lru_cache(maxsize=2)
def _row_group(manifest: Manifest, group: int) -> pa.Table:
    """Rows of a row group, kept for a process's next batches, whose rows lie close by."""
    start = group * ROWS_PER_GROUP
    return manifest.rows(start, min(start + ROWS_PER_GROUP, manifest.n_rows))


@dataclass(frozen=True)
class Load:
    """Loads the rows of a batch that are pending.

    Rows that are done keep their place in the batch, with status pending and zeros: batches have
    the same shape whichever of their rows are computed, and so the results have the same bits. What
    is stored of these rows stays, see `pipeline.store.shards.write_shard`.
    """

    load: Callable[[Columns], Columns]
    pending: PendingRows
    channel: Channel

    def __call__(self, rows: Columns) -> Columns:
        """Columns of `Stages.load` for manifest rows, in their order."""
        mask = self.pending.mask(rows["row"])
        with self.channel.step("decode", rows["row"][mask]):
            loaded = self.load({name: values[mask] for name, values in rows.items()})
        columns = {name: _spread(values, mask) for name, values in loaded.items()}
        return columns | {"row": rows["row"]}


class Explain:
    """Holds the model, and explains the rows of a task, batch by batch.

    A task is whole batches from its first row on, see `pipeline.run.job.Pass.tasks`: batches are a
    function of row numbers, however the rows come in tasks.
    """

    def __init__(self, stages: Stages, channel: Channel, batch_size: int) -> None:
        """Load the model, which may take minutes."""
        self._channel = channel
        self._batch_size = batch_size
        channel.holds_model()
        with channel.at_work():
            self._attribute = stages.attribute(**stages.attribute_arguments)

    def __call__(self, rows: Columns) -> Columns:
        """Columns of the store, as `Stages.attribute` gives them."""
        size = self._batch_size
        batches = [
            {name: values[start : start + size] for name, values in rows.items()}
            for start in range(0, len(rows["row"]), size)
        ]
        # An `Attributor` copies ahead; stand-ins don't.
        expect = getattr(self._attribute, "expect", lambda frames: None)
        explained = []
        for batch, behind in zip_longest(batches, batches[1:]):
            expect(None if behind is None else behind["frames"])
            with self._channel.step("explain", batch["row"][batch["status"] != Status.PENDING]):
                explained.append(self._attribute(batch))
        return concatenated(explained)


@dataclass(frozen=True)
class Write:
    """Writes the columns of a shard to the store, reports and logs it."""

    store_url: str
    run: str
    """Short name of the run, for the log."""
    write: WriteShard
    pending: PendingRows
    channel: Channel
    lease: Lease | None = None
    """Held by the driver that may write the run; None if the run has no owner."""
    opened: str = field(default_factory=lambda: uuid4().hex)
    """Name of the pass: a process opens the store once in each."""

    def __call__(self, columns: Columns) -> None:
        """Write a shard.

        Raises
        ------
        StoreError
            If the columns aren't exactly one shard, as `write_shard` says.
        LeaseLostError
            If the run is somebody else's by now; nothing is written then.
        StorageError
            If the storage refuses; names the object, or the store.
        """
        rows = columns["row"]
        columns = {name: values for name, values in columns.items() if name != "row"}
        for name in ("video_id", "message"):
            columns[name] = columns[name].astype(np.dtypes.StringDType())
        started_s = time.perf_counter()
        with self.channel.step("write", rows):
            if self.lease is not None:
                _check(self.lease)
            store = _opened(self.store_url, self.opened)
            new = self.pending.mask(rows)
            try:
                written = self.write(store, columns, rows, is_new=bool(new.all()))
            except OSError as error:
                where = error.filename or self.store_url
                raise StorageError(f"can't write {where}: {reason_of(error)}") from error
        seconds = time.perf_counter() - started_s
        # A task that is tried again reports its shard again: its first try may not have.
        codes, n_rows = np.unique(columns["status"][new], return_counts=True)
        counts = {Status(code).label: int(n) for code, n in zip(codes, n_rows, strict=True)}
        n_bytes = sum(values[new].nbytes for values in columns.values())
        first_row = int(rows[0])
        _LOGGER.info(
            "shard committed" if written.any() else "shard found committed",
            extra=fields(
                run=self.run,
                shard=first_row // store.layout.rows_per_shard,
                rows=int(new.sum()),
                **counts,
                bytes=n_bytes,
                seconds=round(seconds, 3),
            ),
        )
        self.channel.commit(Commit(first_row, counts, n_bytes))


@lru_cache(maxsize=1)
def _opened(store_url: str, _pass: str) -> Store:
    """Open the store once in each process and pass: that reads the metadata of every array."""
    return open_store(store_url, mode="r+")


def _check(lease: Lease) -> None:
    """Look whether a lease is still held, once a second in each process."""
    if time.monotonic() - _checked_at_s.get(lease.token, -CHECK_S) >= CHECK_S:
        lease.check()
        _checked_at_s.clear()
        _checked_at_s[lease.token] = time.monotonic()


_checked_at_s: dict[str, float] = {}
"""When a lease was seen to be held, by its token."""


def _spread(values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Put values where the mask is set, and zeros or empty texts elsewhere."""
    if mask.all():
        return values
    spread = np.zeros((len(mask), *values.shape[1:]), values.dtype)
    if values.dtype == object:
        spread[:] = ""
    spread[mask] = values
    return spread
