"""Creating and opening the Zarr store of a run."""

from collections.abc import Mapping
from typing import Any, Literal

import zarr
from zarr.core.group import Group

from pipeline.errors import StoreError, reason_of
from pipeline.storage.files import open_filesystem
from pipeline.storage.retries import with_retries
from pipeline.storage.zarr_store import zarr_location
from pipeline.store.record import SCHEMA
from pipeline.store.schema import ArraySpec, StoreLayout

_STORAGE_ERRORS = (OSError, ValueError, ImportError)
"""What fsspec and zarr raise of a URL: no access, no such protocol, no driver of it installed."""

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
