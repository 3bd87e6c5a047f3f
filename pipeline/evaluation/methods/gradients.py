"""Gradients with respect to the pixels, summed over each patch.

All three are Captum's: they take inputs of any number of dimensions. A patch's value is the sum of
its pixels' contributions, which are signed: those that speak against the class are negative.
"""

import torch

# Captum comes without types.
from captum.attr import (  # type: ignore[import-untyped]
    InputXGradient,
    IntegratedGradients,
    NoiseTunnel,
)
from torch import Tensor

from pipeline.evaluation.methods.model_free import per_patch
from pipeline.evaluation.perturbation import Classifier, Fill, fill_frames

N_STEPS = 32
"""Points of the integral."""
N_NOISE = 25
"""Noisy copies of a clip, as the paper has between 20 and 50 of them."""
NOISE_LEVEL = 0.15
"""Deviation of the noise, as a share of the clip's range (Smilkov et al. 2017, sec. 4.1)."""


def input_x_gradient(model: Classifier, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Input x Gradient (Shrikumar et al. 2016, arXiv 1605.01713) of the class's logit."""
    pixels = pixel_values.detach().float().requires_grad_()
    attribution = InputXGradient(model.predict).attribute(pixels, target=target)
    return _summed(model, attribution)


def integrated_gradients(
    model: Classifier,
    pixel_values: Tensor,
    target: Tensor,
    *,
    fill: Fill = "blur",
    n_steps: int = N_STEPS,
) -> Tensor:
    """Integrated Gradients (Sundararajan et al. 2017, arXiv 1703.01365) of the class's logit.

    Parameters
    ----------
    fill
        What the clip is compared with. The patches' values sum to logit(clip) - logit(fill), as far
        as the sum over ``n_steps`` points is the integral.
    """
    pixels = pixel_values.detach().float()
    attribution = IntegratedGradients(model.predict).attribute(
        pixels,
        baselines=fill_frames(pixels, fill).contiguous(),
        target=target,
        n_steps=n_steps,
        internal_batch_size=max(len(pixels), 8),
    )
    return _summed(model, attribution)


def smooth_grad(
    model: Classifier,
    pixel_values: Tensor,
    target: Tensor,
    *,
    n_noise: int = N_NOISE,
    noise_level: float = NOISE_LEVEL,
    seed: int = 0,
) -> Tensor:
    """SmoothGrad (Smilkov et al. 2017, arXiv 1706.03825) of Input x Gradient.

    The mean over copies of the clip with noise of ``noise_level`` times the batch's range.
    """
    pixels = pixel_values.detach().float()
    deviation = noise_level * float(pixels.max() - pixels.min())
    pixels.requires_grad_()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        attribution = NoiseTunnel(InputXGradient(model.predict)).attribute(
            pixels,
            nt_type="smoothgrad",
            nt_samples=n_noise,
            nt_samples_batch_size=1,
            stdevs=deviation,
            target=target,
        )
    return _summed(model, attribution)


def _summed(model: Classifier, attribution: Tensor) -> Tensor:
    """Sum signed contributions over colours and the pixels of each patch."""
    grid = model.grid
    n_pixels = grid.frames_per_time * grid.patch_size**2
    return per_patch(model, attribution.detach().sum(dim=2)) * n_pixels
