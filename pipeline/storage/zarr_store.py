"""Zarr stores whose every access is tried again while it fails in a way that may pass."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from fsspec.asyn import AsyncFileSystem
from fsspec.spec import AbstractFileSystem
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, WrapperStore

from pipeline.storage.deleting import delete_file_async, delete_tree_async
from pipeline.storage.files import filesystem_options, open_filesystem
from pipeline.storage.retries import _T, with_retries_async

_OPTIONS = {"s3": {"max_concurrency": 1}, "s3a": {"max_concurrency": 1}}
"""Of drivers, by protocol. s3fs asks for the size of each object before it reads it, to read large
ones in parts side by side. Those of a store are not large, and are read side by side already."""


class RetryingStore(WrapperStore[FsspecStore]):
    """A Zarr store on remote storage whose every access is as `with_retries` has it."""

    def __str__(self) -> str:
        return str(self._store)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Value of a key; None where there is no such key, never where it can't be read."""
        return await self._retry(key, lambda: self._store.get(key, prototype, byte_range))

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Parts of values, in order."""
        ranges = list(key_ranges)
        return [await self.get(key, prototype, byte_range) for key, byte_range in ranges]

    async def exists(self, key: str) -> bool:
        """Whether there is a key."""
        return await self._retry(key, lambda: self._store.exists(key))

    async def set(self, key: str, value: Buffer) -> None:
        """Write a value."""
        await self._retry(key, lambda: self._store.set(key, value))

    # The inner store's would take a name for a pattern, see `pipeline.storage.deleting`.
    async def delete(self, key: str) -> None:
        """Remove a key."""
        self._check_writable()
        await delete_file_async(self._store.fs, self._path(key))

    async def delete_dir(self, prefix: str) -> None:
        """Remove every key below a prefix."""
        self._check_writable()
        await delete_tree_async(self._store.fs, self._path(prefix))

    async def clear(self) -> None:
        """Remove every key."""
        await self.delete_dir("")

    async def is_empty(self, prefix: str) -> bool:
        """Whether no key is below a prefix."""
        return await self._retry(prefix, lambda: self._store.is_empty(prefix))

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Keys and prefixes below a prefix."""
        for key in await self._listed(prefix, self._store.list_dir):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Every key that begins with a prefix."""
        for key in await self._listed(prefix, self._store.list_prefix):
            yield key

    @property
    def lists_at_once(self) -> bool:
        """Whether all below a prefix takes a few requests, as of object stores.

        Other filesystems are listed folder by folder, and fsspec passes over folders that it
        couldn't ask about.
        """
        filesystem = getattr(self._store.fs, "sync_fs", self._store.fs)
        if isinstance(filesystem, AsyncFileSystem):
            return type(filesystem)._find is not AsyncFileSystem._find
        return type(filesystem).find is not AbstractFileSystem.find

    # The inner store's would bypass the methods above.
    set_if_not_exists = Store.set_if_not_exists
    _get_many = Store._get_many
    _set_many = Store._set_many

    def _path(self, key: str) -> str:
        """Path of a key in the filesystem."""
        return f"{self._store.path.rstrip('/')}/{key}".rstrip("/")

    async def _listed(self, prefix: str, listing: Callable[[str], AsyncIterator[str]]) -> list[str]:
        async def listed() -> list[str]:
            return [key async for key in listing(prefix)]

        return await self._retry(prefix, listed)

    async def _retry(self, key: str, access: Callable[[], Awaitable[_T]]) -> _T:
        return await with_retries_async(f"{self._store.path}/{key}", access)


class UnreadStore(WrapperStore[Store]):
    """A Zarr store in which nothing is found, for writing whole objects.

    Zarr reads a shard before it writes it, whatever is written of it.
    """

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Nothing, without a request."""
        return None


def zarr_location(url: str) -> str | Store:
    """Give what Zarr opens for a URL: a path, or a store that tries again.

    Raises
    ------
    ImportError, ValueError
        As `open_filesystem` does.
    """
    if url.startswith("file://") or "://" not in url:
        # fsspec's local filesystem makes no folders, zarr's own does.
        return os.path.expanduser(url.removeprefix("file://"))  # noqa: PTH111  of a text as it is
    open_filesystem(url)
    options = _OPTIONS.get(url.partition("://")[0], {}) | filesystem_options(url)
    return RetryingStore(FsspecStore.from_url(url, storage_options=options))
