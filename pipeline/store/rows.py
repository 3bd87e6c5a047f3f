"""Rows of a store's arrays, for readers that hold several arrays of the same rows together.

What is damaged is told on one line, with the remedy. What Zarr makes up for an object that isn't
there is no value either: of a store whose every object is written (`StoreLayout.checksums`), lost
ones are told, of an earlier store lost attributions alone. ``status`` is the mark that a shard is
written, so that rows whose ``status`` is lost are pending.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreError, reason_of
from pipeline.status import Status
from pipeline.store.opening import DAMAGE, Store
from pipeline.store.verify import REMEDY, is_filled, lost_attributions_error, shards_without

Rows = slice | NDArray[np.integer]
"""Rows from one to another, or any rows by their numbers."""


def read_rows(store: Store, name: str, rows: Rows, *, remedy: str = REMEDY) -> NDArray[Any]:
    """Read rows of an array: (rows, ...).

    Parameters
    ----------
    remedy
        What the message says to do; by default, what to do about a run.

    Raises
    ------
    StoreError
        If an object can't be read or is lost, or the array's metadata.
    """
    array = store.array(name)
    try:
        if isinstance(rows, slice):
            values = np.asarray(array[rows])
        else:
            values = np.asarray(array.get_orthogonal_selection((rows,)))
    except DAMAGE as error:
        raise _unreadable(store, name, error, remedy) from error
    if isinstance(rows, slice):
        rows = np.arange(*rows.indices(array.shape[0]))
    looks_lost = _shards_that_look_lost(store, name, rows, values)
    # In this order: what is committed in between was written before.
    if committed := _committed(store, looks_lost, remedy):
        try:
            lost = shards_without(store, name, committed)
        except DAMAGE as error:
            raise _unreadable(store, name, error, remedy) from error
        if lost:
            of = store.layout.shard_rows(lost[0])
            raise StoreError(
                f"{store.url}/{name} has lost objects: of rows {of.start} to {of.stop - 1}; "
                f"{remedy}"
            )
    return values


def _unreadable(store: Store, name: str, error: Exception, remedy: str) -> StoreError:
    return StoreError(f"{store.url}/{name} can't be read: {reason_of(error)}; {remedy}")


def _shards_that_look_lost(
    store: Store, name: str, rows: NDArray[np.integer], values: NDArray[Any]
) -> list[int]:
    """Shards of which all that was read is what Zarr makes up for an object that isn't there."""
    if not store.layout.checksums or not len(rows):
        return []
    shards = rows // store.layout.rows_per_shard
    looks_so = is_filled(store, name, values).reshape(len(rows), -1).all(axis=1)
    of: list[int] = np.setdiff1d(shards[looks_so], shards[~looks_so]).tolist()
    return of


def _committed(store: Store, shards: Sequence[int], remedy: str) -> list[int]:
    """Those of some shards, in order, in which a row is ok: all their objects are written."""
    if not shards:
        return []
    # One read of all between them, whose objects Zarr asks for at the same time.
    start = store.layout.shard_rows(shards[0]).start
    stop = store.layout.shard_rows(shards[-1]).stop
    try:
        is_ok = np.asarray(store.array("status")[start:stop]) == Status.OK
    except DAMAGE as error:
        raise _unreadable(store, "status", error, remedy) from error
    ok_shards = set(((start + np.flatnonzero(is_ok)) // store.layout.rows_per_shard).tolist())
    return [shard for shard in shards if shard in ok_shards]


def read_explained(
    store: Store, rows: Rows, ok: NDArray[np.integer] | None = None
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Read attributions of rows that are ok: spatial (rows, time, y, x), temporal (rows, time).

    Parameters
    ----------
    ok
        Places of the wanted ones among ``rows``; by default all are.

    Raises
    ------
    StoreError
        As `read_rows`; or if one of them has no attribution, since its object is lost.
    """
    spatial, temporal = (read_rows(store, name, rows) for name in ("spatial", "temporal"))
    if ok is not None:
        spatial, temporal = spatial[ok], temporal[ok]
    if np.isnan(spatial).any() or np.isnan(temporal).any():
        raise lost_attributions_error(store.url)
    return spatial, temporal
