"""Rows that are still to be computed: what a resumed run reads of the store."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.core.group import Group

from pipeline.errors import StoreError, reason_of
from pipeline.status import Status
from pipeline.store.create import _STORAGE_ERRORS, open_store
from pipeline.store.record import store_layout

_DAMAGE = (*_STORAGE_ERRORS, KeyError, RuntimeError)
"""What zarr and its codecs raise of an object that is gone, cut short or overwritten."""

_N_WRITERS = 16
"""Objects that are reset at once: the time is that of the storage's answers."""


def status_array(group: Group) -> Any:
    """Open the array ``status``; `StoreError` if its metadata can't be read."""
    try:
        return group["status"]
    except _DAMAGE as error:
        raise StoreError(f"{group.store_path}/status/zarr.json is lost or damaged") from error


def read_status(group: Group) -> NDArray[np.uint8]:
    """Status of every row: uint8 (clip,), codes of `pipeline.status.Status`.

    Rows that the store has taken in, and that ``status`` isn't enlarged by yet, are pending.

    Raises
    ------
    StoreError
        Names the object that can't be read.
    """
    status = status_array(group)
    try:
        values: NDArray[np.uint8] = status[:]
    except _DAMAGE as error:
        raise StoreError(
            f"{_damaged_object(status)} can't be read: {reason_of(error)}. If it is damaged, "
            "delete it: jobs.attribute then computes its rows again"
        ) from error
    return np.pad(
        values, (0, store_layout(group).n_rows - len(values)), constant_values=Status.PENDING
    )


@dataclass(frozen=True)
class PendingRows:
    """Rows of a run that are to be computed.

    Small whatever the run's size: most shards are pending as a whole or done as a whole, and only
    of those that are neither the rows are listed.
    """

    n_rows: int
    shards: NDArray[np.int64]
    """Shards with a pending row, in order."""
    partial_shards: NDArray[np.int64]
    """Of these the ones that have rows that are done, in order."""
    rows_of_partial: NDArray[np.int64]
    """Pending rows of the partial shards, in order."""
    rows_per_shard: int

    def mask(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of some rows of these shards is pending."""
        of_whole = ~_found(rows // self.rows_per_shard, self.partial_shards)
        return of_whole | _found(rows, self.rows_of_partial)


def pending_rows(group: Group) -> PendingRows:
    """Rows that are to be computed; `StoreError` as `read_status`."""
    layout = store_layout(group)
    rows = np.flatnonzero(read_status(group) == Status.PENDING)
    shard_of_row = rows // layout.rows_per_shard
    shards, n_pending = np.unique(shard_of_row, return_counts=True)
    stops = np.minimum((shards + 1) * layout.rows_per_shard, layout.n_rows)
    partial = shards[n_pending < stops - shards * layout.rows_per_shard]
    of_partial = rows[_found(shard_of_row, partial)]
    return PendingRows(len(rows), shards, partial, of_partial, layout.rows_per_shard)


def reset_rows(url: str, statuses: Collection[Status]) -> dict[Status, int]:
    """Mark the rows of some statuses as pending; other rows and the data stay.

    For a run that isn't going on: its write tasks, too, write ``status``.

    Returns
    -------
    Rows that were reset, by the status that they had

    Raises
    ------
    StoreError
        If the storage refuses; what was reset until then is pending.
    """
    group = open_store(url, mode="r+")
    layout, status = store_layout(group), read_status(group)
    chosen = np.isin(status, list(statuses))
    counts = {code: int(np.sum(status == code)) for code in statuses if (status == code).any()}
    status[chosen] = Status.PENDING
    array: Any = group["status"]

    def write(shard: int) -> None:
        rows = layout.shard_rows(shard)
        array[rows.start : rows.stop] = status[rows.start : rows.stop]

    shards = np.unique(np.flatnonzero(chosen) // layout.rows_per_shard).tolist()
    try:
        with ThreadPoolExecutor(max_workers=_N_WRITERS) as pool:
            list(pool.map(write, shards))
    except _STORAGE_ERRORS as error:
        raise StoreError(f"out: can't write {group.store_path}/status: {error}") from error
    return counts


def _found(values: NDArray[np.int64], ascending: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each value is in an array that is sorted; not as `np.isin`, which sorts it anew."""
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
        except _DAMAGE:
            return f"{array.store_path}/{array.metadata.encode_chunk_key((index,))}"
    return str(array.store_path)
