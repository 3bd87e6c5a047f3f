"""Maps that don't ask the model: what every method has to beat."""

import numpy as np
import torch
from torch import Tensor

from pipeline.attribution.baselines import center_gaussian
from pipeline.evaluation.perturbation import Classifier


def random_map(model: Classifier, pixel_values: Tensor, target: Tensor, *, seed: int = 0) -> Tensor:
    """Give uniform noise; another for each clip of a batch, the same for each call."""
    grid = model.grid
    shape = (len(pixel_values), grid.n_times, grid.height * grid.width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def uniform_map(model: Classifier, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Give every patch the same."""
    grid = model.grid
    return torch.ones(len(pixel_values), grid.n_times, grid.height * grid.width)


def center_map(model: Classifier, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Give a Gaussian around the frame's centre: people film what matters in the middle."""
    grid = model.grid
    gaussian = center_gaussian(grid.n_times, grid.height, grid.width)
    return torch.from_numpy(gaussian).float().flatten(1).expand(len(pixel_values), -1, -1)


def frame_difference(model: Classifier, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Mean absolute change of a patch's pixels from one frame to the next, and from the one before.

    The first and the last frame have one neighbour. Of a still clip, or of one frame, it is 0.
    """
    values = pixel_values.float()
    change = torch.zeros_like(values)
    if values.shape[1] > 1:
        steps = values.diff(dim=1).abs()
        change[:, :-1] += steps
        change[:, 1:] += steps
        change[:, 1:-1] /= 2
    return per_patch(model, change.sum(dim=2))


def median_difference(model: Classifier, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of a patch's pixels from the clip's median frame."""
    values = pixel_values.float()
    median = torch.from_numpy(np.median(values.cpu().numpy(), axis=1, keepdims=True))
    return per_patch(model, (values - median.to(values)).abs().sum(dim=2))


def per_patch(model: Classifier, pixels: Tensor) -> Tensor:
    """Mean of pixels over each patch: (clips, frames, height, width) to (clips, T, P)."""
    grid = model.grid
    blocks = pixels.reshape(
        *(len(pixels), grid.n_times, grid.frames_per_time),
        *(grid.height, grid.patch_size, grid.width, grid.patch_size),
    )
    return blocks.mean(dim=(2, 4, 6)).flatten(2)
