"""What the rest of the pipeline knows of a model, whatever its family."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.attention import ATTENTION
from pipeline.config import Method
from pipeline.errors import ModelError
from pipeline.sampling import Sampling


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
    def input_size(self) -> tuple[int, int]:
        """Height and width of the frames that the model takes, pixels."""
        return self.height * self.patch_size, self.width * self.patch_size


@dataclass(frozen=True)
class Explanation:
    """What one forward pass says of a batch: the prediction, and what it was read from."""

    logits: Tensor
    """(clips, classes), in the model's precision."""
    joint: Tensor
    """(clips, T, P) float32; the joint attribution, sums to 1 over (T, P)."""


class Adapter(ABC):
    """A loaded model of one family, ready to explain batches.

    A family is a subclass in a file of its own and a line in `pipeline.models.registry`.
    """

    model_class: ClassVar[type[PreTrainedModel]]

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._run_on_sdpa()

    def _run_on_sdpa(self) -> None:
        """Switch the model's attention over to one that `capture_rows` can read, in place."""
        self.model.set_attn_implementation(ATTENTION)

    @staticmethod
    @abstractmethod
    def geometry(config: PretrainedConfig) -> Geometry:
        """Grid of a checkpoint; `ModelError` if this family can't explain it."""

    @staticmethod
    @abstractmethod
    def published_sampling(config: PretrainedConfig) -> Sampling:
        """How the family's published checkpoints choose the frames they are tested on."""

    @staticmethod
    def n_layers(config: PretrainedConfig) -> int:
        """Layers that `Method.layer` chooses from: those that the readout attends in."""
        return int(config.num_hidden_layers)

    @staticmethod
    def has_temporal_attention(config: PretrainedConfig) -> bool:
        """Whether attention over time is a step of its own, that `Method.residual` can mix."""
        return False

    @abstractmethod
    def explain(self, pixel_values: Tensor, method: Method) -> Explanation:
        """Predict and attribute in one forward pass.

        Parameters
        ----------
        pixel_values
            (clips, frames, 3, height, width), normalised, in the model's precision.
        """


def tubelet_geometry(
    n_frames: int, image_size: int | Sequence[int], tubelet: Sequence[int]
) -> Geometry:
    """Grid of a model that cuts its frames into tubelets, and takes frames of one size only.

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
