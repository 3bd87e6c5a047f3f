"""Frames at the model's size, kept for runs that take the same frames of the same clips.

A part of a cache is a Zarr group whose row i is row i of the run, as in the run's store: ``frames``
(clip, frame, y, x, channel) uint8, and ``entries`` (clip, byte), which says what is known of each
row. Both are cut into objects of a few rows. The process that decodes these rows writes them: first
the frames, then their entries.

A row is used if its entry has the clip's present key, made of path, size, and ETag or times, and
the right checksum over the entry and the frames. Otherwise the clip is decoded again. So two runs
may fill a part at the same time, and a run may be killed while it writes.
"""

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer.cpu import NDBuffer

from pipeline.clips.columns import DIGEST_BYTES, Columns
from pipeline.clips.fetch import KEY_BYTES
from pipeline.clips.frames_forgotten import Forgotten
from pipeline.errors import StorageError, reason_of
from pipeline.storage.zarr_store import zarr_location

FRAMES, ENTRIES = "frames", "entries"
"""Names of a part's arrays."""

_COLUMNS = ("frame_index", "frame_time", "clip_digest")
"""Columns that an entry holds."""
_FAULTS = (OSError, ValueError, ImportError, LookupError, RuntimeError)
"""What zarr and its codecs raise of an object that is cut short, damaged or withheld."""
_given_up: set[str] = set()
"""Parts that this process doesn't use any more, because their storage didn't answer."""
_LOGGER = logging.getLogger(__name__)


def entry_dtype(n_frames: int) -> np.dtype[Any]:
    """Fields of a row's entry, in the order of its bytes in ``entries``."""
    return np.dtype(
        [
            ("key", "u1", (KEY_BYTES,)),
            ("clip_digest", "u1", (DIGEST_BYTES,)),
            ("frame_index", "<i4", (n_frames,)),
            ("frame_time", "<f8", (n_frames,)),
            ("checksum", "<u4"),
        ]
    )


@dataclass(frozen=True)
class FramesCache:
    """The part of a cache that holds the frames of one run; small, and sent to every process.

    Columns are those of `pipeline.clips.loader.ClipLoader`, with rows in order: ``row``,
    ``frames``, ``frame_index``, ``frame_time`` and ``clip_digest``. Keys are (clips, `KEY_BYTES`)
    uint8, zeros for a clip that has none.
    """

    url: str
    """URL of the group."""
    n_rows: int
    """Rows that there is room for: the first ones of the run."""
    rows_per_object: int
    fills: bool = True
    """Whether rows may be written."""
    sample: NDArray[np.int64] | None = field(default=None, compare=False)
    """Row of the run for each row of a sample of it, ascending; None where rows are the run's."""

    def read(self, columns: Columns, keys: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Fill in the columns of each row that is kept whole: (clips,) whether it is."""
        found = np.zeros(len(keys), np.bool_)
        rows_of_run = self._rows_of_run(columns["row"])
        for here, rows in self._objects(rows_of_run):
            with _tolerated(self.url):
                part = self._part()
                entries = part.entries(rows)[rows_of_run[here] - rows.start]
                known = here.start + np.flatnonzero(_matches(entries, keys[here]))
                if not len(known):
                    continue
                places = (rows_of_run[known] - rows.start).tolist()
                is_whole = len(known) == len(rows)
                frames = part.frames(rows, columns["frames"][here] if is_whole else None)
                for clip, place in zip(known.tolist(), places, strict=True):
                    entry = entries[clip - here.start]
                    if not _is_sound(entry, frames[place]):
                        row = int(rows_of_run[clip])
                        _LOGGER.warning("%s is damaged in row %d", self.url, row)
                        columns["frames"][clip] = 0
                        continue
                    if not is_whole:
                        columns["frames"][clip] = frames[place]
                    for name in _COLUMNS:
                        columns[name][clip] = entry[name]
                    found[clip] = True
        return found

    def holds(self, rows: NDArray[np.int64], keys: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Whether each row has an entry: (clips,); its frames aren't looked at."""
        found = np.zeros(len(keys), np.bool_)
        rows = self._rows_of_run(rows)
        for here, of_object in self._objects(rows):
            with _tolerated(self.url):
                entries = self._part().entries(of_object)[rows[here] - of_object.start]
                found[here] = _matches(entries, keys[here])
        return found

    def write(self, columns: Columns, keys: NDArray[np.uint8], chosen: NDArray[np.bool_]) -> None:
        """Keep the chosen rows that have a key, as far as there is room.

        Rows that the storage refuses aren't kept, and the run goes on. Nor are those of clips that
        were erased, as `pipeline.clips.frames_forgotten` has it.
        """
        forgotten: Forgotten | None = None
        chosen = chosen & keys.any(axis=1) & self.fills
        rows_of_run = self._rows_of_run(columns["row"])
        for here, rows in self._objects(rows_of_run):
            clips = here.start + np.flatnonzero(chosen[here])
            if not len(clips):
                continue
            with _tolerated(self.url):
                # Before an object is read: what is erased later is seen once it is written.
                forgotten = forgotten or Forgotten.read(self._folder)
                part, places = self._part(), rows_of_run[clips] - rows.start
                new = part.no_entries(len(clips))
                new["key"] = keys[clips]
                for name in _COLUMNS:
                    new[name] = columns[name][clips]
                for entry, clip in zip(new, clips.tolist(), strict=True):
                    entry["checksum"] = _checksum(entry, columns["frames"][clip])
                frames, entries = columns["frames"][clips], new
                if len(clips) < len(rows):
                    frames, entries = part.kept(rows)
                    frames[places], entries[places] = columns["frames"][clips], new
                forgotten = self._write(rows, frames, entries, forgotten)

    def _write(
        self,
        rows: range,
        frames: NDArray[np.uint8],
        entries: NDArray[Any],
        forgotten: Forgotten,
    ) -> Forgotten:
        """Write an object without what was erased, and give what was by the time it is written."""
        part, name = self._part(), self.url.rpartition("/")[2]
        numbers, digests = np.asarray(rows), entries["clip_digest"].copy()
        gone = forgotten.which(name, numbers, digests)
        while True:
            frames[gone] = 0
            entries[gone] = part.no_entries(1)
            part.write(rows, frames, entries)
            forgotten = Forgotten.read(self._folder)
            before, gone = gone, forgotten.which(name, numbers, digests)
            if not (gone & ~before).any():
                return forgotten

    @property
    def _folder(self) -> str:
        """URL of the cache."""
        return self.url.rpartition("/")[0]

    def _rows_of_run(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows if self.sample is None else self.sample[rows]

    def _objects(self, rows: NDArray[np.int64]) -> Iterator[tuple[slice, range]]:
        """Cut rows by the objects that they lie in: where they are, and the object's rows."""
        kept = rows[: np.searchsorted(rows, self.n_rows)]
        numbers = kept // self.rows_per_object
        starts = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist()
        for start, stop in pairwise([*starts, len(kept)]):
            if self.url in _given_up:
                return
            first = int(numbers[start]) * self.rows_per_object
            yield slice(start, stop), range(first, min(first + self.rows_per_object, self.n_rows))

    def _part(self) -> "_Part":
        return _opened(self.url, self.n_rows, self.fills)


class _Part:
    """The arrays of a part, opened once in a process: Zarr reads their metadata each time."""

    def __init__(self, url: str, n_rows: int, fills: bool) -> None:
        group = zarr.open_group(zarr_location(url), mode="r+" if fills else "r")
        frames: Any = group[FRAMES]
        entries: Any = group[ENTRIES]
        self._frames, self._entries = frames, entries
        self._dtype = entry_dtype(frames.shape[1])
        # A shorter array would give fewer rows than are asked for.
        if (
            min(frames.shape[0], entries.shape[0]) < n_rows
            or entries.shape[1] != self._dtype.itemsize
        ):
            raise ValueError(
                f"its arrays are {frames.shape} and {entries.shape}, expected {n_rows} rows"
            )

    def frames(self, rows: range, into: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Frames of an object: (rows, T, height, width, 3), in an array that is there if given."""
        if into is None:
            frames: NDArray[np.uint8] = self._frames[rows.start : rows.stop]
            return frames
        chosen, out = slice(rows.start, rows.stop), NDBuffer.from_numpy_array(into)
        try:
            self._frames.get_basic_selection(chosen, out=out)
        except BaseException:
            # Of an object that is cut short some of it may be there already.
            into[:] = 0
            raise
        return into

    def entries(self, rows: range) -> NDArray[Any]:
        raw: NDArray[np.uint8] = self._entries[rows.start : rows.stop]
        return np.ascontiguousarray(raw).view(self._dtype)[:, 0]

    def no_entries(self, n_rows: int) -> NDArray[Any]:
        return np.zeros(n_rows, self._dtype)

    def kept(self, rows: range) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """Frames and entries of an object, to be written again: nothing, if it is damaged."""
        try:
            return self.frames(rows), self.entries(rows)
        except _FAULTS:
            frames = np.zeros((len(rows), *self._frames.shape[1:]), np.uint8)
            return frames, self.no_entries(len(rows))

    def write(self, rows: range, frames: NDArray[np.uint8], entries: NDArray[Any]) -> None:
        self._frames[rows.start : rows.stop] = frames
        raw = np.ascontiguousarray(entries).view(np.uint8)
        self._entries[rows.start : rows.stop] = raw.reshape(len(rows), -1)


@lru_cache(maxsize=32)
def _opened(url: str, n_rows: int, fills: bool) -> _Part:
    return _Part(url, n_rows, fills)


@contextmanager
def _tolerated(url: str) -> Iterator[None]:
    """While open, a fault of the cache is logged, and the rows that it concerns aren't kept."""
    try:
        yield
    except StorageError as error:
        # This access was tried for a minute; without giving up, so would be that of each batch.
        _given_up.add(url)
        _LOGGER.warning("frames are neither read from nor written to %s any more: %s", url, error)
    except _FAULTS as error:
        _LOGGER.warning("%s can't be used: %s", url, reason_of(error))


def _matches(entries: NDArray[Any], keys: NDArray[np.uint8]) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = (entries["key"] == keys).all(axis=1) & keys.any(axis=1)
    return same


def _is_sound(entry: NDArray[Any], frames: NDArray[np.uint8]) -> bool:
    """Whether a row's checksum is right: as `_checksum` makes it, or CRC-32 of before."""
    if entry["checksum"] == _checksum(entry, frames):
        return True
    of_entry = zlib.crc32(_summed(entry))
    crc32 = zlib.crc32(np.ascontiguousarray(frames).data.cast("B"), of_entry)
    return bool(entry["checksum"] == crc32)


def _checksum(entry: NDArray[Any], frames: NDArray[np.uint8]) -> int:
    """CRC-32C, which processors compute themselves, over an entry and its frames."""
    of_entry = google_crc32c.value(_summed(entry))
    return int(google_crc32c.extend(of_entry, np.ascontiguousarray(frames).reshape(-1)))


def _summed(entry: NDArray[Any]) -> bytes:
    """Bytes of what an entry says, without the checksum."""
    return bytes(entry.tobytes()[: -entry.dtype["checksum"].itemsize])
