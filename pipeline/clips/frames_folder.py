"""A cache of frames: a folder of parts, each for other frames or other rows, within one bound.

A part belongs to what decides its frames (`FramesIdentity`) and to the rows of a manifest. Its name
is made of digests of both, which its group's attributes repeat. A manifest that has got more rows
keeps its part, and so does a run over the rows that it had before. How many rows a part has room
for is settled when a run is prepared, so that no worker has to count: the part keeps the first rows
of the run.
"""

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import count
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr import Array
from zarr.core.group import Group

from pipeline.clips.frames_cache import ENTRIES, FRAMES, FramesCache, entry_dtype
from pipeline.clips.frames_forgotten import Forgotten
from pipeline.clips.recording import DecoderName
from pipeline.clips.views import Views
from pipeline.dataset.manifest import Manifest
from pipeline.errors import ConfigError, StorageError, reason_of
from pipeline.storage.files import delete_tree, open_filesystem
from pipeline.storage.retries import with_retries
from pipeline.storage.zarr_store import zarr_location

FRAMES_VERSION = 1
"""Raised when the same file would give other frames."""
_SCHEMA = {"name": "staa-frames", "version": 1}
_PACKAGES: dict[DecoderName, str] = {"pyav": "av", "decord": "decord2"}
_OBJECT_BYTES = 16_000_000
"""Largest size of an object, all of which is read to get one of its rows."""
_PREFIX = "frames-"
"""The name of each part begins so."""
_NAME_DIGITS = 16
"""Digits of a manifest's digest in the name of a part."""
_ROWS_LOOKED_AT = 16_384
"""Entries that are read at once: a few MB."""
_STORAGE_ERRORS = (OSError, ValueError, ImportError, StorageError)


@dataclass(frozen=True)
class FramesIdentity:
    """What decides the frames of a row, except for the clip.

    Attributes
    ----------
    facts
        Decoder, sampling and geometry of each view, versions, as JSON.
    shape
        (T, height, width, 3) of a row.
    """

    facts: str
    shape: tuple[int, int, int, int]

    @classmethod
    def of_run(
        cls, views: Views, input_size: tuple[int, int], decoder: DecoderName, segments: bool
    ) -> "FramesIdentity":
        """Frames as `pipeline.clips.loader.ClipLoader` gives them with the same arguments."""
        facts = {
            "version": FRAMES_VERSION,
            "decoder": decoder,
            "segments": segments,
            "views": [
                {"sampling": asdict(v.sampling), "preprocessing": asdict(v.preprocessing.geometry)}
                for v in views
            ],
            "packages": {name: version(name) for name in (_PACKAGES[decoder], "pillow")},
        }
        n_frames = next(iter(views)).sampling.n_samples
        return cls(json.dumps(facts, sort_keys=True), (n_frames, *input_size, 3))

    @property
    def digest(self) -> str:
        """Short digest, in hexadecimal."""
        text = f"{self.facts} {self.shape}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def row_bytes(self) -> int:
        """Size of a row's frames and entry."""
        n_frames, height, width, n_channels = self.shape
        return n_frames * height * width * n_channels + entry_dtype(n_frames).itemsize


@dataclass(frozen=True)
class _Part:
    """A part that is in the folder."""

    url: str
    group: Group
    identity: str
    """Digest of its `FramesIdentity`."""
    manifest: str
    """Digest of the manifest's rows."""
    n_videos: int
    """Rows of that manifest."""
    earlier: frozenset[tuple[int, str]] = frozenset()
    """Number of rows and digest of each manifest that it belonged to before it was enlarged."""

    @property
    def name(self) -> str:
        """Name in the folder."""
        return self.url.rpartition("/")[2]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of its frames, with as many rows as there is room for."""
        return self._frames.shape

    @property
    def n_bytes(self) -> int:
        """Size when it is full."""
        return math.prod(self.shape) + self.shape[0] * entry_dtype(self.shape[1]).itemsize

    def is_of(self, identity: FramesIdentity, manifest: Manifest) -> bool:
        """Whether its rows are the first ones of a run with such frames."""
        if self.identity != identity.digest or self.shape[1:] != identity.shape:
            return False
        return self.begins_as(manifest)

    def begins_as(self, manifest: Manifest) -> bool:
        """Whether its rows are those of a manifest, as far as both go."""
        if self.n_videos < manifest.n_rows:
            return manifest.digest_of_first(self.n_videos) == self.manifest
        if self.n_videos == manifest.n_rows:
            return self.manifest == manifest.digest
        # Earlier releases noted no rows of before; a part has its name of those that it began with.
        return (
            manifest.n_rows,
            manifest.digest,
        ) in self.earlier or f"-{manifest.digest[:_NAME_DIGITS]}" in self.name

    def cache(self, *, fills: bool) -> FramesCache:
        """Give the object that reads this part, and fills it if it may."""
        return FramesCache(self.url, self.shape[0], self._frames.chunks[0], fills)

    @property
    def _frames(self) -> "Array[Any]":
        frames = self.group[FRAMES]
        assert isinstance(frames, Array)
        return frames


def find_part(url: str, identity: FramesIdentity, manifest: Manifest) -> FramesCache | None:
    """Find the part of a cache that has frames of a manifest's rows, to be read alone.

    Raises
    ------
    ConfigError
        When the cache can't be looked at.
    """
    try:
        for part in _parts(url, "r"):
            if part.is_of(identity, manifest):
                return part.cache(fills=False)
    except _STORAGE_ERRORS as error:
        raise ConfigError(f"frames_cache: can't read {url}: {reason_of(error)}") from error
    return None


def open_parts(
    url: str,
    identities: Sequence[FramesIdentity],
    manifest: Manifest,
    *,
    n_views: int,
    batch_size: int,
    max_bytes: int,
) -> dict[FramesIdentity, FramesCache]:
    """Find, make or enlarge the parts of some runs over one manifest.

    Parameters
    ----------
    n_views
        Rows of a run for each row of the manifest.
    batch_size
        Rows that are decoded together; it is a multiple of the rows of an object.
    max_bytes
        Bound of the whole cache. Parts of other runs count with all the rows that they have room
        for. The rest is shared so that all of these runs keep the same rows. No part gets smaller.

    Returns
    -------
    The part of each identity; identities for which there is no room are left out

    Raises
    ------
    ConfigError
        When the cache can't be written.
    """
    wanted = list(dict.fromkeys(identities))
    try:
        there = list(_parts(url, "r+"))
        own = {
            identity: next((part for part in there if part.is_of(identity, manifest)), None)
            for identity in wanted
        }
        of_others = sum(part.n_bytes for part in there if part not in own.values())
        share = (max_bytes - of_others) // sum(identity.row_bytes for identity in wanted)
        n_rows = max(0, min(share, n_views * manifest.n_rows))
        parts = {}
        for identity, part in own.items():
            if part is None and n_rows:
                part = _create(url, identity, manifest, n_rows, batch_size)
            if part is not None:
                _enlarge(part, manifest, n_rows)
                parts[identity] = part.cache(fills=True)
    except _STORAGE_ERRORS as error:
        raise ConfigError(f"frames_cache: can't write {url}: {reason_of(error)}") from error
    return parts


def forget_videos(
    url: str, manifest: Manifest | None, videos: NDArray[np.int64], digests: Collection[bytes]
) -> int:
    """Erase all frames of some videos from every part of a cache, and have them stay out.

    They are found by their place in the manifest and by the digest of their file, since a part may
    belong to another manifest, or to a longer one by now. Parts of other versions, decoders and
    models are searched too. What was erased before is erased again, if it has come back.

    Parameters
    ----------
    manifest
        The run's; None if it isn't there any more.
    videos
        Rows of the manifest, in order.
    digests
        ``clip_digest`` of the rows of these videos, as far as it is stored.

    Returns
    -------
    Rows of parts that held something of them

    Raises
    ------
    StorageError
        If the storage refuses.
    """
    erased: set[tuple[str, int]] = set()
    try:
        parts = list(_parts(url, "r+", refusals=True))
        if not parts:
            return 0
        known, rows = set(digests), set[tuple[str, int]]()
        for part in parts:
            of_part = _rows_of(part, manifest, videos)
            known |= _digests_at(part, of_part)
            rows |= {(part.name, row) for row in of_part.tolist()}
        forgotten = Forgotten.of(known, rows).noted(url)
        for part in parts:
            erased |= _erase(part, forgotten)
        # A run that was writing meanwhile, or another command that erases, may have brought rows
        # back that it had read before.
        forgotten = forgotten.noted(url)
        for part in _parts(url, "r+", refusals=True):
            erased |= _erase(part, forgotten)
    except (OSError, ValueError, ImportError, LookupError) as error:
        raise StorageError(f"can't write {url}: {reason_of(error)}") from error
    return len(erased)


def _rows_of(
    part: _Part, manifest: Manifest | None, videos: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Rows that some videos of a manifest have in a part, or will have once there is room."""
    if manifest is None or not part.begins_as(manifest):
        return videos[:0]
    facts: Any = part.group.attrs["facts"]
    n_views = len(facts["views"])
    return (videos[videos < part.n_videos, None] * n_views + np.arange(n_views)).ravel()


def _digests_at(part: _Part, rows: NDArray[np.int64]) -> set[bytes]:
    """``clip_digest`` of what some rows of a part hold."""
    found: set[bytes] = set()
    for start in sorted({row // _ROWS_LOOKED_AT * _ROWS_LOOKED_AT for row in rows.tolist()}):
        digests = _digests_from(part, start)
        here = rows[(rows >= start) & (rows < start + len(digests))] - start
        found |= {digest.tobytes() for digest in digests[here] if digest.any()}
    return found


def _digests_from(part: _Part, start: int) -> NDArray[np.uint8]:
    """``clip_digest`` of the entries from a row on, uint8 (`_ROWS_LOOKED_AT` at most, bytes).

    Of a damaged object it can't be told whose frames its rows have, so that all of them are erased.
    """
    entries: Any = part.group[ENTRIES]
    stop = min(start + _ROWS_LOOKED_AT, part.shape[0])
    raw = _read(entries, start, stop)
    if raw is not None:
        return _clip_digests(part, raw)
    for first in range(start, stop, entries.chunks[0]):
        last = min(first + entries.chunks[0], stop)
        if _read(entries, first, last) is None:
            for name in (ENTRIES, FRAMES):
                _erase_in_objects(part.group[name], np.arange(first, last))
    return _clip_digests(part, entries[start:stop])


def _read(array: Any, start: int, stop: int) -> NDArray[np.uint8] | None:
    """Rows of an array; None where an object of them is damaged."""
    try:
        values: NDArray[np.uint8] = array[start:stop]
    except OSError:
        raise
    except (ValueError, RuntimeError):
        return None
    return values


def _clip_digests(part: _Part, raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Digest of the clip of each entry, uint8 (rows, digest's bytes)."""
    entries = np.ascontiguousarray(raw).view(entry_dtype(part.shape[1]))
    digests: NDArray[np.uint8] = entries["clip_digest"].reshape(len(raw), -1)
    return digests


def _erase(part: _Part, forgotten: Forgotten) -> set[tuple[str, int]]:
    """Erase what is to be forgotten of a part: name and number of each row that held something."""
    n_rows = part.shape[0]
    found = [forgotten.rows_of(part.name)]
    for start in range(0, n_rows if forgotten.clips else 0, _ROWS_LOOKED_AT):
        digests = _digests_from(part, start)
        rows = np.arange(start, start + len(digests))
        found.append(rows[forgotten.which(part.name, rows, digests)])
    rows = np.unique(np.concatenate(found))
    rows = rows[rows < n_rows]
    # Entries first: without its entry a row isn't used.
    held = _erase_in_objects(part.group[ENTRIES], rows)
    held |= _erase_in_objects(part.group[FRAMES], rows)
    return {(part.name, row) for row in rows[held].tolist()}


def _erase_in_objects(array: Any, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Erase rows of an array, an object at a time: whether each held something."""
    held = np.zeros(len(rows), np.bool_)
    numbers = rows // array.chunks[0]
    for number in np.unique(numbers).tolist():
        start = number * array.chunks[0]
        of_object = numbers == number
        held[of_object] = _erase_in_object(array, start, rows[of_object] - start)
    return held


def _erase_in_object(array: Any, start: int, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Erase rows of the object that begins at a row of an array: whether each held something."""
    stop = min(start + array.chunks[0], array.shape[0])
    values = _read(array, start, stop)
    if values is None:
        # What is in it can't be told apart.
        array[start:stop] = 0
        return np.zeros(len(rows), np.bool_)
    held: NDArray[np.bool_] = np.any(values[rows].reshape(len(rows), -1), axis=1)
    if held.any():
        values[rows] = 0
        array[start:stop] = values
    return held


def is_there(url: str) -> bool:
    """Whether there is a cache, or anything else, at a URL.

    Raises
    ------
    StorageError
        If the storage refuses.
    """
    try:
        filesystem, path = open_filesystem(url)
        filesystem.invalidate_cache()
        return bool(with_retries(url, lambda: filesystem.exists(path)))
    except (OSError, ValueError, ImportError) as error:
        raise StorageError(f"can't read {url}: {reason_of(error)}") from error


def remove_cache(url: str) -> None:
    """Delete a cache, if there is one.

    Raises
    ------
    StorageError
        If the storage refuses.
    """
    try:
        delete_tree(url)
    except (OSError, ValueError, ImportError) as error:
        raise StorageError(f"can't delete {url}: {reason_of(error)}") from error


def _parts(url: str, mode: Literal["r", "r+"], *, refusals: bool = False) -> Iterator[_Part]:
    """Every part of a cache that can be opened; a run that needs another makes it again.

    With ``refusals``, one that the storage withholds isn't passed over: `OSError` is raised. Nor is
    one that has lost its entries alone, whose frames are still there, or its other metadata: where
    its rows lie can't be told then, and `StorageError` is raised.
    """
    filesystem, path = open_filesystem(url)
    filesystem.invalidate_cache()
    try:
        items = with_retries(url, lambda: filesystem.ls(path, detail=False))
    except FileNotFoundError:
        return
    for name in sorted(str(item).rstrip("/").rpartition("/")[2] for item in items):
        part_url = f"{url.rstrip('/')}/{name}"
        try:
            group = zarr.open_group(zarr_location(part_url), mode=mode)
            told: Any = group.attrs.asdict()
            if "identity" not in told:
                # One that is being made has no attributes yet, and no frames.
                continue
            earlier = frozenset((int(n), str(digest)) for n, digest in told.get("earlier", ()))
            rows = (str(told["manifest"]), int(told["n_videos"]), earlier)
            part = _Part(part_url, group, told["identity"], *rows)
            if told["schema"] != _SCHEMA or len(part.shape) != 5:
                continue
            if _has_entries(group):
                yield part
            elif refusals:
                raise LookupError("its entries are lost")
        except (NotADirectoryError, FileExistsError):
            # A plain file isn't opened to be written, and is told to exist.
            continue
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            is_lost = isinstance(error, FileNotFoundError)
            if refusals and isinstance(error, OSError) and not is_lost:
                raise
            if refusals and is_lost and not filesystem.exists(f"{path}/{name}/{FRAMES}/c"):
                # It is being made, or its making was cut off: there are no frames yet.
                continue
            if refusals and name.startswith(_PREFIX):
                reason = "its metadata are lost" if is_lost else reason_of(error)
                raise StorageError(
                    f"{part_url} can't be read, and may hold frames that are to go: {reason}; "
                    "delete it, as runs make it again"
                ) from error
            continue


def _has_entries(group: Group) -> bool:
    """Whether a part has frames, and an entry for each; `LookupError` if one isn't there at all.

    Frames are looked at first: entries are enlarged before them.
    """
    frames, entries = (group[name] for name in (FRAMES, ENTRIES))
    if not (isinstance(frames, Array) and isinstance(entries, Array) and frames.ndim == 5):
        return False
    n_bytes = entry_dtype(frames.shape[1]).itemsize
    return entries.shape[0] >= frames.shape[0] and entries.shape[1:] == (n_bytes,)


def _create(
    url: str, identity: FramesIdentity, manifest: Manifest, n_rows: int, batch_size: int
) -> _Part:
    part_url = _free_url(url, f"{_PREFIX}{identity.digest}-{manifest.digest[:_NAME_DIGITS]}")
    # Anything that is there is damaged, or its making was cut off.
    group = zarr.create_group(zarr_location(part_url), overwrite=True)
    rows_per_object = max(
        rows
        for rows in range(1, batch_size + 1)
        if batch_size % rows == 0 and (rows == 1 or rows * identity.row_bytes <= _OBJECT_BYTES)
    )
    n_bytes = entry_dtype(identity.shape[0]).itemsize
    for array, shape, dims in (
        (FRAMES, identity.shape, ("frame", "y", "x", "channel")),
        (ENTRIES, (n_bytes,), ("byte",)),
    ):
        group.create_array(
            array,
            shape=(n_rows, *shape),
            chunks=(rows_per_object, *shape),
            dtype="uint8",
            # The low bits of frames are noise: compression would cost more than it saves.
            compressors=None,
            dimension_names=("clip", *dims),
        )
    facts = {"identity": identity.digest, "facts": json.loads(identity.facts)}
    rows = {"manifest": manifest.digest, "n_videos": manifest.n_rows}
    group.update_attributes({"schema": _SCHEMA, **facts, **rows})
    return _Part(part_url, group, identity.digest, manifest.digest, manifest.n_rows)


def _free_url(url: str, name: str) -> str:
    """URL of a new part: of that name, or with a number behind if such a part can be opened."""
    for number in count(1):
        part_url = f"{url.rstrip('/')}/{name}{f'-{number}' if number > 1 else ''}.zarr"
        if not _is_sound(part_url):
            return part_url
    raise AssertionError("numbers don't end")


def _is_sound(part_url: str) -> bool:
    """Whether something is at a part's URL that isn't to be written over.

    Raises
    ------
    OSError
        If the storage withholds it.
    """
    try:
        group = zarr.open_group(zarr_location(part_url), mode="r")
        schema = group.attrs.get("schema")
        # A later release may have other arrays.
        of_other_release = schema is not None and schema != _SCHEMA
        return of_other_release or (schema is not None and _has_entries(group))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError):
        return False


def _enlarge(part: _Part, manifest: Manifest, n_rows: int) -> None:
    """Give a part room for more rows, and note the longer manifest that it now belongs to."""
    if n_rows > part.shape[0]:
        for name in (ENTRIES, FRAMES):
            array: Any = part.group[name]
            array.resize((n_rows, *array.shape[1:]))
    if manifest.n_rows > part.n_videos:
        earlier = sorted(part.earlier | {(part.n_videos, part.manifest)})
        rows = {"manifest": manifest.digest, "n_videos": manifest.n_rows}
        part.group.update_attributes({**rows, "earlier": [list(before) for before in earlier]})
