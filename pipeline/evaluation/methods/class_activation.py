"""The Grad-CAM family on tokens: activations and gradients of what enters the last block.

CLS reads the patches in the last block for the last time, so what leaves them there has no
gradient; what enters it has. Captum's LayerGradCam averages gradients over the trailing dimensions
of a picture's layout (channels before places), which tokens don't have; hence written here.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.models.adapter import Adapter


def grad_cam(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391): relu of channels weighted by gradient.

    A channel's weight is the mean of its gradient over all patches of the clip.
    """
    activation, gradient = _last_block(model, pixel_values, target)
    weights = gradient.mean(dim=(1, 2), keepdim=True)
    return (activation * weights).sum(dim=-1).clamp_min(0)


def grad_cam_plus_plus(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Grad-CAM++ (Chattopadhay et al. 2018, arXiv 1710.11063), weighted by place.

    alpha = g^2 / (2 g^2 + sum_places A g^3), 0 where the denominator is.
    """
    activation, gradient = _last_block(model, pixel_values, target)
    square = gradient**2
    denominator = 2 * square + (activation * gradient**3).sum(dim=(1, 2), keepdim=True)
    alpha = torch.where(denominator != 0, square / denominator, 0.0)
    weights = (alpha * gradient.clamp_min(0)).sum(dim=(1, 2), keepdim=True)
    return (activation * weights).sum(dim=-1).clamp_min(0)


def hi_res_cam(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """HiResCAM (Draelos & Carin 2020, arXiv 2011.08891): relu of activation times gradient."""
    activation, gradient = _last_block(model, pixel_values, target)
    return (activation * gradient).sum(dim=-1).clamp_min(0)


def layer_cam(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """LayerCAM (Jiang et al. 2021): each place's positive gradients weight its activations."""
    activation, gradient = _last_block(model, pixel_values, target)
    return (activation * gradient.clamp_min(0)).sum(dim=-1).clamp_min(0)


def _timesformer(model: Adapter) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    grid = model.grid

    def in_time_order(tokens: Tensor) -> Tensor:
        # A patch's tokens lie together, behind CLS.
        patches = tokens[:, 1:].reshape(len(tokens), grid.height * grid.width, grid.n_times, -1)
        return patches.transpose(1, 2)

    return model.model.timesformer.encoder.layer[-1], in_time_order


def _vivit(model: Adapter) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    return model.model.vivit.layers[-1], lambda tokens: _unfolded(model, tokens[:, 1:])


def _videomae(model: Adapter) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    layers = model.model.videomae.encoder.layer
    return layers[-1], lambda tokens: _unfolded(model, tokens)


_LAST_BLOCK = {"timesformer": _timesformer, "vivit": _vivit, "videomae": _videomae}


def _unfolded(model: Adapter, tokens: Tensor) -> Tensor:
    grid = model.grid
    return tokens.reshape(len(tokens), grid.n_times, grid.height * grid.width, -1)


def _last_block(model: Adapter, pixel_values: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Activations and gradients of what enters the last block: (clips, T, P, channels) each.

    Raises
    ------
    ModelError
        If the family's tokens aren't known here.
    """
    family = model.model.config.model_type
    if family not in _LAST_BLOCK:
        raise ModelError(
            f"Grad-CAM: {family} is not known, expected one of {', '.join(_LAST_BLOCK)}"
        )
    block, unfold = _LAST_BLOCK[family](model)
    entering: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        entering.append(args[0])

    handle = block.register_forward_pre_hook(keep)
    try:
        with torch.enable_grad():
            logits = model.predict(pixel_values.float().requires_grad_())
            chosen = logits.gather(1, target.to(logits.device)[:, None]).sum()
            (gradient,) = torch.autograd.grad(chosen, entering[0])
    finally:
        handle.remove()
    return unfold(entering[0].detach()), unfold(gradient)
