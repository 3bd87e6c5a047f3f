"""Rows that are still to be computed: what a resumed run reads of the store."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreError, reason_of
from pipeline.status import Status
from pipeline.store.create import unconsolidate
from pipeline.store.objects import n_objects
from pipeline.store.opening import DAMAGE, STORAGE_ERRORS, Store
from pipeline.store.schema import StoreLayout
from pipeline.store.verify import REMEDY

_N_WRITERS = 16
"""Objects that are reset at once, since most of the time goes to waiting for the storage."""


def read_status(store: Store) -> NDArray[np.uint8]:
    """Status of every row: uint8 (clip,), codes of `pipeline.status.Status`.

    Rows that the store has taken in, and that ``status`` isn't enlarged by yet, are pending.

    Raises
    ------
    StoreError
        Names the object that can't be read.
    """
    status = store.array("status")
    try:
        # Rows that were added since the store was opened aren't its rows.
        values: NDArray[np.uint8] = status[: store.layout.n_rows]
    except DAMAGE as error:
        raise StoreError(
            f"{_damaged_object(status)} can't be read: {reason_of(error)}; {REMEDY}"
        ) from error
    n_missing = store.layout.n_rows - len(values)
    return np.pad(values, (0, n_missing), constant_values=Status.PENDING)


@dataclass(frozen=True)
class PendingRows:
    """Rows of a run that are to be computed.

    It is small for a run of any size: most shards are wholly pending or wholly done, and rows are
    listed only for the others.
    """

    n_rows: int
    shards: NDArray[np.int64]
    """Shards with a pending row, in order."""
    partial_shards: NDArray[np.int64]
    """Shards that have both pending rows and rows that are done, in order."""
    rows_of_partial: NDArray[np.int64]
    """Pending rows of the partial shards, in order."""
    rows_per_shard: int

    def mask(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of some rows of these shards is pending."""
        of_whole = ~_found(rows // self.rows_per_shard, self.partial_shards)
        return of_whole | _found(rows, self.rows_of_partial)


def pending_rows(store: Store) -> PendingRows:
    """Rows that are to be computed; `StoreError` as `read_status`.

    Of a new run a listing says that nothing is there, in place of a request for each shard.
    """
    layout = store.layout
    if n_objects(store.array("status")) == 0:
        return pending_of(np.full(layout.n_rows, Status.PENDING, np.uint8), layout)
    return pending_of(read_status(store), layout)


def pending_of(status: NDArray[np.uint8], layout: StoreLayout) -> PendingRows:
    """Rows that are to be computed, by their ``status`` (clip,)."""
    rows = np.flatnonzero(status == Status.PENDING)
    shard_of_row = rows // layout.rows_per_shard
    shards, n_pending = np.unique(shard_of_row, return_counts=True)
    stops = np.minimum((shards + 1) * layout.rows_per_shard, layout.n_rows)
    partial = shards[n_pending < stops - shards * layout.rows_per_shard]
    of_partial = rows[_found(shard_of_row, partial)]
    return PendingRows(len(rows), shards, partial, of_partial, layout.rows_per_shard)


def reset_rows(store: Store, statuses: Collection[Status]) -> dict[Status, int]:
    """Mark the rows of some statuses as pending; other rows and the data stay.

    Consolidated metadata, which a complete run has, are taken away before.

    Not to be used while the run goes on, since its write tasks write ``status`` too.

    Returns
    -------
    Rows that were reset, by the status that they had

    Raises
    ------
    StoreError
        If the storage refuses; what was reset until then is pending.
    """
    if not statuses:
        return {}
    layout, status = store.layout, read_status(store)
    chosen = np.isin(status, list(statuses))
    counts = {code: int(np.sum(status == code)) for code in statuses if (status == code).any()}
    if not counts:
        return {}
    unconsolidate(store)
    status[chosen] = Status.PENDING
    array = store.array("status")

    def write(shard: int) -> None:
        rows = layout.shard_rows(shard)
        array[rows.start : rows.stop] = status[rows.start : rows.stop]

    shards = np.unique(np.flatnonzero(chosen) // layout.rows_per_shard).tolist()
    try:
        with ThreadPoolExecutor(max_workers=_N_WRITERS) as pool:
            list(pool.map(write, shards))
    except STORAGE_ERRORS as error:
        raise StoreError(f"out: can't write {store.url}/status: {reason_of(error)}") from error
    return counts


def _found(values: NDArray[np.int64], ascending: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each value is in an array that is sorted; unlike `np.isin`, which sorts it again."""
    position = np.searchsorted(ascending, values)
    found = np.zeros(len(values), bool)
    inside = position < len(ascending)
    found[inside] = ascending[position[inside]] == values[inside]
    return found


def _damaged_object(array: Any) -> str:
    """Find the first object of an array of one dimension that can't be read; zarr names none."""
    (rows_per_object,) = array.chunks
    for index in range(-(-array.shape[0] // rows_per_object)):
        try:
            array[index * rows_per_object : (index + 1) * rows_per_object]
        except DAMAGE:
            return f"{array.store_path}/{array.metadata.encode_chunk_key((index,))}"
    return str(array.store_path)
