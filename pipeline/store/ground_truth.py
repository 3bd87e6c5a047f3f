"""Ground truth of a synthetic dataset, seen through a model's eyes: its frames, its patches."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.clips.preprocess import Preprocessing
from pipeline.errors import StoreError
from pipeline.storage.zarr_store import zarr_location


@dataclass(frozen=True)
class GroundTruth:
    """Masks and windows of a dataset's clips, by ``video_id``."""

    masks: Any
    """Zarr array (clip, frame, y, x) bool."""
    index_of: dict[str, int]
    windows: NDArray[np.float64]
    """(clip, 2): start and end of the action, seconds from the clip's start."""
    fps: NDArray[np.float64]
    n_frames: NDArray[np.int32]

    def patches(
        self,
        video_id: str,
        frame_index: NDArray[np.integer],
        preprocessing: Preprocessing,
        grid: tuple[int, int, int],
    ) -> NDArray[np.float32]:
        """Share of each patch that the actor covers while it acts.

        Parameters
        ----------
        frame_index
            (frames,): the frames that the model saw; a multiple of the grid's times.
        grid
            Times, rows and columns of the model's patches.

        Returns
        -------
        (times, rows, columns) float32, 0 to 1; 0 in frames outside the action's window

        Raises
        ------
        StoreError
            If there is no such clip, or it has no such frames.
        """
        if video_id not in self.index_of:
            raise StoreError(f"clip {video_id!r} of the run has no ground truth")
        clip = self.index_of[video_id]
        n_frames = int(self.n_frames[clip])
        if frame_index.min() < 0 or frame_index.max() >= n_frames:
            raise StoreError(
                f"clip {video_id!r} of the run has frames {frame_index.min()} to "
                f"{frame_index.max()}, its ground truth has {n_frames}: it is of other clips"
            )
        masks = np.asarray(self.masks[clip])[frame_index]
        pixels = preprocessing.resize_and_crop_mask(masks)
        time_s = frame_index / self.fps[clip]
        start_s, end_s = self.windows[clip]
        pixels[(time_s < start_s) | (time_s > end_s)] = 0
        n_times, rows, columns = grid
        n_seen, height, width = pixels.shape
        blocks = pixels.reshape(
            n_times, n_seen // n_times, rows, height // rows, columns, width // columns
        )
        result: NDArray[np.float32] = blocks.mean(axis=(1, 3, 5), dtype=np.float32)
        return result


def open_ground_truth(url: str) -> GroundTruth:
    """Open the ``ground_truth.zarr`` of a synthetic dataset.

    Raises
    ------
    StoreError
        If there is none at the URL.
    """
    try:
        group: Any = zarr.open_group(zarr_location(url), mode="r")
        return GroundTruth(
            masks=group["mask"],
            index_of={str(video_id): clip for clip, video_id in enumerate(group["video_id"][:])},
            windows=np.asarray(group["window"][:]),
            fps=np.asarray(group["fps"][:]),
            n_frames=np.asarray(group["n_frames"][:]),
        )
    except KeyError as error:
        raise StoreError(f"no ground truth at {url}: it has no array {error}") from error
    # ImportError: fsspec has no driver of the protocol.
    except (OSError, ValueError, ImportError) as error:
        raise StoreError(f"no ground truth at {url}: {error}") from error
