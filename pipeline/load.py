"""Manifest rows to the model's uint8 input; a clip that fails stays a row with a named status."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoder import DECODE, process_decoder
from pipeline.errors import DecodeError, StorageError
from pipeline.fetch import fetch_clip
from pipeline.metrics import RunMetrics
from pipeline.preprocess import Preprocessing
from pipeline.sampling import Sampling
from pipeline.status import Status
from pipeline.store import PendingRows

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ClipLoader:
    """Fetches, decodes, resizes and crops a batch of clips.

    What handles the files' content runs in this process's child, which goes on from batch to batch.
    While it decodes a clip, the next one is fetched.

    Reads ``row``, ``video_id``, ``path``, ``label`` and ``start_time``; gives every column of the
    store that doesn't need the model, and ``frames`` uint8 (clips, T, height, width, 3), which are
    zeros where ``status`` isn't ok.
    """

    root: str
    views: Sequence[tuple[Sampling, Preprocessing]]
    """How the frames of each view of a video are taken and cropped: row by row, in turn."""
    input_size: tuple[int, int]
    """Height and width that the model takes, pixels."""
    class_of_label: Mapping[str, int]
    """Class index of every label of the manifest."""
    decode_timeout_s: float = 60.0
    """Time that decoding one clip may take."""
    decode_memory_bytes: int = 4_000_000_000
    """Memory that decoding one clip may take."""
    decode: str = DECODE
    """What the child runs; see `pipeline.decoder`."""

    def __call__(self, rows: Columns) -> Columns:
        """Load a batch of manifest rows."""
        n_clips, n_frames = len(rows["row"]), self.views[0][0].n_samples
        frames = np.zeros((n_clips, n_frames, *self.input_size, 3), np.uint8)
        frame_index = np.full((n_clips, n_frames), -1, np.int32)
        status = np.full(n_clips, Status.OK, np.uint8)
        message = np.full(n_clips, "", object)
        decoder = process_decoder(self.decode, self.decode_memory_bytes)
        for clip, fetched in enumerate(_fetched_ahead(self.root, rows["path"])):
            sampling, preprocessing = self.views[rows["row"][clip] % len(self.views)]
            try:
                frame_index[clip] = decoder.decode_into(
                    frames[clip],
                    fetched.result(),
                    sampling,
                    preprocessing,
                    timeout_s=self.decode_timeout_s,
                )
            except DecodeError as error:
                status[clip] = error.status
                message[clip] = error.message
        return {
            "row": rows["row"],
            "video_id": rows["video_id"],
            "start_time": rows["start_time"].astype(np.float64),
            "label": np.array([self._label(label) for label in rows["label"]], np.int32),
            "frames": frames,
            "frame_index": frame_index,
            "status": status,
            "message": message,
        }

    def _label(self, label: str | None) -> int:
        return -1 if label is None else self.class_of_label[label]


@dataclass(frozen=True)
class LoadPending:
    """A loader of clips for the rows that are pending, telling how long a task took.

    Rows that are done keep their place in the batch, with status pending and zeros: batches have
    the same shape whichever of their rows are computed, and so the results have the same bits. What
    is stored of these rows stays, see `pipeline.store.write_shard`.
    """

    load: Callable[[Columns], Columns]
    pending: PendingRows
    metrics: RunMetrics

    def __call__(self, rows: Columns) -> Columns:
        """Load some manifest rows; a `StorageError` says which."""
        mask = self.pending.mask(rows["row"])
        try:
            with self.metrics.seconds_of("decode"):
                loaded = self.load({name: values[mask] for name, values in rows.items()})
        except StorageError as error:
            first, last = rows["row"][0], rows["row"][-1]
            raise StorageError(f"rows {first} to {last}: {error}") from error
        columns = {name: _spread(values, mask) for name, values in loaded.items()}
        return columns | {"row": rows["row"]}


def _fetched_ahead(root: str, paths: Iterable[str]) -> Iterator[Future[bytes]]:
    """Fetch clips in order, each while the one before it is decoded; views of one share it."""
    with ThreadPoolExecutor(1) as pool:
        current: list[Future[bytes]] = []
        for path, same in groupby(paths):
            ahead = [pool.submit(fetch_clip, root, str(path))] * len(list(same))
            yield from current
            current = ahead
        yield from current


def _spread(values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Put values where the mask is set, and zeros or empty texts elsewhere."""
    if mask.all():
        return values
    spread = np.zeros((len(mask), *values.shape[1:]), values.dtype)
    if values.dtype == object:
        spread[:] = ""
    spread[mask] = values
    return spread
