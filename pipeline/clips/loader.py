"""Manifest rows to the model's uint8 input; a clip that fails stays a row with a named status."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from pipeline.clips.columns import DIGEST_BYTES, Columns
from pipeline.clips.decode import Reading
from pipeline.clips.decoder_process import DECODE, process_decoder
from pipeline.clips.fetch import digest_of, fetch_clip
from pipeline.clips.recording import DecoderName
from pipeline.clips.views import Views
from pipeline.status import DecodeError, Status


@dataclass(frozen=True)
class ClipLoader:
    """Fetches, decodes, resizes and crops a batch of clips.

    Rows of the same file that lie side by side, its views or its segments, are read in one pass.
    What handles the files' content runs in this process's child, which goes on from batch to batch.
    While it decodes a clip, the next one is fetched.

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
    """Time that decoding one file may take."""
    decode_memory_bytes: int = 4_000_000_000
    """Memory that decoding one clip may take."""
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
    """Is told the row of each clip once it was decoded, or has failed."""

    def __call__(self, rows: Columns) -> Columns:
        """Load a batch of manifest rows."""
        n_clips, n_frames = len(rows["row"]), next(iter(self.views)).sampling.n_samples
        frames = np.zeros((n_clips, n_frames, *self.input_size, 3), np.uint8)
        frame_index = np.full((n_clips, n_frames), -1, np.int32)
        frame_time = np.full((n_clips, n_frames), np.nan)
        clip_digest = np.zeros((n_clips, DIGEST_BYTES), np.uint8)
        status = np.full(n_clips, Status.OK, np.uint8)
        message = np.full(n_clips, "", object)
        decoder = process_decoder(self.decode, self.decode_memory_bytes)
        for same, fetched in _fetched_ahead(self.root, rows["path"], self.witness):
            readings = [self._reading(rows, clip) for clip in range(same.start, same.stop)]
            try:
                with self.fetching():
                    data, digest = fetched.result()
                clip_digest[same] = np.frombuffer(digest, np.uint8)
                outcomes = decoder.decode_into(
                    frames[same],
                    data,
                    readings,
                    decoder=self.decoder,
                    timeout_s=self.decode_timeout_s,
                )
            except DecodeError as error:
                outcomes = [error] * len(readings)
            for clip, outcome in enumerate(outcomes, start=same.start):
                if isinstance(outcome, DecodeError):
                    status[clip], message[clip] = outcome.status, outcome.message
                else:
                    frame_index[clip], frame_time[clip] = outcome
            for row in rows["row"][same]:
                self.on_clip(int(row))
        return {
            "row": rows["row"],
            "video_id": rows["video_id"],
            "start_time": rows["start_time"].astype(np.float64),
            "label": np.array([self._label(label) for label in rows["label"]], np.int32),
            "frames": frames,
            "frame_index": frame_index,
            "frame_time": frame_time,
            "clip_digest": clip_digest,
            "status": status,
            "message": message,
        }

    def _reading(self, rows: Columns, clip: int) -> Reading:
        view = self.views.of(int(rows["row"][clip]))
        names = ("start_time", "end_time") if self.segments else ()
        bounds = (_seconds(rows[name][clip]) for name in names)
        return Reading(view.sampling, view.preprocessing, *bounds)

    def _label(self, label: str | None) -> int:
        return -1 if label is None else self.class_of_label[label]


def _seconds(value: float | None) -> float | None:
    """Give a bound of a segment as a number; manifests have null, and Ray NaN, for none."""
    return None if value is None or np.isnan(value) else float(value)


def _fetch(root: str, path: str, witness: str | None) -> tuple[bytes, bytes]:
    data = fetch_clip(root, path, witness)
    return data, digest_of(data)


def _fetched_ahead(
    root: str, paths: Iterable[str], witness: str | None
) -> Iterator[tuple[slice, Future[tuple[bytes, bytes]]]]:
    """Fetch clips in order, each while the one before it is decoded: rows, bytes and digest."""
    with ThreadPoolExecutor(1) as pool:
        current: list[tuple[slice, Future[tuple[bytes, bytes]]]] = []
        start = 0
        for path, same in groupby(paths):
            stop = start + len(list(same))
            ahead = [(slice(start, stop), pool.submit(_fetch, root, str(path), witness))]
            start = stop
            yield from current
            current = ahead
        yield from current
