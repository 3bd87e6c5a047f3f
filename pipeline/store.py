"""The Zarr store of a run, and the contract by which shards are written once.

Row i of every array is row i of the manifest. ``rows_per_shard`` consecutive rows form a shard:
each array's storage chunk spans exactly a shard's rows, so a shard is one object per array and two
writers of different shards share none. A shard's data is written first and its ``status`` last:
``status`` is the commit mark, and the only state that a resumed run reads.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.common import JSON
from zarr.core.group import Group

from pipeline.errors import RunMismatchError, StoreError, reason_of
from pipeline.schema import ArraySpec, StoreLayout
from pipeline.status import Status
from pipeline.storage import open_filesystem, with_retries, zarr_location

SCHEMA: dict[str, JSON] = {"name": "staa", "version": 1}
"""Marks a group as a store of this product; the version changes with the arrays' meaning."""

STORE_NAME = "attributions.zarr"
"""Name of the store in a run's folder."""

_STORAGE_ERRORS = (OSError, ValueError, ImportError)
"""What fsspec and zarr raise of a URL: no access, no such protocol, no driver of it installed."""

_DAMAGE = (*_STORAGE_ERRORS, KeyError, RuntimeError)
"""What zarr and its codecs raise of an object that is gone, cut short or overwritten."""

_N_WRITERS = 16
"""Objects that are reset at once: the time is that of the storage's answers."""

_ROWS_PER_CHUNK = 32
"""At most this many rows are read to get one: the inner chunk of the sharded arrays."""


def create_store(
    url: str, layout: StoreLayout, identity: Mapping[str, Any], attributes: Mapping[str, Any]
) -> Group:
    """Create a store from its template: every array, no data.

    The identity is written last, so that a creation that was cut off is seen as one and done anew.

    Raises
    ------
    StoreError
        If the target can't be written, or holds something else.
    """
    unfinished = _is_unfinished(url)
    if not unfinished and not _is_free(url):
        raise StoreError(f"out: {url} is there already: can't create a store there")
    try:
        group = zarr.create_group(
            zarr_location(url), overwrite=unfinished, attributes={"schema": SCHEMA}
        )
        for name, spec in layout.arrays().items():
            _create_array(group, name, spec, layout)
        group.update_attributes({**attributes, "layout": vars(layout), "identity": dict(identity)})
    except _STORAGE_ERRORS as error:
        raise StoreError(f"out: can't create a store at {url}: {error}") from error
    return group


def open_store(url: str, *, mode: Literal["r", "r+"] = "r") -> Group:
    """Open a store of this product.

    Raises
    ------
    StoreError
        If there is none, or it has another schema.
    """
    try:
        group = zarr.open_group(zarr_location(url), mode=mode)
    except (*_STORAGE_ERRORS, zarr.errors.BaseZarrError) as error:
        raise StoreError(f"no store at {url}: {error}") from error
    if group.attrs.get("schema") != SCHEMA or "identity" not in group.attrs:
        raise StoreError(
            f"{url} is not a store of schema {SCHEMA}: its schema is {group.attrs.get('schema')}"
        )
    return group


def store_exists(url: str) -> bool:
    """Whether a finished or running run has a store here; False if its creation was cut off.

    Raises
    ------
    StoreError
        If a Zarr group is here that isn't a store of this product.
    """
    try:
        group = zarr.open_group(zarr_location(url), mode="r")
    except FileNotFoundError:
        return False
    except (*_STORAGE_ERRORS, zarr.errors.BaseZarrError) as error:
        raise StoreError(f"out: can't read {url}: {error}") from error
    schema = group.attrs.get("schema")
    if not isinstance(schema, dict) or schema.get("name") != SCHEMA["name"]:
        raise StoreError(f"out: {url} is a Zarr group, but not a store of this product")
    return "identity" in group.attrs


def check_writable(group: Group, url: str) -> None:
    """Refuse a store whose storage lets it be read, and not written.

    Raises
    ------
    StoreError
        If it can't be written.
    """
    try:
        # Its own attributes as they are: the only object whose content is known to be right.
        group.update_attributes({})
    except _STORAGE_ERRORS as error:
        raise StoreError(f"out: can't write the store at {url}: {reason_of(error)}") from error


def store_layout(group: Group) -> StoreLayout:
    """Sizes of an open store."""
    return StoreLayout(**group.attrs["layout"])  # type: ignore[arg-type]


def check_identity(group: Group, identity: Mapping[str, Any]) -> None:
    """Refuse to go on with another run's store.

    Raises
    ------
    RunMismatchError
        Names each key that differs, with both values.
    """
    stored, wanted = _flatten(group.attrs["identity"]), _flatten(identity)
    differences = [
        f"{key} is {stored.get(key)!r} there and {wanted.get(key)!r} here"
        for key in sorted(stored.keys() | wanted.keys())
        if stored.get(key) != wanted.get(key)
    ]
    if differences:
        longer = any(difference.startswith("manifest ") for difference in differences)
        raise RunMismatchError(
            f"out: the store at {group.store} was made by another run: {'; '.join(differences)}. "
            "Choose another folder, or start anew with --overwrite"
            + ("; rows at the manifest's end are taken in with --append" if longer else "")
        )


def run_id(run_url: str, identity: Mapping[str, Any]) -> str:
    """Short name of a run for logs and metrics: its folder's name and a digest of its identity."""
    # As JSON, a tuple that is to be stored and the list that was read are the same.
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{run_url.rstrip('/').rpartition('/')[2] or 'run'}-{digest[:8]}"


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


def write_shard(
    group: Group, columns: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Write one shard: its data, then its ``status``, after which it counts as done.

    Rows that are done already keep what is stored of them, whatever the columns have in their
    place: a shard of which only some rows are pending is completed.

    Parameters
    ----------
    columns
        Every array of the store by name, each of the shard's rows.
    rows
        Row numbers of the columns; exactly the rows of one shard.

    Returns
    -------
    (rows,) whether each row was pending, and is written now

    Raises
    ------
    StoreError
        If the rows are not one whole shard, a column is missing, or one has another shape; nothing
        is written then.
    """
    layout = store_layout(group)
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
        array: Any = group[name]
        values: NDArray[Any] = array[shard.start : shard.stop]
        return values

    pending: NDArray[np.bool_] = stored("status") == Status.PENDING
    if (columns["status"][pending] == Status.PENDING).any():
        raise StoreError(f"shard at row {shard.start}: a row to be written is still pending")
    if not pending.any():
        return pending

    def write(name: str) -> None:
        values = columns[name]
        if not pending.all():
            values = stored(name)
            values[pending] = columns[name][pending]
        array: Any = group[name]
        array[shard.start : shard.stop] = values

    # One object each: on object storage the time is the round trips', so they go side by side.
    with ThreadPoolExecutor(max_workers=len(templates)) as pool:
        list(pool.map(write, templates.keys() - {"status"}))
    write("status")
    return pending


def in_run(run_url: str, name: str) -> str:
    """URL of what is called ``name`` in a run's folder."""
    return f"{run_url.rstrip('/')}/{name}"


def store_url(run_url: str) -> str:
    """Where the store is in a run's folder."""
    return in_run(run_url, STORE_NAME)


def _is_unfinished(url: str) -> bool:
    try:
        attributes = zarr.open_group(zarr_location(url), mode="r").attrs
    except _STORAGE_ERRORS:
        return False
    return attributes.get("schema") == SCHEMA and "identity" not in attributes


def _is_free(url: str) -> bool:
    """Whether nothing is at a URL yet, or an empty folder."""
    try:
        filesystem, path = open_filesystem(url)
        return with_retries(
            url,
            lambda: (
                not filesystem.exists(path)
                or (filesystem.isdir(path) and not filesystem.ls(path, detail=False))
            ),
        )
    except _STORAGE_ERRORS as error:
        raise StoreError(f"out: can't create a store at {url}: {error}") from error


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


def _create_array(group: Group, name: str, spec: ArraySpec, layout: StoreLayout) -> None:
    shard = (layout.rows_per_shard, *spec.shape)
    chunk_rows = max(
        rows
        for rows in range(1, min(_ROWS_PER_CHUNK, layout.rows_per_shard) + 1)
        if layout.rows_per_shard % rows == 0
    )
    group.create_array(
        name,
        shape=(layout.n_rows, *spec.shape),
        chunks=(chunk_rows, *_chunk(spec)) if spec.sharded else shard,
        shards=shard if spec.sharded else None,
        dtype=spec.dtype,
        fill_value=spec.fill_value,
        dimension_names=("clip", *spec.dims[1:]),
        attributes={"description": spec.description},
    )


def _chunk(spec: ArraySpec) -> tuple[int, ...]:
    """Inner chunk of a clip: all of it, but of several layers one, as they are read one by one."""
    return (1, *spec.shape[1:]) if spec.dims[1] == "layer" else spec.shape


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: list(value) if isinstance(value, tuple) else value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat
