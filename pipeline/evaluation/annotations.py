"""Annotation files that people have, read as masks of the frames that a model saw.

Nothing is unpickled and no code of a file is run: CSV, JSON, MATLAB's arrays (version 5 to 7), PNG
and ``.npy`` without objects.
"""

import csv
import glob
import io
import json
import struct
import zlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import ConfigError, reason_of
from pipeline.evaluation.annotation_files import (
    check_masks,
    check_numbered,
    matlab_array,
    natural,
    numpy_masks,
    picture,
    unpacked,
)
from pipeline.storage.files import open_filesystem, read_bytes

PERSON, HAND, OBJECT, ACTION_TIME = "person", "hand", "object", "action time"

_UNREADABLE = (
    *(OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, ImportError),
    # Files that end at once raise the first; damaged pictures, arrays and tables raise the others.
    *(EOFError, SyntaxError, struct.error, zlib.error, MemoryError, OverflowError),
    *(RecursionError, csv.Error, Image.DecompressionBombError),
)
"""Errors that libraries raise for files that are damaged or of another format."""

_FARTHEST_SHARE = 0.5
"""How far a box may reach beyond its frame, in shares of it: boxes of detectors do, a little, and
boxes in pixels do by far more."""


@dataclass(frozen=True)
class SeenClip:
    """What a model saw of a clip."""

    video_id: str
    frame_index: NDArray[np.integer]
    """(frames,): frames of the file."""
    time_s: NDArray[np.float64]
    """(frames,): when each is shown, from the file's start."""
    start_time_s: float
    """Where the file starts in its source video; NaN if unknown."""
    height: int
    width: int


@dataclass(frozen=True)
class Marked:
    """What an annotation says of the frames that were seen."""

    masks: NDArray[np.bool_]
    """(frames, height, width)"""
    known: NDArray[np.bool_]
    """(frames,)"""


class Annotations(ABC):
    """Annotations of a dataset; a layout is a subclass and a line in `LAYOUTS`."""

    kinds: ClassVar[tuple[str, ...]]

    def __init__(self, url: str, *, kind: str | None = None, tolerance_s: float = 0.25) -> None:
        self.url = url
        self.kind = kind
        self.tolerance_s = tolerance_s

    @property
    def all_kinds(self) -> tuple[str, ...]:
        """What is marked."""
        return self.kinds

    @abstractmethod
    def mark(self, clip: SeenClip) -> Mapping[str, Marked]:
        """Masks of each kind; an empty mapping for a clip that has no annotation.

        Raises
        ------
        ConfigError
            If a file can't be read as what it should be.
        """

    def _blank(self, clip: SeenClip) -> Marked:
        n_frames = len(clip.frame_index)
        return Marked(
            np.zeros((n_frames, clip.height, clip.width), np.bool_), np.zeros(n_frames, np.bool_)
        )

    def _read(self) -> bytes:
        try:
            content = read_bytes(self.url)
            return unpacked(content) if content[:2] == b"\x1f\x8b" else content
        except _UNREADABLE as error:
            raise ConfigError(f"annotations: can't read {self.url}: {reason_of(error)}") from error

    def _in_folders(self, pattern: str) -> dict[str, list[str]]:
        """Files by the name of the folder that each is in, which is that of a video."""
        files: dict[str, list[str]] = defaultdict(list)
        for path in _found(self.url, pattern):
            files[path.split("/")[-2]].append(path)
        for name, paths in files.items():
            if len({path.rsplit("/", 1)[0] for path in paths}) > 1:
                raise ConfigError(
                    f"annotations: {self.url} has several folders {name!r}: expected one for each "
                    "video"
                )
        return dict(files)

    def _bad(self, where: str, error: Exception) -> ConfigError:
        return ConfigError(f"annotations: {self.url}: {where}: {reason_of(error)}")


class AvaKinetics(Annotations):
    """Boxes of persons at single times: ``video_id, time_s, x1, y1, x2, y2, action, person``.

    Times are seconds of the source video, boxes shares of the frame. A time without a box has
    nobody in it. A frame's truth is known if it lies within ``tolerance_s`` of such a time. A first
    line that names the columns is passed over.
    """

    kinds = (PERSON,)

    @cached_property
    def _boxes(self) -> dict[str, dict[float, set[tuple[float, ...]]]]:
        boxes: dict[str, dict[float, set[tuple[float, ...]]]] = defaultdict(dict)
        number, row = 0, list[str]()
        try:
            text = io.StringIO(self._read().decode("utf-8-sig"), newline=None)
            for number, row in enumerate(csv.reader(text, skipinitialspace=True), 1):
                if not row or (number == 1 and row[0].strip().lower() in ("video_id", "video")):
                    continue
                has_box = any(value.strip() for value in row[2:6])
                if len(row) < (6 if has_box else 2):
                    raise ValueError("expected video_id,time_s,x1,y1,x2,y2 with commas between")
                of_time = boxes[row[0].strip()].setdefault(_finite(row[1]), set())
                # Each action of a person is a row of its own, with the same box.
                if has_box:
                    of_time.add(_box_of_shares(row[2:6]))
        except csv.Error as error:
            raise self._bad(f"behind line {number}", error) from error
        except UnicodeDecodeError as error:
            raise self._bad("expected text in UTF-8", error) from error
        except _UNREADABLE as error:
            raise self._bad(f"line {number} is {','.join(row)[:60]!r}", error) from error
        return dict(boxes)

    def mark(self, clip: SeenClip) -> Mapping[str, Marked]:
        """Mark the persons at annotated times."""
        times = self._boxes.get(clip.video_id)
        if times is None:
            return {}
        if not np.isfinite(clip.start_time_s):
            raise ConfigError(
                f"annotations: times of {self.url} are of the source video, and clip "
                f"{clip.video_id!r} has no start_time in its manifest"
            )
        marked = self._blank(clip)
        for frame, time_s in enumerate(clip.time_s + clip.start_time_s):
            nearest = min(times, key=lambda known_s: abs(known_s - time_s))
            if abs(nearest - time_s) <= self.tolerance_s + 1e-9:
                marked.known[frame] = True
                for x1, y1, x2, y2 in times[nearest]:
                    box = (x1 * clip.width, y1 * clip.height, x2 * clip.width, y2 * clip.height)
                    _fill(marked.masks[frame], box)
        return {PERSON: marked}


class ActivityNet(Annotations):
    """Segments in time, of ActivityNet's JSON: ``database.ID.annotations.segment``.

    Seconds of the whole video. The whole frame counts while an action goes on; all times are known.
    A video of the subset ``testing`` without annotations isn't known: they are held back.
    """

    kinds = (ACTION_TIME,)

    @cached_property
    def _segments(self) -> dict[str, list[tuple[float, float]]]:
        where = "expected database.ID.annotations.segment"
        try:
            database = json.loads(self._read())["database"]
            segments = {}
            for video_id, entry in database.items():
                where = f"expected database.ID.annotations.segment of video {video_id[:40]!r}"
                annotated = entry.get("annotations") or []
                if annotated or str(entry.get("subset", "")).lower() not in ("test", "testing"):
                    segments[video_id] = [_segment(each["segment"]) for each in annotated]
        except _UNREADABLE as error:
            raise self._bad(where, error) from error
        return segments

    def mark(self, clip: SeenClip) -> Mapping[str, Marked]:
        """Mark the frames in which an action goes on."""
        # Files are named v_ID, entries ID.
        name = clip.video_id.removeprefix("v_")
        segments = self._segments.get(clip.video_id, self._segments.get(name))
        if segments is None:
            return {}
        marked = self._blank(clip)
        marked.known[:] = True
        start = clip.start_time_s if np.isfinite(clip.start_time_s) else 0.0
        for frame, time_s in enumerate(clip.time_s + start):
            marked.masks[frame] = any(begin <= time_s <= end for begin, end in segments)
        return {ACTION_TIME: marked}


class SomethingElse(Annotations):
    """Boxes of hands and objects in Something-Something V2 (Something-Else, arXiv 1912.09930).

    JSON: id -> frames, each with ``name`` (``ID/0001.jpg``: frames at 12 per second, from 1) and
    ``labels``: ``standard_category`` (``hand``, or an object's number) and ``box2d`` in pixels.
    """

    kinds = (HAND, OBJECT)
    _FPS = 12.0

    @cached_property
    def _frames(self) -> dict[str, Any]:
        try:
            found = json.loads(self._read())
            return {str(video_id): frames for video_id, frames in found.items()}
        except _UNREADABLE as error:
            raise self._bad("expected a JSON object of videos", error) from error

    def mark(self, clip: SeenClip) -> Mapping[str, Marked]:
        """Mark hands and objects in the annotated frames."""
        frames = self._frames.get(clip.video_id)
        if frames is None:
            return {}
        marked = {kind: self._blank(clip) for kind in self.kinds}
        try:
            by_number = {
                int(str(frame["name"]).rsplit("/", 1)[-1].split(".")[0]) - 1: frame["labels"]
                for frame in frames
            }
            for frame, time_s in enumerate(clip.time_s):
                labels = by_number.get(round(float(time_s) * self._FPS))
                if labels is None:
                    continue
                for kind in self.kinds:
                    marked[kind].known[frame] = True
                for label in labels:
                    kind = HAND if "hand" in label["standard_category"] else OBJECT
                    box = tuple(float(label["box2d"][edge]) for edge in ("x1", "y1", "x2", "y2"))
                    _fill(marked[kind].masks[frame], box)
        except _UNREADABLE as error:
            raise self._bad(f"video {clip.video_id!r}", error) from error
        return marked


class Jhmdb(Annotations):
    """Puppet masks of J-HMDB: ``CLASS/VIDEO/puppet_mask.mat`` with ``part_mask`` (y, x, frame)."""

    kinds = (PERSON,)

    @cached_property
    def _files(self) -> dict[str, str]:
        return {name: path for name, (path,) in self._in_folders("**/puppet_mask.mat").items()}

    def mark(self, clip: SeenClip) -> Mapping[str, Marked]:
        """Mark the person in each frame that has a mask."""
        from scipy.io.matlab import MatReadError

        path = self._files.get(clip.video_id)
        if path is None:
            return {}
        filesystem, _ = open_filesystem(self.url)
        try:
            content = matlab_array(filesystem.cat_file(path), "part_mask")
            stack = np.atleast_3d(content).transpose(2, 0, 1) > 0
            check_masks(stack)
        # The last: files of version 7.3 are HDF5.
        except (*_UNREADABLE, MatReadError, NotImplementedError) as error:
            raise self._bad(path, error) from error
        return {PERSON: _of_frames(clip, stack, f"{self.url}: {path}")}


class Masks(Annotations):
    """A mask for each frame: ``VIDEO/*.png`` in order, 0 where nothing is, or ``VIDEO.npy``.

    Numbers in the pictures' names count as numbers, so that ``10.png`` is behind ``9.png``. Where
    some are left out, as by datasets that annotate every fifth frame, the clip is refused: whether
    the first number is 0 or 1 isn't known, and so neither is where the others belong. An ``.npy``
    holds (frames, height, width) of bool or whole numbers.
    """

    kinds = (OBJECT,)

    @property
    def all_kinds(self) -> tuple[str, ...]:
        """What the masks are said to be of."""
        return (self.kind or OBJECT,)

    @cached_property
    def _pictures(self) -> dict[str, list[str]]:
        found = self._in_folders("**/*.png")
        return {name: sorted(paths, key=natural) for name, paths in found.items()}

    @cached_property
    def _arrays(self) -> dict[str, str]:
        found = _found(self.url, "**/*.npy")
        return {path.rsplit("/", 1)[-1].removesuffix(".npy"): path for path in found}

    def mark(self, clip: SeenClip) -> Mapping[str, Marked]:
        """Mark what is masked in each frame that has a mask."""
        filesystem, _ = open_filesystem(self.url)
        try:
            if clip.video_id in self._arrays:
                stack = numpy_masks(filesystem.cat_file(self._arrays[clip.video_id]))
            elif clip.video_id in self._pictures:
                wanted = self._pictures[clip.video_id]
                check_numbered(wanted)
                stack = np.stack([picture(filesystem.cat_file(path)) for path in wanted])
            else:
                return {}
            check_masks(stack)
        except _UNREADABLE as error:
            raise self._bad(f"masks of {clip.video_id!r}", error) from error
        return {self.all_kinds[0]: _of_frames(clip, stack, f"{self.url}: {clip.video_id}")}


LAYOUTS: dict[str, type[Annotations]] = {
    "ava-kinetics": AvaKinetics,
    "activitynet": ActivityNet,
    "something-else": SomethingElse,
    "jhmdb": Jhmdb,
    "masks": Masks,
}


def _finite(text: str) -> float:
    number = float(text)
    if not np.isfinite(number):
        raise ValueError(f"{text.strip()} is not a time")
    return number


def _box_of_shares(texts: Sequence[str]) -> tuple[float, ...]:
    """Read x1, y1, x2, y2 as shares of the frame."""
    x1, y1, x2, y2 = box = tuple(float(text) for text in texts)
    least, most = -_FARTHEST_SHARE, 1 + _FARTHEST_SHARE
    # NaN is in no order.
    if not (least <= x1 <= x2 <= most and least <= y1 <= y2 <= most):
        raise ValueError("expected a box of shares of the frame, 0 to 1, with x1 <= x2, y1 <= y2")
    return box


def _segment(given: Sequence[Any]) -> tuple[float, float]:
    """Read the two times of a segment, in whichever order they stand."""
    begin, end = sorted(float(time) for time in given)
    if not np.isfinite([begin, end]).all():
        raise ValueError(f"segment is {begin:g} to {end:g}, expected two times")
    return begin, end


def _fill(mask: NDArray[np.bool_], box: tuple[float, ...]) -> None:
    """Set the pixels whose centres lie in a box of pixels (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = box
    if not (np.isfinite(box).all() and x1 <= x2 and y1 <= y2):
        raise ValueError(f"box is {box}, expected x1 <= x2 and y1 <= y2")
    rows = np.arange(mask.shape[0]) + 0.5
    columns = np.arange(mask.shape[1]) + 0.5
    mask |= ((rows >= y1) & (rows < y2))[:, None] & ((columns >= x1) & (columns < x2))[None]


def _of_frames(clip: SeenClip, stack: NDArray[np.bool_], where: str) -> Marked:
    """Take the masks of the frames that were seen; frames behind the last mask aren't known."""
    if stack.shape[1:] != (clip.height, clip.width):
        # A mask of another size is of the same picture, if it has its shape.
        scale = stack.shape[1] / clip.height, stack.shape[2] / clip.width
        if abs(scale[0] / scale[1] - 1) > 0.02:
            raise ConfigError(
                f"annotations: {where} is {stack.shape[1]}x{stack.shape[2]} pixels, the clip "
                f"{clip.height}x{clip.width}: not of one shape"
            )
        rows = ((np.arange(clip.height) + 0.5) * scale[0]).astype(int)
        columns = ((np.arange(clip.width) + 0.5) * scale[1]).astype(int)
        stack = stack[:, rows][:, :, columns]
    known = clip.frame_index < len(stack)
    masks = stack[np.minimum(clip.frame_index, len(stack) - 1)] & known[:, None, None]
    return Marked(masks, known)


def _found(url: str, pattern: str) -> list[str]:
    try:
        filesystem, path = open_filesystem(url)
        found: list[str] = sorted(filesystem.glob(f"{glob.escape(path.rstrip('/'))}/{pattern}"))
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"annotations: can't read {url}: {reason_of(error)}") from error
    if not found and not filesystem.isdir(path):
        raise ConfigError(f"annotations: there is no folder {url}")
    return found
