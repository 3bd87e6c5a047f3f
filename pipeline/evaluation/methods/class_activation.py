"""The Grad-CAM family on tokens: activations and gradients of what the last attention takes in.

The readout reads the patches there for the last time: CLS in the last block, a pooler's query in
its own, a mean in all tokens' last exchange. These tokens have been through the LayerNorm before
it, as in pytorch-grad-cam, which takes ``blocks[-1].norm1``: before that LayerNorm HiResCAM is 0
wherever CLS is read, since nothing behind it changes when a patch's token is scaled.

Captum's LayerGradCam averages gradients over the trailing dimensions of a picture's layout
(channels before places), which tokens don't have; hence written here.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.adapter import Adapter


def grad_cam(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391): relu of channels weighted by gradient.

    A channel's weight is the mean of its gradient over all patches of the clip.
    """
    activation, gradient = _last_tokens(model, pixel_values, target)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (activation * weights).sum(dim=1).clamp_min(0)


def grad_cam_plus_plus(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Grad-CAM++ (Chattopadhay et al. 2018, arXiv 1710.11063), weighted by place.

    alpha = g^2 / (2 g^2 + sum_places A g^3), 0 where the denominator is.
    """
    activation, gradient = _last_tokens(model, pixel_values, target)
    square = gradient**2
    denominator = 2 * square + (activation * gradient**3).sum(dim=(2, 3), keepdim=True)
    alpha = torch.where(denominator != 0, square / denominator, 0.0)
    weights = (alpha * gradient.clamp_min(0)).sum(dim=(2, 3), keepdim=True)
    return (activation * weights).sum(dim=1).clamp_min(0)


def hi_res_cam(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """HiResCAM (Draelos & Carin 2020, arXiv 2011.08891): relu of activation times gradient."""
    activation, gradient = _last_tokens(model, pixel_values, target)
    return (activation * gradient).sum(dim=1).clamp_min(0)


def layer_cam(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """LayerCAM (Jiang et al. 2021): each place's positive gradients weight its activations."""
    activation, gradient = _last_tokens(model, pixel_values, target)
    return (activation * gradient.clamp_min(0)).sum(dim=1).clamp_min(0)


def _last_tokens(model: Adapter, pixel_values: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Activations and gradients of what the last attention takes in: (clips, channels, T, P)."""
    attention = list(model.blocks().values())[-1].attention
    tokens: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        # A pooler's cross-attention takes its query first, and then the tokens.
        tokens.append(args[1] if len(args) > 1 and isinstance(args[1], Tensor) else args[0])

    handle = attention.register_forward_pre_hook(keep)
    try:
        with torch.enable_grad():
            # Detached, so that the caller's clips don't ask for a gradient from then on.
            logits = model.predict(pixel_values.detach().float().requires_grad_())
            chosen = logits.gather(1, target.to(logits.device)[:, None]).sum()
            (gradient,) = torch.autograd.grad(chosen, tokens[0])
    finally:
        handle.remove()
    # The grid's arrangement is that of values by head: here a channel is one.
    return (
        model.tokens_on_grid(tokens[0].detach().transpose(1, 2)),
        model.tokens_on_grid(gradient.transpose(1, 2)),
    )
