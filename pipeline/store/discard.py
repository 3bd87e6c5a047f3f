"""Deleting a run: its store, and what was derived from it, and nothing else in its folder."""

import zarr

from pipeline.errors import StoreError, reason_of
from pipeline.storage.files import delete_tree, open_filesystem
from pipeline.storage.zarr_store import zarr_location
from pipeline.store.record import SCHEMA
from pipeline.store.run_folder import DERIVED_NAMES, in_run, store_url


def discard_run(run_url: str) -> None:
    """Delete what a run has stored, if anything, so that `create_store` can make it again.

    The caller knows of a Zarr group there that it is a store of this product. The store loses its
    identity first, and stays as one whose creation was cut off: cut off at any moment, this leaves
    a store that is neither resumed nor in the way.

    Raises
    ------
    StoreError
        If something can't be deleted; names it.
    StorageError
        If the storage stays away.
    """
    store = store_url(run_url)
    try:
        group = zarr.open_group(zarr_location(store), mode="r+")
    except FileNotFoundError:
        return
    try:
        group.attrs.put({"schema": SCHEMA})
        filesystem, path = open_filesystem(store)
        filesystem.invalidate_cache()
        names = map(_name, filesystem.ls(path, detail=False))
        # The group's own zarr.json says that this is a store; `create_store` replaces it.
        arrays = [in_run(store, name) for name in names if name != "zarr.json"]
        for url in (*arrays, *(in_run(run_url, name) for name in DERIVED_NAMES)):
            delete_tree(url)
    except (OSError, ValueError) as error:
        raise StoreError(f"out: can't delete the run in {run_url}: {reason_of(error)}") from error


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
