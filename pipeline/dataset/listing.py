"""The files of a dataset's folder: what is a clip, what isn't, and which file a row means."""

import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
from fsspec.implementations.local import LocalFileSystem

from pipeline.dataset.manifest import filesystem_of
from pipeline.errors import ManifestError, reason_of
from pipeline.storage.files import open_filesystem
from pipeline.storage.retries import with_retries

_OF_DATASETS = (
    *(".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".ogv", ".webm", ".wmv"),
)
"""Suffixes that come first where several files have one name."""
VIDEO_SUFFIXES = (
    *_OF_DATASETS,
    *(".264", ".265", ".3g2", ".asf", ".divx", ".dv", ".f4v", ".h264", ".h265", ".hevc", ".ivf"),
    *(".m1v", ".m2t", ".m2ts", ".m2v", ".mts", ".mxf", ".obu", ".ogm", ".qt", ".rm", ".rmvb"),
    *(".tod", ".ts", ".vob", ".y4m"),
)
"""Suffixes of clips: of every kind of recording that the decoder opens, camcorders' included."""
OTHER_VIDEO_SUFFIXES = (".dav", ".gif", ".mjpeg", ".mjpg", ".nut", ".swf", ".wtv")
"""Suffixes of files that may be video and aren't taken for clips: the decoder opens none of them
but GIF, and beside clips that is a preview more often than a clip."""


@dataclass(frozen=True)
class Listing:
    """What lies below a folder.

    Attributes
    ----------
    root
        URL of the folder.
    paths
        Clips, below the root, sorted.
    others
        Files of other suffixes.
    n_hidden
        Files whose name, or whose folder's, begins with a dot; of macOS ``._x.mp4`` is one.
    closed
        Folders below the root that this user may not read.
    """

    root: str
    paths: tuple[str, ...]
    others: tuple[str, ...] = ()
    n_hidden: int = 0
    closed: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = field(default=(), repr=False)
    """How absolute paths and URLs of what is below the root begin."""

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Number of every file that isn't hidden by its path: clips first, in order."""
        return {path: number for number, path in enumerate((*self.paths, *self.others))}

    @cached_property
    def by_stem(self) -> dict[str, str]:
        """First clip in sorted order by its name without folder and suffix.

        A clip comes before the recording that it was made of, such as `a.mp4` before `a.dv`.
        """
        in_order = sorted(self.paths, key=lambda path: _suffix(path) not in _OF_DATASETS)
        return _first_by(in_order, lambda path: PurePosixPath(path).stem)

    @cached_property
    def by_name(self) -> dict[str, str]:
        """First clip in sorted order by its name without folder."""
        return _first_by(self.paths, lambda path: PurePosixPath(path).name)

    def passed_over(self) -> Counter[str]:
        """Count files that aren't clips, by suffix."""
        return Counter(PurePosixPath(path).suffix.lower() or "none" for path in self.others)

    def below_root(self, path: str) -> str:
        """Path below the root of one that may be absolute, or a URL; of any other the same."""
        for prefix in self.prefixes:
            if path.startswith(prefix):
                return path[len(prefix) :].lstrip("/")
        return path

    def number(self, path: str) -> int | None:
        """Give the number of a file, see `numbers`; None if there is none of that path."""
        number = self.numbers.get(path)
        return self.numbers.get(posixpath.normpath(path)) if number is None else number

    def holds(self, path: str) -> bool:
        """Whether there is such a file."""
        return self.number(path) is not None

    def all_below_root(self, paths: pa.ChunkedArray) -> pa.ChunkedArray:
        """Give each of a column of paths as `below_root` does."""
        below, is_open = paths, pc.is_valid(paths)
        for prefix in self.prefixes:
            begins = pc.and_(is_open, pc.starts_with(paths, prefix))
            cut = pc.utf8_ltrim(pc.utf8_slice_codeunits(paths, len(prefix)), "/")
            below = pc.if_else(begins, cut, below)
            is_open = pc.and_not(is_open, begins)
        return below


class Coverage:
    """Which of the files the rows of a manifest are of, told piece by piece.

    Attributes
    ----------
    n_rows
        Rows so far.
    n_missing
        Rows whose file isn't there.
    missing
        Paths of the first of them.
    """

    N_NAMED = 3

    def __init__(self, listing: Listing) -> None:
        """Begin with no row."""
        self.n_rows = self.n_missing = 0
        self.missing: list[str] = []
        self._listing = listing
        self._is_used = bytearray(len(listing.paths))

    def update(self, paths: pa.ChunkedArray) -> None:
        """Take in the paths of further rows."""
        self.n_rows += len(paths)
        for path in paths.to_pylist():
            number = self._listing.number(path)
            if number is None:
                self.n_missing += 1
                if len(self.missing) < self.N_NAMED:
                    self.missing.append(path)
            elif number < len(self._is_used):
                self._is_used[number] = True

    @property
    def n_unused(self) -> int:
        """Clips that no row is of."""
        return self._is_used.count(0)


def list_folder(clips: str, layout: str) -> Listing:
    """List the files below a folder, those of a glob, or one file.

    Raises
    ------
    ManifestError
        When nothing is there, or a layout of a folder is given another thing.
    StorageError
        As `with_retries`.
    """
    try:
        return with_retries(clips, lambda: _list(clips, layout))
    except OSError as error:
        raise ManifestError(f"layout {layout}: can't list {clips}: {reason_of(error)}") from error


def _find(filesystem: fsspec.AbstractFileSystem, base: str) -> tuple[list[str], list[str]]:
    """Files below a folder, and folders that may not be read, which fsspec passes over in silence.

    Links to folders aren't followed.
    """
    if not isinstance(filesystem, LocalFileSystem):
        return filesystem.find(base), []
    closed = []

    def on_error(error: OSError) -> None:
        if error.filename == base:
            raise error
        if not isinstance(error, FileNotFoundError):
            closed.append(str(error.filename))

    found = []
    for folder, folders, files in os.walk(base, onerror=on_error):
        paths = [f"{folder.rstrip('/')}/{name}" for name in (*folders, *files)]
        # `Path.is_symlink` raises in a folder whose names may be read and nothing else.
        found += [path for path in paths[: len(folders)] if os.path.islink(path)]  # noqa: PTH114
        found += paths[len(folders) :]
    return found, sorted(closed)


def _list(clips: str, layout: str) -> Listing:
    filesystem, base = filesystem_of(clips)
    closed: list[str] = []
    if filesystem.isdir(base):
        found, closed = _find(filesystem, base)
    elif layout != "files":
        raise ManifestError(f"layout {layout}: {clips} is not a folder, expected that of the clips")
    elif filesystem.isfile(base):
        # Asked for by name, so whatever its suffix is.
        base, name = base.rsplit("/", 1)
        return Listing(_root_url(filesystem, base, clips), (name,))
    elif re.search(r"[*?[]", base):
        found = filesystem.glob(base)
        fixed = re.split(r"[*?[]", base, maxsplit=1)[0]
        base = fixed.rsplit("/", 1)[0]
    else:
        raise ManifestError(f"layout {layout}: nothing at {clips}, expected a folder, glob or file")
    prefix = base.rstrip("/") + "/"
    below = sorted(path.removeprefix(prefix) for path in found)
    visible = [path for path in below if not _is_hidden(path)]
    root = _root_url(filesystem, base, clips)
    return Listing(
        root=root,
        paths=tuple(path for path in visible if _is_clip(path)),
        others=tuple(path for path in visible if not _is_clip(path)),
        n_hidden=len(below) - len(visible),
        closed=tuple(path.removeprefix(prefix) for path in closed),
        prefixes=tuple(
            dict.fromkeys(
                start.rstrip("/") + "/"
                for start in (root, base, clips)
                if start.startswith("/") or "://" in start
            )
        ),
    )


def _first_by(paths: Iterable[str], key: Callable[[str], str]) -> dict[str, str]:
    first: dict[str, str] = {}
    for path in paths:
        first.setdefault(key(path), path)
    return first


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in path.split("/"))


def _is_clip(path: str) -> bool:
    return _suffix(path) in VIDEO_SUFFIXES


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _root_url(filesystem: fsspec.AbstractFileSystem, base: str, clips: str) -> str:
    """URL under which workers find the folder; some hold more than a protocol and a path."""
    url = str(filesystem.unstrip_protocol(base))
    try:
        found = open_filesystem(url) == (filesystem, base)
    except (OSError, ValueError, TypeError):
        found = False
    if not found:
        raise ManifestError(
            f"clips below {clips} can't be found again by {url}: expected a URL that is a protocol "
            "and a path, with hosts and credentials in fsspec's configuration"
        )
    return url
