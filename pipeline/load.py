"""Manifest rows to the model's uint8 input; a clip that fails stays a row with a named status."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decode import load_clip
from pipeline.errors import DecodeError
from pipeline.preprocess import Preprocessing
from pipeline.sampling import Sampling
from pipeline.status import Status

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ClipLoader:
    """Fetches, decodes, resizes and crops a batch of clips.

    Reads ``row``, ``video_id``, ``path``, ``label`` and ``start_time``; gives every column of the
    store that doesn't need the model, and ``frames`` uint8 (clips, T, height, width, 3), which are
    zeros where ``status`` isn't ok.
    """

    root: str
    sampling: Sampling
    preprocessing: Preprocessing
    input_size: tuple[int, int]
    """Height and width that the model takes, pixels."""
    class_of_label: Mapping[str, int]
    """Class index of every label of the manifest."""

    def __call__(self, rows: Columns) -> Columns:
        """Load a batch of manifest rows."""
        n_clips, n_frames = len(rows["row"]), self.sampling.n_samples
        frames = np.zeros((n_clips, n_frames, *self.input_size, 3), np.uint8)
        frame_index = np.full((n_clips, n_frames), -1, np.int32)
        status = np.full(n_clips, Status.OK, np.uint8)
        message = np.full(n_clips, "", object)
        for clip, path in enumerate(rows["path"]):
            try:
                frames[clip], frame_index[clip] = self._load(str(path))
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

    def _load(self, path: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        clip = load_clip(self.root, path, self.sampling)
        return self.preprocessing.resize_and_crop(clip.frames), clip.frame_index

    def _label(self, label: str | None) -> int:
        return -1 if label is None else self.class_of_label[label]
