"""Models for the tests of evaluation: set by hand, and random ones."""

import numpy as np
import torch
from torch import Tensor
from transformers import TimesformerConfig, TimesformerForVideoClassification

from pipeline.models.geometry import Geometry
from pipeline.models.timesformer import Timesformer
from pipeline.synthetic.hand_set_model import contributions, hand_set_clips, hand_set_model

N_CLIPS = 5


def hand_set(n_clips: int = N_CLIPS, seed: int = 0):
    """Adapter of the model set by hand, clips, and what each token adds to the label's logit."""
    clips = hand_set_clips(n_clips, seed)
    true = contributions(clips.pixel_values)[np.arange(n_clips), clips.labels]
    return Timesformer(hand_set_model()), clips, true


def random_timesformer(seed: int = 0) -> Timesformer:
    """A TimeSformer of random weights: 4 frames of 3x3 patches, 5 classes."""
    torch.manual_seed(seed)
    config = TimesformerConfig(
        image_size=24,
        patch_size=8,
        num_frames=4,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=5,
    )
    model = TimesformerForVideoClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return Timesformer(model)


class Linear:
    """Logits that are linear in the pixels: the contribution of each is its weight times it."""

    def __init__(self, grid: Geometry, n_classes: int, seed: int = 0) -> None:
        self.grid = grid
        size = (n_classes, grid.n_frames, 3, *grid.input_size)
        self.weight = torch.randn(size, generator=torch.Generator().manual_seed(seed)) / 50
        self.n_seen = 0

    def predict(self, pixel_values: Tensor) -> Tensor:
        self.n_seen += len(pixel_values)
        return torch.einsum("ntchw,ktchw->nk", pixel_values, self.weight)

    def contributions(self, pixel_values: Tensor, target) -> np.ndarray:
        """(clips, T, P): what each token adds to the target's logit."""
        grid = self.grid
        parts = pixel_values * self.weight[target]
        shape = (len(parts), grid.n_times, grid.frames_per_time, 3)
        shape += (grid.height, grid.patch_size, grid.width, grid.patch_size)
        return parts.reshape(shape).sum(dim=(2, 3, 5, 7)).flatten(2).double().numpy()
