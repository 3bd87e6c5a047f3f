"""Manifest rows to the model's uint8 input; a clip that fails stays a row with a named status."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.columns import DIGEST_BYTES, Columns
from pipeline.clips.decode import Reading
from pipeline.clips.decoder_process import DECODE, FramesRead, process_decoder
from pipeline.clips.fetch import (
    KEY_BYTES,
    LastRead,
    digest_of,
    fetch_clip,
    file_key,
    is_on_disk,
)
from pipeline.clips.recording import DecoderName
from pipeline.clips.shared_decode import SharedReader, Taking
from pipeline.clips.views import Views
from pipeline.status import DecodeError, Status

if TYPE_CHECKING:
    from pipeline.clips.frames_cache import FramesCache

_LAST_READ: LastRead = {}
"""This process keeps it: each task brings another loader, which remembers nothing."""
_N_ASKED = 8
"""Files whose keys are asked for at once: the time is that of the storage's answers."""


@dataclass(frozen=True)
class ClipLoader:
    """Fetches, decodes, resizes and crops a batch of clips.

    Rows of the same file that lie side by side, its views or its segments, are read in one pass.
    What handles the files' content runs in this process's child, which goes on from batch to batch.
    While it decodes a clip, the next one is fetched. A clip whose frames are in the cache is
    neither fetched nor decoded.

    Reads ``row``, ``video_id``, ``path``, ``label``, ``start_time`` and, for segments,
    ``end_time``; gives every column of the
    store that doesn't need the model, and ``frames`` uint8 (clips, T, height, width, 3), which are
    zeros where ``status`` isn't ok.
    """

    root: str
    views: Views
    input_size: tuple[int, int]
    """Height and width that the model takes, pixels."""
    class_of_label: Mapping[str, int]
    """Class index of every label of the manifest."""
    decode_timeout_s: float = 60.0
    """Time that decoding one file may take; segments that took longer together each have it."""
    decode_memory_bytes: int = 4_000_000_000
    """Memory that decoding one clip may take. A larger file isn't read, since the child, which
    holds all of it, couldn't take it: the clip is ``CRASHED``."""
    witness: str | None = None
    """Path of a clip that was there before the run; see `pipeline.clips.fetch`."""
    decoder: DecoderName = "pyav"
    """What decodes: see `pipeline.clips.recording`."""
    segments: bool = False
    """Whether a row is the part of its file from ``start_time`` to ``end_time``, or all of it."""
    decode: str = DECODE
    """What the child runs; see `pipeline.clips.decoder_process`."""
    fetching: Callable[[], AbstractContextManager[None]] = nullcontext
    """Gives a context that is open while a clip's bytes are waited for."""
    on_clip: Callable[[int], None] = lambda row: None
    """Is told the row of each clip once its frames are there, or it has failed."""
    cache: FramesCache | None = None
    """Where frames are looked for, and left."""
    shared: tuple[SharedReader, ...] = ()
    """Other models of the job, whose frames are decoded in the same pass."""
    known_digests: Mapping[int, bytes] = field(default_factory=dict)
    """Digests of files, by row, as they were read before: a file that is another by now is told to
    be, in place of its frames."""

    def __call__(self, rows: Columns) -> Columns:
        """Load a batch of manifest rows."""
        own = Taking.of_rows(rows["row"], self.views, self.input_size)
        files = _files(rows["path"])
        keys = self._keys(rows["path"], files)
        if self.cache is not None:
            cached = self.cache.read(own.columns, keys)
            own.wanted = ~cached
            for row in rows["row"][cached]:
                self.on_clip(int(row))
        others = [reader.taking(rows["row"], keys, own.wanted) for reader in self.shared]
        self._decode(rows, [same for same in files if own.wanted[same].any()], own, others)
        caches = (self.cache, *(reader.cache for reader in self.shared))
        for cache, taking in zip(caches, (own, *others), strict=True):
            if cache is not None:
                cache.write(taking.columns, keys, taking.taken)
        for clip, row in enumerate(rows["row"].tolist()):
            own.refuse_other_file(clip, self.known_digests.get(row))
        return {
            "video_id": rows["video_id"],
            "start_time": rows["start_time"].astype(np.float64),
            "label": np.array([self._label(label) for label in rows["label"]], np.int32),
            **own.columns,
        }

    def _decode(
        self, rows: Columns, files: Sequence[slice], own: Taking, others: Sequence[Taking]
    ) -> None:
        """Fill in what is wanted of some files, each in one pass."""
        fetch = partial(_fetch, self.root, witness=self.witness, max_bytes=self.decode_memory_bytes)
        videos = self.views.video(rows["row"])
        for same, fetched in _fetched_ahead(fetch, rows["path"], files):
            mine, *theirs = (
                [(taking, clip) for clip in _where(taking.wanted, same)]
                for taking in (own, *others)
            )
            wanted = [*mine, *(part for parts in theirs for part in parts)]
            digest = bytes(DIGEST_BYTES)
            try:
                with self.fetching():
                    data, digest = fetched.result()
                outcomes = self._read(rows, data, wanted)
                alone = [list(views) for _, views in groupby(mine, lambda part: videos[part[1]])]
                if len(wanted) > len(alone[0]) and any(map(_timed_out, outcomes)):
                    # What becomes of a clip must not depend on who shares the pass: other models,
                    # or other segments of the file.
                    outcomes[: len(mine)] = chain.from_iterable(
                        self._read(rows, data, views) for views in alone
                    )
            except DecodeError as error:
                outcomes = [error] * len(wanted)
            for (taking, clip), outcome in zip(wanted, outcomes, strict=True):
                taking.take(clip, outcome, digest)
            for _, clip in mine:
                self.on_clip(int(rows["row"][clip]))

    def _read(
        self, rows: Columns, data: bytes, wanted: Sequence[tuple[Taking, int]]
    ) -> list[FramesRead | DecodeError]:
        return process_decoder(self.decode, self.decode_memory_bytes).decode_into(
            [taking.columns["frames"][clip] for taking, clip in wanted],
            data,
            [self._reading(rows, clip, taking.views) for taking, clip in wanted],
            decoder=self.decoder,
            timeout_s=self.decode_timeout_s,
        )

    def _reading(self, rows: Columns, clip: int, views: Views) -> Reading:
        view = views.of(int(rows["row"][clip]))
        names = ("start_time", "end_time") if self.segments else ()
        bounds = (_seconds(rows[name][clip]) for name in names)
        return Reading(view.sampling, view.preprocessing, *bounds)

    def _keys(self, paths: NDArray[Any], files: Sequence[slice]) -> NDArray[np.uint8]:
        """Keys of the clips as they are now: zeros where there is none, or no cache to ask."""
        keys = np.zeros((len(paths), KEY_BYTES), np.uint8)
        if self.cache is None and not self.shared:
            return keys
        asked = [str(paths[same.start]) for same in files]
        for same, key in zip(files, self._told(asked), strict=True):
            if key is not None:
                keys[same] = np.frombuffer(key, np.uint8)
        return keys

    def _told(self, paths: Sequence[str]) -> list[bytes | None]:
        """Key of each file, as the storage tells it now."""
        key_of = partial(file_key, self.root)
        if is_on_disk(self.root):
            # It answers in less than a thread takes to start.
            return [key_of(path) for path in paths]
        with ThreadPoolExecutor(_N_ASKED) as pool:
            return list(pool.map(key_of, paths))

    def _label(self, label: str | None) -> int:
        return -1 if label is None else self.class_of_label[label]


def _seconds(value: float | None) -> float | None:
    """Give a bound of a segment as a number; manifests have null, and Ray NaN, for none."""
    return None if value is None or np.isnan(value) else float(value)


def _timed_out(outcome: FramesRead | DecodeError) -> bool:
    return isinstance(outcome, DecodeError) and outcome.status is Status.TIMEOUT


def _files(paths: Iterable[str]) -> list[slice]:
    """Where rows of the same file lie side by side."""
    lengths = [len(list(same)) for _, same in groupby(paths)]
    stops = np.cumsum(lengths).tolist()
    return [slice(stop - length, stop) for stop, length in zip(stops, lengths, strict=True)]


def _where(mask: NDArray[np.bool_], part: slice) -> list[int]:
    """Positions in a part of a mask where it is set."""
    found: list[int] = (part.start + np.flatnonzero(mask[part])).tolist()
    return found


def _fetch(root: str, path: str, *, witness: str | None, max_bytes: int) -> tuple[bytes, bytes]:
    data = fetch_clip(root, path, witness, last_read=_LAST_READ, max_bytes=max_bytes)
    return data, digest_of(data)


def _fetched_ahead(
    fetch: Callable[[str], tuple[bytes, bytes]], paths: NDArray[Any], files: Iterable[slice]
) -> Iterator[tuple[slice, Future[tuple[bytes, bytes]]]]:
    """Fetch files in order, each while the one before it is decoded: rows, bytes and digest."""
    with ThreadPoolExecutor(1) as pool:
        current: list[tuple[slice, Future[tuple[bytes, bytes]]]] = []
        for same in files:
            ahead = [(same, pool.submit(fetch, str(paths[same.start])))]
            yield from current
            current = ahead
        yield from current
