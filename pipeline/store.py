"""The Zarr store of a run: its schema, and the contract by which shards are written once.

Row i of every array is row i of the manifest. ``rows_per_shard`` consecutive rows form a shard:
each array's storage chunk spans exactly a shard's rows, so a shard is one object per array and two
writers of different shards share none. A shard's data is written first and its ``status`` last:
``status`` is the commit mark, and the only state that a resumed run reads.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.group import Group

from pipeline.errors import RunMismatchError, StoreError, reason_of
from pipeline.status import Status
from pipeline.storage import open_filesystem, with_retries, zarr_location

SCHEMA = {"name": "staa", "version": 1}
"""Marks a group as a store of this product; the version changes with the arrays' meaning."""

STORE_NAME = "attributions.zarr"
"""Name of the store in a run's folder."""

_STORAGE_ERRORS = (OSError, ValueError, ImportError)
"""What fsspec and zarr raise of a URL: no access, no such protocol, no driver of it installed."""

_ROWS_PER_CHUNK = 32
"""At most this many rows are read to get one: the inner chunk of the sharded arrays."""


@dataclass(frozen=True)
class ArraySpec:
    """Template of one array: dimension names, the sizes behind ``clip``, dtype and fill value."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    fill_value: float | str
    description: str
    sharded: bool = False


@dataclass(frozen=True)
class StoreLayout:
    """Sizes of a store's dimensions."""

    n_rows: int
    rows_per_shard: int
    n_frames: int
    n_times: int
    height: int
    width: int
    n_ranks: int

    @property
    def n_shards(self) -> int:
        """Shards in the store; the last one may have fewer rows."""
        return -(-self.n_rows // self.rows_per_shard)

    def shard_rows(self, shard: int) -> range:
        """Rows of a shard."""
        start = shard * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, self.n_rows))

    def arrays(self) -> dict[str, ArraySpec]:
        """Template of every array, by name."""
        time, ranks, frames = (self.n_times,), (self.n_ranks,), (self.n_frames,)
        grid = (self.n_times, self.height, self.width)
        nan = float("nan")
        return {
            "status": ArraySpec(("clip",), (), "uint8", 0, "what became of the clip"),
            "message": ArraySpec(("clip",), (), "str", "", "why the clip failed"),
            "video_id": ArraySpec(("clip",), (), "str", "", "id in the manifest"),
            "start_time": ArraySpec(
                ("clip",), (), "float64", nan, "where the clip starts in its source video, s"
            ),
            "frame_index": ArraySpec(
                ("clip", "frame"), frames, "int32", -1, "frames of the clip that the model saw"
            ),
            "spatial": ArraySpec(
                ("clip", "time", "y", "x"),
                grid,
                "float16",
                nan,
                "S: where in each frame the model attends; sums to 1 over (y, x)",
                sharded=True,
            ),
            "temporal": ArraySpec(
                ("clip", "time"), time, "float32", nan, "T: when it attends; sums to 1"
            ),
            "label": ArraySpec(("clip",), (), "int32", -1, "class of the manifest, -1 if unknown"),
            "prediction": ArraySpec(("clip",), (), "int32", -1, "most probable class"),
            "probability": ArraySpec(("clip",), (), "float32", nan, "of the predicted class"),
            "label_probability": ArraySpec(("clip",), (), "float32", nan, "of the labelled class"),
            "top_classes": ArraySpec(
                ("clip", "rank"), ranks, "int32", -1, "most probable classes, best first"
            ),
            "top_probabilities": ArraySpec(
                ("clip", "rank"), ranks, "float32", nan, "their probabilities"
            ),
        }


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
    if group.attrs.get("schema") is None:
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
        raise RunMismatchError(
            f"out: the store at {group.store} was made by another run: {'; '.join(differences)}. "
            "Choose another folder, or delete that one"
        )


def pending_shards(group: Group) -> NDArray[np.int64]:
    """Shards with a row that is pending, in order: int64 (shards,)."""
    layout = store_layout(group)
    status: Any = group["status"]
    rows = np.flatnonzero(status[:] == Status.PENDING)
    return np.unique(rows // layout.rows_per_shard)


def write_shard(group: Group, columns: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]) -> None:
    """Write one shard: its data, then its ``status``, after which it counts as done.

    Parameters
    ----------
    columns
        Every array of the store by name, each of the shard's rows.
    rows
        Row numbers of the columns; exactly the rows of one shard.

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
    if (columns["status"] == Status.PENDING).any():
        raise StoreError(f"shard at row {shard.start}: a row to be written is still pending")

    def write(name: str) -> None:
        array: Any = group[name]
        array[shard.start : shard.stop] = columns[name]

    # One object each: on object storage the time is the round trips', so they go side by side.
    with ThreadPoolExecutor(max_workers=len(templates)) as pool:
        list(pool.map(write, templates.keys() - {"status"}))
    write("status")


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
        chunks=(chunk_rows, *spec.shape) if spec.sharded else shard,
        shards=shard if spec.sharded else None,
        dtype=spec.dtype,
        fill_value=spec.fill_value,
        dimension_names=("clip", *spec.dims[1:]),
        attributes={"description": spec.description},
    )


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: list(value) if isinstance(value, tuple) else value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat
