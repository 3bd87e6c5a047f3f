"""Bytes of one clip, whole, or the reason why there are none.

Two kinds of failure are kept apart. What is true of the *clip* (no such object, no permission, a
directory, a name that no object can have) makes it a failed row. What is true of the *storage*
(it can't be reached, is overloaded, gives less than it says that it has, or doesn't know the
credentials any more) says nothing about the clip: it is tried again, and then ends the pass with a
`StorageError`. Nothing is marked as failed that only could not be reached, since a failed row
counts as done and isn't looked at again.

An answer can mean either: where a disk isn't mounted any more every clip is absent, and where a
permission was withdrawn every clip is refused. So a clip is absent or refused only while another
one, which was read before, is still there. What a disk says of a bad sector or a damaged inode it
also says when all of it is gone: a clip is at fault once that was said for as long as it was tried,
and another file can be read of the disk.
"""

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.clips.columns import DIGEST_BYTES
from pipeline.errors import CredentialsError, StorageError
from pipeline.status import DecodeError, Status
from pipeline.storage.files import open_filesystem
from pipeline.storage.retries import with_retries

_OF_ONE_FILE = {errno.EIO, errno.EBADMSG, errno.EOVERFLOW, getattr(errno, "EUCLEAN", errno.EIO)}
"""What a disk says of a file that it has damaged, and also when all of it is gone."""
_N_NEIGHBOURS = 8
"""Files of a clip's folder that are tried where no other clip is known."""


def digest_of(data: bytes) -> bytes:
    """Digest of a clip's bytes, by which a file is known to be the one that was read before.

    BLAKE2b of `DIGEST_BYTES`; a GB takes a second. It guards against files that change by accident.
    """
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


OTHER_FILE = "the file has changed since the run: its bytes are others"
"""What is said of a clip that is read again, and is another file by now."""


def check_same_file(data: bytes, digest: bytes | None) -> None:
    """Refuse a file that is another than the one that a run has read.

    Parameters
    ----------
    digest
        As the run stored it; None or zeros where it stored none.

    Raises
    ------
    ValueError
        On one line.
    """
    if digest is not None and any(digest) and digest_of(data) != digest:
        raise ValueError(OTHER_FILE)


KEY_BYTES = 16
"""Length of what `file_key` gives."""


def file_key(root: str, path: str) -> bytes | None:
    """Tell a clip from what it was before, and from others, without reading it.

    A digest of its path, its size, and its ETag or the times of its last changes. On a disk the
    time of its inode's last change is among them, which a copy that keeps times doesn't set back.

    Returns
    -------
    `KEY_BYTES`; None where the storage tells nothing of the kind, or there is no such clip

    Raises
    ------
    StorageError
        As `fetch_clip` does.
    """
    if "\0" in path:
        return None
    filesystem, location = locate(root, path)
    try:
        marks = with_retries(location, lambda: _marks(filesystem, location))
    except CredentialsError as error:
        raise StorageError(str(error)) from error
    except StorageError as error:
        if _errno_of_file(filesystem, error) is None:
            raise
        # So it will, where it can.
        return None
    except (OSError, ValueError):
        # Reading it will tell what is the matter.
        return None
    if marks is None:
        return None
    text = "\0".join((path, *map(str, marks)))
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=KEY_BYTES).digest()


def _marks(filesystem: fsspec.AbstractFileSystem, location: str) -> tuple[object, ...] | None:
    """Size of an object, and what changes whenever it is written; None if that isn't told."""
    if isinstance(filesystem, LocalFileSystem):
        # fsspec would tell the times of a link, and not of its file.
        told = Path(location).stat()
        return told.st_size, told.st_mtime_ns, told.st_ctime_ns
    filesystem.invalidate_cache(location)
    info = filesystem.info(location)
    marks = [info.get("ETag") or info.get("etag")]
    if marks == [None]:
        # Not HTTP's Last-Modified: a file may be written twice in its second.
        marks = [info.get(name) for name in ("mtime", "created")]
    if info.get("size") is None or not any(marks):
        return None
    return info["size"], *marks


LastRead = dict[str, str]
"""By root, the path of the clip that was read last."""


def fetch_clip(
    root: str,
    path: str,
    witness: str | None = None,
    *,
    last_read: LastRead | None = None,
    max_bytes: int | None = None,
) -> bytes:
    """Read all of a clip.

    Parameters
    ----------
    root
        The manifest's root, any fsspec URL.
    path
        The clip's path below the root, with ``/`` between its parts.
    witness
        Path of another clip, which was there before the run; see `pipeline.clips.reachable`.
    last_read
        The caller's record of what it has read: its last clip is another witness. A clip that is
        read takes that place.
    max_bytes
        Most bytes that a clip may have, by default any number. A larger one isn't read; of one
        whose size isn't told no more than this is.

    Raises
    ------
    DecodeError
        ``MISSING``, when there is no such object; ``UNREADABLE``, when it is a directory, may not
        be read, has a name that no file can have, or is damaged on a disk of which another file can
        be read; ``CRASHED``, when it has more than ``max_bytes``. The message is the same at every
        try.
    StorageError
        When the storage failed for as long as it was tried, doesn't know the credentials, or
        doesn't give clips any more that it gave before.
    """
    if "\0" in path:
        raise DecodeError(Status.UNREADABLE, f"no file has a NUL in its name: {path!r}")
    filesystem, location = locate(root, path)
    try:
        data = with_retries(location, lambda: _read_whole(filesystem, location, max_bytes))
    except CredentialsError as error:
        raise StorageError(str(error)) from error
    except _TooLargeError as error:
        raise DecodeError(Status.CRASHED, str(error)) from error
    except StorageError as error:
        number = _errno_of_file(filesystem, error)
        known = ((last_read or {}).get(root), witness)
        if number is None or not _is_disk_there(root, location, known):
            raise
        message = f"can't read {location}: {os.strerror(number)}"
        raise DecodeError(Status.UNREADABLE, message) from error
    except (OSError, ValueError) as error:
        if not isinstance(error, OSError) and not _is_of_url(error):
            raise
        failure = _failure(location, error)
        if failure.of_answer:
            known = ((last_read or {}).get(root), witness)
            _check_witnesses(filesystem, root, path, known, failure.message)
        raise DecodeError(failure.status, failure.message) from error
    if last_read is not None:
        last_read[root] = path
    return data


def locate(root: str, path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Filesystem of a clip and its path in it; nothing is asked of the storage yet."""
    # The path is joined after the URL is parsed: its `?`, `#` or `::` are characters of a name.
    filesystem, base = open_filesystem(root)
    if _is_http(filesystem):
        # Here the filesystem parses URLs itself. What is escaped already stays as it is.
        path = quote(path, safe="/%:@!$&'()*+,;=~[] ")
    return filesystem, f"{base.rstrip('/')}/{path}"


def is_on_disk(root: str) -> bool:
    """Whether clips below a root are files of this machine."""
    return isinstance(open_filesystem(root)[0], LocalFileSystem)


def _is_http(filesystem: fsspec.AbstractFileSystem) -> bool:
    """Whether a filesystem is that of plain HTTP.

    The module isn't imported for the question: it loads an HTTP client, in a quarter of a second of
    every process that reads clips of a disk.
    """
    module = sys.modules.get("fsspec.implementations.http")
    return module is not None and isinstance(filesystem, module.HTTPFileSystem)


def _is_of_url(error: ValueError) -> bool:
    """Whether an error is aiohttp's, of a URL that no request can be made of."""
    return any(base.__name__ == "InvalidURL" for base in type(error).__mro__)


def is_there(filesystem: fsspec.AbstractFileSystem, location: str) -> bool:
    """Whether a clip can be read, found out by as little as can be asked for.

    Raises
    ------
    OSError
        As `with_retries` does; `FileNotFoundError` is the answer no.
    StorageError
        As `with_retries` does.
    """

    def look() -> bool:
        if isinstance(filesystem, LocalFileSystem):
            # A pipe would be waited for.
            os.close(os.open(location, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)))
            return True
        if _is_http(filesystem):
            # HEAD is refused by some servers, and its answer never says why.
            filesystem.cat_file(location, start=0, end=1)
            return True
        filesystem.info(location)
        return True

    try:
        return with_retries(location, look)
    except (FileNotFoundError, NotADirectoryError):
        return False


@dataclass(frozen=True)
class _Failure:
    """What an error of the driver means for one clip."""

    status: Status
    message: str
    of_answer: bool
    """Whether a storage that is away or closed would give the same answer."""


def _failure(location: str, error: OSError | ValueError) -> _Failure:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return _Failure(Status.MISSING, f"no object at {location}", of_answer=True)
    if isinstance(error, IsADirectoryError):
        return _Failure(Status.UNREADABLE, f"{location} is a directory", of_answer=False)
    if isinstance(error, PermissionError):
        return _Failure(Status.UNREADABLE, f"no permission to read {location}", of_answer=True)
    number = error.errno if isinstance(error, OSError) else None
    # Not the storage's own words, in which there may be the id of a request.
    reason = os.strerror(number) if number else type(error).__name__
    if number == errno.EBADMSG:
        reason = str(getattr(error, "strerror", reason))
    return _Failure(
        Status.UNREADABLE, f"can't open {location}: {reason}", of_answer=number == errno.EBADMSG
    )


def _check_witnesses(
    filesystem: fsspec.AbstractFileSystem,
    root: str,
    path: str,
    witnesses: Iterable[str | None],
    message: str,
) -> None:
    """Raise a `StorageError` where no clip can be read any more that could be read before."""
    known = [known for known in witnesses if known and known != path]
    for other in known:
        with suppress(OSError, ValueError):
            if is_there(filesystem, locate(root, other)[1]):
                return
    if known:
        raise StorageError(f"{message}, nor is {known[0]} to be had, which was read before")
    if isinstance(filesystem, LocalFileSystem) and not holds_something(root):
        raise StorageError(f"{message}, and nothing at all is in {root}")


def holds_something(root: str) -> bool:
    """Whether a local folder is there and isn't empty, as that of a disk that isn't mounted is."""
    _, base = open_filesystem(root)
    try:
        with os.scandir(base) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def _errno_of_file(filesystem: fsspec.AbstractFileSystem, error: StorageError) -> int | None:
    """Errno by which a disk may mean one file, which it said to the end; None for all else."""
    behind = error.__cause__
    if not isinstance(filesystem, LocalFileSystem) or not isinstance(behind, OSError):
        return None
    return behind.errno if behind.errno in _OF_ONE_FILE else None


def _is_disk_there(root: str, location: str, known: Iterable[str | None]) -> bool:
    """Whether another clip, or another file of a clip's folder, can be read of the disk."""
    clips = (locate(root, path)[1] for path in known if path)
    others = (*clips, *_neighbours(location))
    return any(map(_is_read_of_disk, (other for other in others if other != location)))


def _neighbours(location: str) -> Iterator[str]:
    # A location stays the text that it is: pathlib would take parts of some names for others.
    with suppress(OSError), os.scandir(os.path.dirname(location)) as entries:  # noqa: PTH120
        for _, entry in zip(range(_N_NEIGHBOURS + 1), entries, strict=False):
            yield entry.path


def _is_read_of_disk(location: str) -> bool:
    """Whether bytes of a file come, and from the disk: memory holds what was read last."""
    try:
        # A pipe would be waited for.
        if not stat.S_ISREG(os.stat(location).st_mode):  # noqa: PTH116  a text, as above
            return False
        descriptor = os.open(location, os.O_RDONLY)
        try:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            return bool(os.read(descriptor, 4096))
        finally:
            os.close(descriptor)
    except OSError:
        return False


class _TooLargeError(OSError):
    """A clip has more bytes than it may."""

    def __init__(self, n_bytes: int | None, max_bytes: int) -> None:
        told = "more" if n_bytes is None else f"{n_bytes} bytes, more"
        super().__init__(f"the file has {told} than decode_memory, {max_bytes} bytes")
        self.errno = errno.EFBIG


def _read_whole(
    filesystem: fsspec.AbstractFileSystem, location: str, max_bytes: int | None
) -> bytes:
    """Read an object and hold what came against the size that it has.

    Drivers miss the end of a body that a middlebox cut and declared again; and a clip cut short may
    decode to its first frames. Asking for the range keeps s3fs from asking for the size again, and
    from filling what is missing of a large object with zeros. Over plain HTTP the answer to reading
    tells its size, and the client holds the body against it: asking before would double the
    requests, and the answer to HEAD doesn't say why there is none.

    Raises
    ------
    _TooLargeError
        When it has more than ``max_bytes``; others as the driver does.
    """
    if _is_http(filesystem):
        if max_bytes is None:
            return bytes(filesystem.cat_file(location))
        from fsspec.asyn import sync

        return bytes(sync(filesystem.loop, _read_answer, filesystem, location, max_bytes))
    size = _size(filesystem, location)
    if size == 0:
        return b""
    if max_bytes is not None and size is not None and size > max_bytes:
        raise _TooLargeError(size, max_bytes)
    end = max_bytes + 1 if size is None and max_bytes is not None else size
    data: bytes = filesystem.cat_file(location, start=0, end=end)
    if size is not None and len(data) != size:
        raise OSError(errno.EIO, f"{len(data)} of {size} bytes came")
    if max_bytes is not None and len(data) > max_bytes:
        raise _TooLargeError(None, max_bytes)
    return data


async def _read_answer(filesystem: Any, url: str, max_bytes: int) -> bytes:
    """Read what a server sends, as fsspec does, and no more than may be."""
    session = await filesystem.set_session()
    async with session.get(filesystem.encode_url(url), **filesystem.kwargs) as answer:
        filesystem._raise_not_found_for_status(answer, url)
        if (answer.content_length or 0) > max_bytes:
            raise _TooLargeError(answer.content_length, max_bytes)
        parts: list[bytes] = []
        n_bytes = 0
        async for part in answer.content.iter_any():
            n_bytes += len(part)
            if n_bytes > max_bytes:
                raise _TooLargeError(None, max_bytes)
            parts.append(part)
    return b"".join(parts)


def _size(filesystem: fsspec.AbstractFileSystem, location: str) -> int | None:
    """Size of an object in bytes; None where the storage doesn't tell."""
    try:
        info = filesystem.info(location)
    except OSError as error:
        # The answer has no body that would say why: reading it will.
        if isinstance(error, PermissionError) or error.errno == errno.EINVAL:
            return None
        raise
    if info["type"] == "directory":
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), location)
    if info["type"] == "other":
        # A pipe would be waited for.
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), location)
    size = info.get("size")
    return None if size is None else int(size)
