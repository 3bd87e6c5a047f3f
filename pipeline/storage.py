"""Storage as it is: which filesystem a URL means, what is tried again and how long.

Drivers try again for some seconds (botocore five times, as ``AWS_MAX_ATTEMPTS`` says). Stores
throttle and fail for longer, and no driver does so for all errors: s3fs gives up on a refused
connection at once. So every access goes through `with_retries`, or `RetryingStore` for Zarr.

An error either *lasts*, as does a missing object or a lack of permission, and is raised as it is;
or it may be gone at the next try. Errors are of three drivers' own classes and grow with them, so
it is the lasting ones that are listed: anything else is tried again, with exponential backoff and
full jitter, for `patience_s`, and then becomes a `StorageError`.
"""

import errno
import io
import logging
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, WrapperStore

from pipeline.credentials import without_credentials
from pipeline.errors import CredentialsError, StaaError, StorageError, reason_of

PATIENCE_VARIABLE = "STAA_STORAGE_PATIENCE_S"
"""Environment variable that says how long a failing access is tried again, s; 60 by default."""

_FIRST_WAIT_S = 0.4
_LONGEST_WAIT_S = 10.0

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")

_LASTING = (
    *(FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError, PermissionError),
    # Faults of a call, a URL or an installation.
    *(ImportError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError),
    *(StaaError, StorageError),
)
_LASTING_CODES = {
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.EINVAL, errno.EMSGSIZE, errno.ENOSYS),
    *(errno.EFBIG, errno.ENOSPC),
    *(errno.EDQUOT, errno.EROFS, errno.ENOTEMPTY, getattr(errno, "EREMCHG", 0)),
}
_DAMAGED_ON_THE_WAY = {"BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}
"""S3's codes of requests that arrived damaged; s3fs gives them the errno of a wrong request."""

_CREDENTIALS = {
    # S3's codes
    *("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"),
    *("SignatureDoesNotMatch", "RequestTimeTooSkewed", "AuthorizationHeaderMalformed"),
    # Exceptions of botocore, google-auth and azure-identity
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"),
    *("ProfileNotFound", "TokenRetrievalError", "SSOError"),
    *("DefaultCredentialsError", "RefreshError", "ClientAuthenticationError"),
}
_EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "azure"),
}
"""Extra of this package that brings the driver of a protocol."""


def open_filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Filesystem of a URL, and the URL's path in it; nothing is asked of the storage yet.

    Raises
    ------
    ImportError
        If the protocol's driver isn't installed; names the extra that brings it.
    ValueError
        If no such protocol is known.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        protocol = url.partition("://")[0]
        if protocol not in _EXTRAS:
            raise
        raise ImportError(
            f"no driver for {protocol}:// is installed: install the extra "
            f"{_EXTRAS[protocol]!r}, for example with pip install '.[{_EXTRAS[protocol]}]'"
        ) from error
    return filesystem, path


def with_retries(where: str, access: Callable[[], _T]) -> _T:
    """Access a storage, and again while it fails in a way that may pass.

    Parameters
    ----------
    where
        What is accessed, for messages.
    access
        Called until it succeeds, so doing it twice must be the same as doing it once.

    Raises
    ------
    StorageError
        If it failed for longer than `patience_s`.
    CredentialsError
        If the storage doesn't know the credentials, or there are none.
    OSError
        Any that lasts, as the driver raised it.
    """
    try:
        return Retrying(**_policy(where))(access)
    except Exception as error:
        _raise_explained(where, error)
        raise


class RetryingReader(io.RawIOBase):
    """A file to read parts of, each as `with_retries` has it."""

    def __init__(self, filesystem: fsspec.AbstractFileSystem, path: str) -> None:
        """Open a file; raises as `with_retries` does."""
        self._path = path
        self._file = with_retries(path, lambda: filesystem.open(path, "rb"))

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can be read from any place."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place in the file."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Place in the file."""
        return int(self._file.tell())

    def read(self, size: int = -1) -> bytes:
        """Bytes from here on."""
        start = self.tell()

        def read() -> bytes:
            self._file.seek(start)
            data: bytes = self._file.read(size)
            return data

        return with_retries(self._path, read)

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._file.close()
        super().close()


def read_bytes(url: str) -> bytes:
    """Read a whole object; raises as `with_retries` and `open_filesystem` do."""
    filesystem, path = open_filesystem(url)
    data: bytes = with_retries(url, lambda: filesystem.cat_file(path))
    return data


def write_bytes(url: str, data: bytes | memoryview) -> None:
    """Write a whole object, and its folder; raises as `with_retries` and `open_filesystem` do.

    Who reads meanwhile gets the whole of what was there before, or of what is there now.
    """
    filesystem, path = open_filesystem(url)

    def write() -> None:
        if isinstance(filesystem, LocalFileSystem):
            _replace_file(Path(path), data)
            return
        with fsspec.open(url, "wb") as file:
            file.write(data)

    with_retries(url, write)


def _replace_file(path: Path, data: bytes | memoryview) -> None:
    """Write beside a local file and rename: an object store does the like of itself.

    A transaction of fsspec writes into the folder of temporary files, which may be of another disk,
    and then copied from there: a reader meets half of it.
    """
    path = path.resolve()  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        # A device is written to, and a folder refused.
        path.write_bytes(data)
        return
    partial = path.with_name(f".{uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
        with suppress(FileNotFoundError):
            shutil.copymode(path, partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def patience_s() -> float:
    """How long a failing access is tried again, s.

    Raises
    ------
    ValueError
        If the environment variable holds no number.
    """
    return float(os.environ.get(PATIENCE_VARIABLE, "60"))


def is_transient(error: BaseException) -> bool:
    """Whether the same access may succeed a little later."""
    names = _names(error)
    if names & _CREDENTIALS:
        return False
    if names & _DAMAGED_ON_THE_WAY:
        return True
    if isinstance(error, OSError) and error.errno in _LASTING_CODES:
        return False
    return isinstance(error, Exception) and not isinstance(error, _LASTING)


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

    async def delete(self, key: str) -> None:
        """Remove a key."""
        await self._retry(key, lambda: self._store.delete(key))

    async def delete_dir(self, prefix: str) -> None:
        """Remove every key below a prefix."""
        await self._retry(prefix, lambda: self._store.delete_dir(prefix))

    async def is_empty(self, prefix: str) -> bool:
        """Whether no key is below a prefix."""
        return await self._retry(prefix, lambda: self._store.is_empty(prefix))

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Keys and prefixes below a prefix."""

        async def listed() -> list[str]:
            return [key async for key in self._store.list_dir(prefix)]

        for key in await self._retry(prefix, listed):
            yield key

    # The inner store's would bypass the methods above.
    _get_many = Store._get_many
    _set_many = Store._set_many

    async def _retry(self, key: str, access: Callable[[], Awaitable[_T]]) -> _T:
        where = f"{self._store.path}/{key}"

        # What isn't declared to be a coroutine function isn't awaited.
        async def awaited() -> _T:
            return await access()

        try:
            return await AsyncRetrying(**_policy(where))(awaited)
        except Exception as error:
            _raise_explained(where, error)
            raise


def zarr_location(url: str) -> str | Store:
    """Give what Zarr opens for a URL: a path, or a store that tries again.

    Raises
    ------
    ImportError, ValueError
        As `open_filesystem` does.
    """
    if url.startswith("file://") or "://" not in url:
        # fsspec's local filesystem makes no folders, zarr's own does.
        return url.removeprefix("file://")
    open_filesystem(url)
    return RetryingStore(FsspecStore.from_url(url))


def _policy(where: str) -> dict[str, Any]:
    def log(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            _LOGGER.warning("%s; trying again", _failure(where, error))

    return {
        "retry": retry_if_exception(is_transient),
        # Full jitter: workers that were refused together don't come back together.
        "wait": wait_random_exponential(_FIRST_WAIT_S, max=_LONGEST_WAIT_S),
        "stop": stop_after_delay(patience_s()),
        "before_sleep": log,
        "reraise": True,
    }


def _raise_explained(where: str, error: Exception) -> None:
    """Raise our own error in place of a driver's, if this one doesn't say enough."""
    if _names(error) & _CREDENTIALS:
        raise CredentialsError(_failure(where, error)) from error
    if is_transient(error):
        raise StorageError(_failure(where, error)) from error


def _failure(where: str, error: BaseException) -> str:
    reason = reason_of(error) if isinstance(error, Exception) else type(error).__name__
    return without_credentials(f"{where}: {reason}")


def _names(error: BaseException) -> set[str]:
    """Class names of an error, and the storage's codes of it and of its cause."""
    names = {base.__name__ for base in type(error).__mro__}
    for part in (error, error.__cause__):
        response = getattr(part, "response", None)
        if isinstance(response, dict):
            names.add(str(response.get("Error", {}).get("Code")))
    return names
