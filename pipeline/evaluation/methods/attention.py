"""Maps made of the model's attention in the forward pass that predicts: blind to the class.

They need a `pipeline.models.adapter.Adapter`, which knows the family's readout.
"""

import torch
from torch import Tensor

from pipeline.attribution.attention import all_rows, capture, heads_averaged
from pipeline.attribution.method import Method
from pipeline.errors import ModelError
from pipeline.models.adapter import Adapter
from pipeline.models.explain import explain
from pipeline.models.timesformer import Timesformer


def staa(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """STAA of the last layer, heads averaged."""
    return _explained(model, pixel_values, Method(name="staa-paper"))


def first_layer(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """STAA of the first layer."""
    return _explained(model, pixel_values, Method(name="staa-paper", layers=(0,)))


def middle_layer(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """STAA of the middle layer, number n // 2 of n from 0: of two layers it is the last one."""
    middle = model.n_layers(model.model.config) // 2
    return _explained(model, pixel_values, Method(name="staa-paper", layers=(middle,)))


def all_layers(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Mean of STAA over all layers."""
    with torch.inference_mode():
        joint = explain(model, pixel_values, Method(name="staa-paper", layers="all")).joint
    return joint.mean(dim=1)


def space(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """STAA of the last layer without attention over time."""
    return _explained(model, pixel_values, Method(name="space"))


def rollout(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Attention rollout (Abnar & Zuidema 2020, arXiv 2005.00928)."""
    return _explained(model, pixel_values, Method(name="rollout"))


def contribution(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Contribution weights in place of attention in the last layer (after 2004.10102)."""
    return _explained(model, pixel_values, Method(name="contribution"))


def rollout_contribution(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Rollout of contribution weights."""
    return _explained(model, pixel_values, Method(name="rollout-contribution"))


def published_attention(model: Timesformer, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Attention as the authors' demo shows it (demo.py of STAA's authors), for TimeSformer.

    The map of frame t is the row of the t-th *patch* in the *first* frame's attention over space,
    heads averaged: ``attentions[-1].mean(1)[0, t + 1, 1:]``. It isn't the row of CLS, and says
    nothing of frame t. It is here to tell what the published pictures show.

    Raises
    ------
    ModelError
        If the model isn't a TimeSformer with divided attention, or has more frames than patches.
    """
    grid = model.grid
    n_patches = grid.height * grid.width
    if not isinstance(model, Timesformer) or "temporal 0" not in model.blocks():
        raise ModelError("published attention: expected a TimeSformer with divided attention")
    if grid.n_times > n_patches:
        raise ModelError(f"published attention: {grid.n_times} frames, but {n_patches} patches")
    last = model.model.timesformer.encoder.layer[-1].attention.attention
    with torch.inference_mode(), capture({"rows": (last, heads_averaged(all_rows))}) as rows:
        model.predict(pixel_values)
    matrix = rows["rows"].reshape(len(pixel_values), grid.n_times, 1 + n_patches, 1 + n_patches)
    joint = matrix[:, 0, 1 : 1 + grid.n_times, 1:]
    return joint / joint.sum(dim=(1, 2), keepdim=True)


def _explained(model: Adapter, pixel_values: Tensor, method: Method) -> Tensor:
    with torch.inference_mode():
        return explain(model, pixel_values, method).joint[:, -1]
