"""Bytes of one clip, whole, or the reason why there are none.

Two kinds of failure are kept apart. What is true of the *clip* (no such object, no permission, a
directory, a name that no object can have) makes it a failed row. What is true of the *storage*
(it can't be reached, is overloaded, gives less than it says that it has, or doesn't know the
credentials any more) says nothing about the clip: it is tried again, and then ends the pass with a
`StorageError`. Nothing is marked as failed that only could not be reached, since a failed row
counts as done and isn't looked at again.
"""

import errno
import hashlib
import os

import fsspec

from pipeline.errors import CredentialsError, DecodeError, StorageError
from pipeline.status import Status
from pipeline.storage.files import open_filesystem
from pipeline.storage.retries import with_retries

DIGEST_BYTES = 16


def digest_of(data: bytes) -> bytes:
    """Digest of a clip's bytes, by which a file is known to be the one that was read before.

    BLAKE2b of `DIGEST_BYTES`; a GB takes a second. It guards against files that change by accident.
    """
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def fetch_clip(root: str, path: str) -> bytes:
    """Read all of a clip.

    Parameters
    ----------
    root
        The manifest's root, any fsspec URL.
    path
        The clip's path below the root, with ``/`` between its parts.

    Raises
    ------
    DecodeError
        ``MISSING``, when there is no such object; ``UNREADABLE``, when it is a directory, may not
        be read, or has a name that no file can have. The message is the same at every try.
    StorageError
        When the storage failed for as long as it was tried.
    """
    if "\0" in path:
        raise DecodeError(Status.UNREADABLE, f"no file has a NUL in its name: {path!r}")
    # The path is joined after the URL is parsed: its `?`, `#` or `::` are characters of a name.
    filesystem, base = open_filesystem(root)
    location = f"{base.rstrip('/')}/{path}"
    try:
        return with_retries(location, lambda: _read_whole(filesystem, location))
    except CredentialsError as error:
        raise StorageError(str(error)) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DecodeError(Status.MISSING, f"no object at {location}") from error
    except IsADirectoryError as error:
        raise DecodeError(Status.UNREADABLE, f"{location} is a directory") from error
    except PermissionError as error:
        raise DecodeError(Status.UNREADABLE, f"no permission to read {location}") from error
    except OSError as error:
        # Not the storage's own words, in which there may be the id of a request.
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise DecodeError(Status.UNREADABLE, f"can't open {location}: {reason}") from error


def _read_whole(filesystem: fsspec.AbstractFileSystem, location: str) -> bytes:
    """Read an object and hold what came against the size that it has.

    HTTP clients miss the end of a body that a middlebox cut and declared anew; and a clip cut short
    may decode to its first frames. Asking for the range keeps s3fs from asking for the size again,
    and from filling what is missing of a large object with zeros.
    """
    size = _size(filesystem, location)
    if size == 0:
        return b""
    data: bytes = filesystem.cat_file(location, start=0, end=size)
    if size is not None and len(data) != size:
        raise OSError(errno.EIO, f"{len(data)} of {size} bytes came")
    return data


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
