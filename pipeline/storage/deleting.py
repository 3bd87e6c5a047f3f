"""Deletes what is below a path of a storage that isn't this machine's disk, and nothing else.

fsspec's own ``rm``, and so zarr's, takes ``[1]``, ``*`` and ``?`` in a path for a pattern: to
delete ``lr[1]`` it deletes ``lr1``. Here objects are listed, and each is deleted by its name.
"""

import asyncio
import errno
import os
from contextlib import suppress
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.asyn import sync
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

from pipeline.storage.retries import with_retries_async

_DELETED_AT_ONCE = 32
"""Objects that are deleted at once. S3 deletes a thousand by one request, but s3fs doesn't tell
which of them it refuses to delete."""
_LISTINGS = 3
"""An object may have the name of a folder, and is seen once the folder is empty."""


def delete_remote_tree(filesystem: AbstractFileSystem, path: str) -> None:
    """Delete an object, or a folder with all that is below it; nothing, where nothing is there.

    Raises
    ------
    StorageError, CredentialsError, OSError
        As `with_retries` does, for the first object that isn't deleted.
    """
    if not filesystem.async_impl:
        filesystem = AsyncFileSystemWrapper(filesystem, asynchronous=False)
    sync(filesystem.loop, delete_tree_async, filesystem, path)


async def delete_tree_async(filesystem: Any, path: str) -> None:
    """Do the same on an asynchronous filesystem, whose loop this runs on; raises the same."""
    for _ in range(_LISTINGS):
        # What wraps another filesystem has no listings of its own to forget.
        getattr(filesystem, "sync_fs", filesystem).invalidate_cache(path)
        found = await _listed(filesystem, path)
        # What ends in a slash marks a folder in an object store, and can't be named to fsspec.
        objects = [
            name
            for name, info in found.items()
            if info.get("type") != "directory" and not name.endswith("/")
        ]
        if not objects:
            await _delete_folders(filesystem, found.keys())
            return
        await _delete_objects(filesystem, objects)
    raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)


async def delete_file_async(filesystem: Any, path: str) -> None:
    """Delete an object, if it is there; raises as `delete_remote_tree` does."""
    with suppress(FileNotFoundError):
        await with_retries_async(path, lambda: filesystem._rm_file(path))


async def _listed(filesystem: Any, path: str) -> dict[str, dict[str, Any]]:
    """List what is at a path and below it, as fsspec names it; an object's may be told nothing."""

    async def listed() -> dict[str, dict[str, Any]]:
        try:
            return dict(await filesystem._find(path, withdirs=True, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return {}

    return await with_retries_async(path, listed)


async def _delete_objects(filesystem: Any, paths: list[str]) -> None:
    # A driver that isn't asynchronous may have one connection for all.
    at_once = 1 if isinstance(filesystem, AsyncFileSystemWrapper) else _DELETED_AT_ONCE
    for start in range(0, len(paths), at_once):
        part = (delete_file_async(filesystem, path) for path in paths[start : start + at_once])
        # All are waited for, so that none is still being deleted after an error.
        for outcome in await asyncio.gather(*part, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome


async def _delete_folders(filesystem: Any, paths: Any) -> None:
    """Delete folders that are empty but for one another, where the storage has folders at all."""
    if not isinstance(filesystem, AsyncFileSystemWrapper):
        # An object store; to remove a "folder" of it may mean the bucket.
        return
    for path in sorted(paths, reverse=True):
        with suppress(FileNotFoundError):
            await filesystem._rmdir(path)
