"""Whole files and parts of files, anywhere fsspec reaches."""

import errno
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.storage.retries import patience_s, with_retries

_EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "azure"),
}
"""Extra of this package that brings the driver of a protocol."""
_COPIED_AT_ONCE = 1 << 24
_LEAST_SILENCE_S = 5.0
"""Time that a web server has to answer, also where little patience was asked for."""


def open_filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Filesystem of a URL, and the URL's path in it; nothing is asked of the storage yet.

    A web server that sends nothing for `patience_s` isn't waited for any longer, and one that goes
    on sending is, unless fsspec's configuration has another ``timeout`` for its client.

    Raises
    ------
    ImportError
        If the protocol's driver isn't installed; names the extra that brings it.
    ValueError
        If no such protocol is known.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **filesystem_options(url))
    except ImportError as error:
        protocol = url.partition("://")[0]
        if protocol not in _EXTRAS:
            raise
        raise ImportError(
            f"no driver for {protocol}:// is installed: install the extra "
            f"{_EXTRAS[protocol]!r}, for example with pip install '.[{_EXTRAS[protocol]}]'"
        ) from error
    return filesystem, path


def filesystem_options(url: str) -> dict[str, Any]:
    """Give the options of a URL's filesystem: HTTP's client would give a whole file five minutes.

    Raises
    ------
    ImportError
        If HTTP's driver isn't installed.
    """
    protocol = url.partition("://")[0]
    if protocol not in ("http", "https"):
        return {}
    from aiohttp import ClientTimeout

    silence_s = max(_LEAST_SILENCE_S, patience_s())
    timeout = ClientTimeout(total=None, sock_connect=silence_s, sock_read=silence_s)
    # An option that is given replaces a user's whole, as fsspec would merge them by protocol.
    kind = fsspec.get_filesystem_class(protocol)
    configured = fsspec.config.apply_config(kind, {}).get("client_kwargs") or {}
    return {"client_kwargs": {"timeout": timeout, **configured}}


class RetryingReader(io.RawIOBase):
    """A file to read parts of, each as `with_retries` has it."""

    def __init__(self, filesystem: fsspec.AbstractFileSystem, path: str) -> None:
        """Open a file; raises as `with_retries` does."""
        self._path = path
        check_is_file(filesystem, path)
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


def check_is_file(filesystem: fsspec.AbstractFileSystem, path: str) -> None:
    """Refuse what would be waited for without end: a pipe, a socket or a device of this machine.

    A pipe that the shell has opened for this process, ``<(command)``, is none of these.

    Raises
    ------
    OSError
        When the path is such a thing; nothing when it isn't there.
    """
    if not isinstance(filesystem, LocalFileSystem):
        return
    local = Path(path)
    with suppress(FileNotFoundError, ValueError):
        mode = local.stat().st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            return
        if stat.S_ISFIFO(mode) and path.startswith(("/dev/fd/", "/proc/", "/dev/stdin")):
            return
        raise OSError(errno.ENXIO, "is a pipe, a socket or a device, expected a file")


def read_bytes(url: str, *, at_most: int | None = None) -> bytes:
    """Read a whole object; raises as `with_retries`, `check_is_file` and `open_filesystem` do.

    Parameters
    ----------
    at_most
        Most bytes to read; an object with more is refused with an `OSError`.
    """
    filesystem, path = open_filesystem(url)
    check_is_file(filesystem, path)

    def read() -> bytes:
        if at_most is None:
            return bytes(filesystem.cat_file(path))
        # A pipe that the shell has opened can't be sought in, as fsspec would.
        is_local = isinstance(filesystem, LocalFileSystem)
        with Path(path).open("rb") if is_local else filesystem.open(path, "rb") as file:
            data = bytes(file.read(at_most + 1))
        if len(data) > at_most:
            raise OSError(errno.EFBIG, f"has more than {at_most} bytes")
        return data

    return with_retries(url, read)


def write_bytes(url: str, data: bytes | memoryview) -> None:
    """Write a whole object, and its folder; raises as `with_retries` and `open_filesystem` do.

    A reader gets either the whole old object or the whole new one.
    """
    filesystem, path = open_filesystem(url)

    def write() -> None:
        if isinstance(filesystem, LocalFileSystem):
            with _replaced(Path(path)) as file:
                file.write(data)
            return
        with fsspec.open(url, "wb") as file:
            file.write(data)

    with_retries(url, write)


@contextmanager
def written_in_parts(url: str) -> Iterator[BinaryIO]:
    """Give a file that becomes a whole object, as by `write_bytes`, once it is left without error.

    For other storages than this machine's it is kept on this disk until then, so that the object
    can be written more than once.
    """
    filesystem, path = open_filesystem(url)
    if isinstance(filesystem, LocalFileSystem):
        with _replaced(Path(path)) as file:
            yield file
        return
    with tempfile.TemporaryFile() as kept:
        yield kept

        def write() -> None:
            kept.seek(0)
            with fsspec.open(url, "wb") as file:
                shutil.copyfileobj(kept, file, _COPIED_AT_ONCE)

        with_retries(url, write)


def delete_file(url: str) -> None:
    """Delete an object, if it is there; raises as `with_retries` and `open_filesystem` do.

    Its name is never a pattern.
    """
    filesystem, path = open_filesystem(url)
    with suppress(FileNotFoundError, NotADirectoryError):
        with_retries(url, lambda: filesystem.rm_file(path))
    filesystem.invalidate_cache(path)


def delete_tree(url: str) -> None:
    """Delete an object, or a folder with all that is below it; nothing, where nothing is there.

    Its name is never a pattern: ``lr[1]`` is that folder, and not ``lr1``.

    Raises
    ------
    OSError
        If this machine's disk refuses, or another storage lastingly.
    StorageError, CredentialsError, ImportError, ValueError
        As `with_retries` and `open_filesystem` do.
    """
    filesystem, path = open_filesystem(url)
    if isinstance(filesystem, LocalFileSystem):
        if os.path.lexists(path):
            filesystem.rm(path, recursive=True)
        return
    # It loads what runs coroutines, which a process that only decodes does without.
    from pipeline.storage.deleting import delete_remote_tree

    delete_remote_tree(filesystem, path)


def flush_to_disk(urls: Iterable[str]) -> None:
    """Have local files, and their names in their folders, survive a power cut from now on.

    Does nothing for other storages: they answer a write once it is durable.
    """
    folders = set()
    for url in urls:
        filesystem, path = open_filesystem(url)
        if not isinstance(filesystem, LocalFileSystem):
            return
        # Older stores have no object for a chunk of fill values.
        with suppress(FileNotFoundError):
            _fsync(Path(path))
            folders.add(Path(path).parent)
    for folder in folders:
        _fsync(folder)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _replaced(path: Path) -> Iterator[BinaryIO]:
    """Write beside a local file and rename, as object stores replace objects whole by themselves.

    A transaction of fsspec writes into the folder of temporary files. From another disk the file is
    then copied, and a reader may meet half of it.
    """
    path = path.resolve()  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        # A device is written to, and a folder refused.
        with path.open("wb") as file:
            yield file
        return
    partial = path.with_name(f".{uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            yield file
        with suppress(FileNotFoundError):
            shutil.copymode(path, partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
