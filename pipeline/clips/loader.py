"""Manifest rows to the model's uint8 input; a clip that fails stays a row with a named status."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from pipeline.clips.columns import Columns
from pipeline.clips.decoder_process import DECODE, process_decoder
from pipeline.clips.fetch import fetch_clip
from pipeline.clips.views import Views
from pipeline.errors import DecodeError
from pipeline.status import Status


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
    views: Views
    input_size: tuple[int, int]
    """Height and width that the model takes, pixels."""
    class_of_label: Mapping[str, int]
    """Class index of every label of the manifest."""
    decode_timeout_s: float = 60.0
    """Time that decoding one clip may take."""
    decode_memory_bytes: int = 4_000_000_000
    """Memory that decoding one clip may take."""
    decode: str = DECODE
    """What the child runs; see `pipeline.clips.decoder_process`."""

    def __call__(self, rows: Columns) -> Columns:
        """Load a batch of manifest rows."""
        n_clips, n_frames = len(rows["row"]), next(iter(self.views)).sampling.n_samples
        frames = np.zeros((n_clips, n_frames, *self.input_size, 3), np.uint8)
        frame_index = np.full((n_clips, n_frames), -1, np.int32)
        status = np.full(n_clips, Status.OK, np.uint8)
        message = np.full(n_clips, "", object)
        decoder = process_decoder(self.decode, self.decode_memory_bytes)
        for clip, fetched in enumerate(_fetched_ahead(self.root, rows["path"])):
            view = self.views.of(int(rows["row"][clip]))
            try:
                frame_index[clip] = decoder.decode_into(
                    frames[clip],
                    fetched.result(),
                    view.sampling,
                    view.preprocessing,
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


def _fetched_ahead(root: str, paths: Iterable[str]) -> Iterator[Future[bytes]]:
    """Fetch clips in order, each while the one before it is decoded; views of one share it."""
    with ThreadPoolExecutor(1) as pool:
        current: list[Future[bytes]] = []
        for path, same in groupby(paths):
            ahead = [pool.submit(fetch_clip, root, str(path))] * len(list(same))
            yield from current
            current = ahead
        yield from current
