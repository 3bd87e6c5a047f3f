"""Creating the Zarr store of a run from its template."""

import warnings

import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.group import Group

from pipeline.errors import StoreError, reason_of
from pipeline.storage.zarr_store import zarr_location
from pipeline.store.opening import STORAGE_ERRORS, Absent, Store, Unfinished, find_store
from pipeline.store.record import SCHEMA, RunRecord
from pipeline.store.schema import ArraySpec, StoreLayout

_ROWS_PER_CHUNK = 32
"""At most this many rows are read to get one: the inner chunk of the sharded arrays."""


def create_store(url: str, record: RunRecord) -> Store:
    """Create a store from its template: every array, no data.

    The identity is written last, so that a creation that was cut off is seen as one and repeated.

    Raises
    ------
    StoreError
        If the target can't be written, or holds something else.
    """
    target = find_store(url)
    if not isinstance(target, Absent | Unfinished):
        raise StoreError(f"out: {url} is there already: can't create a store there")
    try:
        group = zarr.create_group(
            zarr_location(url),
            overwrite=isinstance(target, Unfinished),
            attributes={"schema": SCHEMA},
        )
        for name, spec in record.layout.arrays().items():
            create_array(group, name, spec, record.layout)
        group.update_attributes(record.to_attributes())
    except STORAGE_ERRORS as error:
        raise StoreError(f"out: can't create a store at {url}: {reason_of(error)}") from error
    return Store(url, group, record)


def create_array(group: Group, name: str, spec: ArraySpec, layout: StoreLayout) -> None:
    """Create an array from its template; an object for each shard, and no data.

    The checksum is outermost, and sees every flipped bit; Zstandard's own lets those pass that its
    header ignores. lz4 with bitshuffle read no faster here, and took 3 % more space.
    """
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
        compressors=[ZstdCodec(level=0), *([Crc32cCodec()] if layout.checksums else [])],
        dimension_names=("clip", *spec.dims[1:]),
        attributes={"description": spec.description},
    )


def consolidate(store: Store) -> None:
    """Put the metadata of every array beside the group's, for readers that open all at once.

    For a run that is complete: `unconsolidate` it before rows are appended or set pending.

    Raises
    ------
    StoreError
        If the storage refuses.
    """
    try:
        there = zarr.open_group(store.group.store, path=store.group.path, mode="r")
        if there.metadata.consolidated_metadata is not None:
            return
        with warnings.catch_warnings():
            # That it is no part of the format: readers do without where they don't know it.
            warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
            zarr.consolidate_metadata(store.group.store, path=store.group.path)
    except STORAGE_ERRORS as error:
        raise StoreError(f"can't write {store.url}/zarr.json: {reason_of(error)}") from error


def unconsolidate(store: Store) -> None:
    """Take away what `consolidate` has put there, if it has.

    Raises
    ------
    StoreError
        If the storage refuses.
    """
    try:
        # It was opened without them, and is written as it was opened.
        store.group.update_attributes({})
    except STORAGE_ERRORS as error:
        raise StoreError(f"can't write {store.url}/zarr.json: {reason_of(error)}") from error


def _chunk(spec: ArraySpec) -> tuple[int, ...]:
    """Inner chunk of a clip: all of it, but of several layers one, as they are read one by one."""
    return (1, *spec.shape[1:]) if spec.dims[1] == "layer" else spec.shape
