"""The Zarr store of a run, and the contract by which shards are written once.

Row i of every array is row i of the manifest. ``rows_per_shard`` consecutive rows form a shard:
each array's storage chunk spans exactly a shard's rows, so a shard is one object per array and two
writers of different shards share none. A shard's data is written first and its ``status`` last:
``status`` is the commit mark, and the only state that a resumed run reads.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.status import Status
from pipeline.storage.files import flush_to_disk
from pipeline.store.opening import Store


def write_shard(
    store: Store,
    columns: Mapping[str, NDArray[Any]],
    rows: NDArray[np.int64],
    *,
    is_new: bool = False,
) -> NDArray[np.bool_]:
    """Write one shard: its data, then its ``status``, after which it counts as done.

    Rows that are done already keep what is stored of them, whatever the columns have in their
    place: a shard of which only some rows are pending is completed. Each array's object is written
    whole, by one request.

    Parameters
    ----------
    columns
        Every array of the store by name, each of the shard's rows.
    rows
        Row numbers of the columns; exactly the rows of one shard.
    is_new
        Whether every row is known to be pending: nothing is read then.

    Returns
    -------
    (rows,) whether each row was pending, and is written now

    Raises
    ------
    StoreError
        If the rows are not one whole shard, a column is missing, or one has another shape; nothing
        is written then.
    """
    layout = store.layout
    if not len(rows) or rows[0] < 0:
        raise StoreError(f"rows {rows.tolist()[:3]} are no rows of a store of {layout.n_rows}")
    shard = layout.shard_rows(int(rows[0]) // layout.rows_per_shard)
    if not np.array_equal(rows, shard):
        raise StoreError(
            f"rows {rows[0]} to {rows[-1]} ({len(rows)}) are not a whole shard: expected rows "
            f"{shard.start} to {shard.stop - 1} in order"
        )
    templates = layout.arrays()
    for name, spec in templates.items():
        if name not in columns:
            raise StoreError(f"shard at row {shard.start}: column {name!r} is missing")
        if columns[name].shape != (len(shard), *spec.shape):
            raise StoreError(
                f"shard at row {shard.start}: column {name!r} has shape {columns[name].shape}, "
                f"expected {(len(shard), *spec.shape)}"
            )

    def stored(name: str) -> NDArray[Any]:
        values: NDArray[Any] = store.array(name)[shard.start : shard.stop]
        return values

    pending = np.ones(len(shard), bool) if is_new else np.equal(stored("status"), Status.PENDING)
    if (columns["status"][pending] == Status.PENDING).any():
        raise StoreError(f"shard at row {shard.start}: a row to be written is still pending")
    if not pending.any():
        return pending

    def write(name: str) -> None:
        values = columns[name]
        if not pending.all():
            values = stored(name)
            values[pending] = columns[name][pending]
        store.blank_array(name)[shard.start : shard.stop] = values

    # One object each: on object storage the time is the round trips', so they go side by side.
    with ThreadPoolExecutor(max_workers=len(templates)) as pool:
        list(pool.map(write, templates.keys() - {"status"}))
    # The mark that says that data are there must not reach the disk before them.
    index = shard.start // layout.rows_per_shard
    flush_to_disk([store.object_url(name, index) for name in templates if name != "status"])
    write("status")
    flush_to_disk([store.object_url("status", index)])
    return pending
