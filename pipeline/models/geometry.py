"""The grid on which a model attends, and the frames that it takes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pipeline.errors import ModelError


@dataclass(frozen=True)
class Geometry:
    """The grid on which a model attends: the shape of its attributions."""

    n_times: int
    """Steps in time, T. With tubelets, fewer than the frames."""
    height: int
    """Rows of patches."""
    width: int
    """Columns of patches."""
    patch_size: int
    """Side of a patch, in pixels of the model's input."""
    frames_per_time: int = 1
    """Frames in one step; more than 1 with tubelets."""

    @property
    def n_frames(self) -> int:
        """Frames that the model sees of a clip."""
        return self.n_times * self.frames_per_time

    @property
    def clip_bytes(self) -> int:
        """Size of a clip's frames as the model takes them: uint8 (T, height, width, 3)."""
        return math.prod((self.n_frames, *self.input_size, 3))

    def unfolded(self, shares: Tensor) -> Tensor:
        """Unfold tokens (..., T * P), frame after frame, to (..., T, P)."""
        return shares.reshape(*shares.shape[:-1], self.n_times, self.height * self.width)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the frames that the model takes, pixels."""
        return self.height * self.patch_size, self.width * self.patch_size


def tubelet_geometry(
    n_frames: int, image_size: int | Sequence[int], tubelet: Sequence[int]
) -> Geometry:
    """Grid of a model that cuts its frames into tubelets and takes frames of one size only.

    Parameters
    ----------
    image_size
        Pixels: one number for a square, or (height, width).
    tubelet
        (frames, rows, columns) of one token.

    Raises
    ------
    ModelError
        If tubelets aren't square, or don't fill the frame.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    frames, patch, columns = tubelet
    if patch != columns or size[0] % patch or size[1] % patch:
        raise ModelError(
            f"model: tubelets of {patch}x{columns} pixels in frames of {size[0]}x{size[1]} are not "
            "supported: expected squares that fill the frame"
        )
    return Geometry(
        n_times=n_frames // frames,
        height=size[0] // patch,
        width=size[1] // patch,
        patch_size=patch,
        frames_per_time=frames,
    )
