"""Stages of a run that cost next to nothing, so that what is around them can be measured."""

import time
from dataclasses import dataclass

import numpy as np

from pipeline.clips.columns import Columns
from pipeline.clips.fetch import DIGEST_BYTES
from pipeline.run.plan import Plan
from pipeline.run.steps import Stages
from pipeline.run.tally import Channel
from pipeline.status import Status
from pipeline.store.schema import StoreLayout


@dataclass(frozen=True)
class StandInLoader:
    """Gives a `ClipLoader`'s columns for clips that aren't there: frames of zeros."""

    n_frames: int
    frame_pixels: int
    """Height and width of a frame."""
    seconds: float = 0
    """Time that a batch takes, asleep."""

    def __call__(self, rows: Columns) -> Columns:
        time.sleep(self.seconds)
        n_clips = len(rows["row"])
        size = (n_clips, self.n_frames, self.frame_pixels, self.frame_pixels, 3)
        return {
            "row": rows["row"],
            "video_id": rows["video_id"],
            "start_time": rows["start_time"].astype(np.float64),
            "label": np.full(n_clips, -1, np.int32),
            "frames": np.zeros(size, np.uint8),
            "frame_index": np.zeros((n_clips, self.n_frames), np.int32),
            "frame_time": np.zeros((n_clips, self.n_frames), np.float64),
            "clip_digest": np.zeros((n_clips, DIGEST_BYTES), np.uint8),
            "status": np.full(n_clips, Status.OK, np.uint8),
            "message": np.full(n_clips, "", object),
        }


class StandInAttributor:
    """Gives an `Attributor`'s columns without a model: the same random numbers for every batch.

    Parameters
    ----------
    seconds
        Time that a batch takes, asleep.
    """

    def __init__(self, layout: StoreLayout, *, seconds: float = 0) -> None:
        self._seconds = seconds
        self._arrays = layout.arrays()
        random = np.random.default_rng(0)
        grid = (layout.n_times, layout.height, layout.width)
        self._spatial = random.random(grid, np.float32).astype(np.float16)
        self._temporal = random.random(layout.n_times, np.float32)
        self._ranks = np.arange(layout.n_ranks, dtype=np.int32)
        self._probabilities = random.random(layout.n_ranks, np.float32)

    def __call__(self, batch: Columns) -> Columns:
        time.sleep(self._seconds)
        n_clips = len(batch["row"])

        def repeated(values: np.ndarray) -> np.ndarray:
            return np.repeat(values[None], n_clips, axis=0)

        of_batch = {name: values for name, values in batch.items() if name != "frames"}
        return {
            **{
                name: np.zeros((n_clips, *spec.shape), spec.dtype)
                for name, spec in self._arrays.items()
                if spec.dtype != "str"
            },
            **of_batch,
            "spatial": repeated(self._spatial),
            "temporal": repeated(self._temporal),
            "prediction": repeated(self._ranks[0]),
            "probability": repeated(self._probabilities[0]),
            "label_probability": np.full(n_clips, np.nan, np.float32),
            "top_classes": repeated(self._ranks),
            "top_probabilities": repeated(self._probabilities),
        }


@dataclass(frozen=True)
class StandInStages:
    """Makes the stages of a plan out of stand-ins; pass it to `execute` as ``stages_of``."""

    frame_pixels: int
    load_seconds: float = 0
    attribute_seconds: float = 0

    def __call__(self, plan: Plan, device: str, channel: Channel) -> Stages:
        return Stages(
            load=StandInLoader(plan.layout.n_frames, self.frame_pixels, self.load_seconds),
            attribute=StandInAttributor,
            attribute_arguments={"layout": plan.layout, "seconds": self.attribute_seconds},
            attribute_bytes=500_000_000,
        )
