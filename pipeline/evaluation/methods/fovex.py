"""FovEx (Panda et al. 2024, arXiv 2408.02123): a fovea looks where the prediction needs sharpness.

The paper's fovea moves over a picture; here it moves in time, too (our extension): the clip starts
blurred in space and time, and becomes sharp around each fixation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.evaluation.perturbation import Classifier

N_FIXATIONS = 10
N_STEPS = 20
STEP = 0.1
"""Step of the descent by signs, on an axis from -1 to 1."""
SPREAD = 0.15
"""Width of a fixation's Gaussian, exp(-d^2 / SPREAD)."""
FORGETTING = 0.1
"""What is left of the sharpness of earlier fixations."""
SIGMA_PX = 10.0
SIGMA_FRAMES = 1.0


def fovex(
    model: Classifier,
    pixel_values: Tensor,
    target: Tensor,
    *,
    seed: int = 0,
    n_fixations: int = N_FIXATIONS,
    n_steps: int = N_STEPS,
) -> Tensor:
    """Sum of the fixations' Gaussians, on the grid: 200 forward and backward passes a clip.

    For each fixation, ``n_steps`` steps by the sign of the gradient lower the cross-entropy of the
    class; a step that is no better than the best so far sends the fovea to a random place. The best
    place is kept as it was evaluated (the paper's code keeps the one that it moved to then).
    """
    grid = model.grid
    generator = torch.Generator().manual_seed(seed)
    maps = []
    axes = [_places(n) for n in (grid.n_frames, *grid.input_size)]
    pixels_at = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    axes = [_centres(n) for n in (grid.n_times, grid.height, grid.width)]
    patches_at = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    for clip in range(len(pixel_values)):
        fixations = _fixations(
            model,
            pixel_values[clip : clip + 1].float(),
            target[clip : clip + 1],
            pixels_at,
            generator,
            n_fixations,
            n_steps,
        )
        maps.append(sum((_gaussian(patches_at, place) for place in fixations), torch.zeros(())))
    return torch.stack([value.flatten(1) for value in maps])


def _fixations(
    model: Classifier,
    clip: Tensor,
    target: Tensor,
    places: Tensor,
    generator: torch.Generator,
    n_fixations: int,
    n_steps: int,
) -> list[Tensor]:
    places = places.to(clip.device)
    blurred = _blurred(clip)
    sharpness = blurred - clip
    seen = torch.zeros(places.shape[:-1], device=clip.device)
    chosen: list[Tensor] = []
    for _ in range(n_fixations):
        place, best, best_loss = torch.zeros(3), torch.zeros(3), float("inf")
        for _ in range(n_steps):
            with torch.enable_grad():
                at = place.clone().to(clip.device).requires_grad_()
                left = (1 - seen - _gaussian(places, at)).clamp(0, 1)
                logits = model.predict(clip + sharpness * left[None, :, None])
                loss = F.cross_entropy(logits.float(), target.to(logits.device))
                (gradient,) = torch.autograd.grad(loss, at)
            value = loss.item()
            if value < best_loss:
                best, best_loss = place, value
                place = (place - STEP * gradient.sign().cpu()).clamp(-1, 1)
            else:
                place = 2 * torch.rand(3, generator=generator) - 1
        chosen.append(best)
        seen = FORGETTING * seen + _gaussian(places, best.to(clip.device))
    return chosen


def _gaussian(places: Tensor, centre: Tensor) -> Tensor:
    return torch.exp(-((places - centre) ** 2).sum(dim=-1) / SPREAD)


def _places(n: int) -> Tensor:
    """Place of each frame or pixel on an axis from -1 to 1; a single one is in the middle."""
    return torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1)


def _centres(n: int) -> Tensor:
    return (2 * torch.arange(n) + 1) / n - 1


def _blurred(clip: Tensor) -> Tensor:
    """Blur a clip (1, frames, 3, height, width) in space and over time, mirrored at its edges."""
    volume = clip[0].transpose(0, 1)[:, None]
    for axis, sigma in ((0, SIGMA_FRAMES), (1, SIGMA_PX), (2, SIGMA_PX)):
        size = volume.shape[2 + axis]
        radius = min(round(3 * sigma), size - 1)
        if radius == 0:
            continue
        offsets = torch.arange(-radius, radius + 1, device=clip.device, dtype=torch.float32)
        kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
        shape, padding = [1, 1, 1], [0] * 6
        shape[axis] = len(kernel)
        padding[4 - 2 * axis] = padding[5 - 2 * axis] = radius
        volume = F.conv3d(
            F.pad(volume, padding, mode="reflect"), (kernel / kernel.sum()).reshape(1, 1, *shape)
        )
    return volume[:, 0].transpose(0, 1)[None]
