"""The registry of methods: what each is called, what it needs, and what it costs.

A method is one function ``(model, pixel_values, target) -> (clips, T, P)`` and one line here.
``pixel_values`` are (clips, frames, 3, height, width), normalised, on the model's device;
``target`` is (clips,) int64. Higher is more important; a map may be signed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.evaluation.methods import (
    attention,
    class_activation,
    evidence,
    fovex,
    gradients,
    model_free,
    perturbations,
)

Explain = Callable[..., Tensor]
"""Takes ``(model, pixel_values, target)``, and options by name. The model is a
`pipeline.evaluation.perturbation.Classifier`, or an `Adapter` where attention or tokens are read.
"""
Needs = Literal["nothing", "attention", "gradients", "forward passes"]


@dataclass(frozen=True)
class Explainer:
    """A method and what is known of it."""

    explain: Explain
    needs: Needs
    is_class_specific: bool
    """Whether the map is of the class that was asked for; the others are the same for all."""


def _of(explain: Explain, needs: Needs, *, is_class_specific: bool = False) -> Explainer:
    return Explainer(explain, needs, is_class_specific)


METHODS: dict[str, Explainer] = {
    "random": _of(model_free.random_map, "nothing"),
    "uniform": _of(model_free.uniform_map, "nothing"),
    "centre": _of(model_free.center_map, "nothing"),
    "frame difference": _of(model_free.frame_difference, "nothing"),
    "median difference": _of(model_free.median_difference, "nothing"),
    "published attention": _of(attention.published_attention, "attention"),
    "staa": _of(attention.staa, "attention"),
    "staa first layer": _of(attention.first_layer, "attention"),
    "staa middle layer": _of(attention.middle_layer, "attention"),
    "staa all layers": _of(attention.all_layers, "attention"),
    "staa space": _of(attention.space, "attention"),
    "rollout": _of(attention.rollout, "attention"),
    "contribution": _of(attention.contribution, "attention"),
    "contribution rollout": _of(attention.rollout_contribution, "attention"),
    **{
        name: _of(explain, "attention", is_class_specific=True)
        for name, explain in (
            ("evidence", evidence.evidence),
            ("evidence plain", evidence.plain_evidence),
            ("evidence last layer", evidence.last_evidence),
            ("net evidence", evidence.net_evidence),
            ("net evidence plain", evidence.plain_net_evidence),
            ("evidence stepped back", evidence.evidence_stepped_back),
            ("net evidence stepped back", evidence.net_evidence_stepped_back),
            ("signed evidence", evidence.signed_evidence),
            ("signed evidence plain", evidence.plain_signed_evidence),
            ("change-weighted evidence", evidence.changed_evidence),
            ("change-weighted net evidence", evidence.changed_net_evidence),
        )
    },
    "Chefer": _of(evidence.chefer, "gradients", is_class_specific=True),
    "LibraGrad": _of(evidence.libra_grad, "gradients", is_class_specific=True),
    "LibraGrad from median": _of(
        evidence.libra_grad_from_median, "gradients", is_class_specific=True
    ),
    "inserted frames": _of(evidence.inserted_frames, "forward passes", is_class_specific=True),
    "Grad-CAM": _of(class_activation.grad_cam, "gradients", is_class_specific=True),
    "Grad-CAM++": _of(class_activation.grad_cam_plus_plus, "gradients", is_class_specific=True),
    "HiResCAM": _of(class_activation.hi_res_cam, "gradients", is_class_specific=True),
    "LayerCAM": _of(class_activation.layer_cam, "gradients", is_class_specific=True),
    "Input x Gradient": _of(gradients.input_x_gradient, "gradients", is_class_specific=True),
    "Integrated Gradients": _of(
        gradients.integrated_gradients, "gradients", is_class_specific=True
    ),
    "SmoothGrad": _of(gradients.smooth_grad, "gradients", is_class_specific=True),
    "FovEx": _of(fovex.fovex, "gradients", is_class_specific=True),
    "occlusion": _of(perturbations.occlusion, "forward passes", is_class_specific=True),
    "RISE": _of(perturbations.rise, "forward passes", is_class_specific=True),
    "LIME": _of(perturbations.lime, "forward passes", is_class_specific=True),
    "KernelSHAP": _of(perturbations.kernel_shap, "forward passes", is_class_specific=True),
}
"""By the name that tables show."""

PRODUCT_DEFAULT = "net evidence stepped back"
"""The one that `jobs.attribute` computes without ``--method``; tables mark it."""


def explain(name: str, model: Any, pixel_values: Tensor, target: Tensor, **options: Any) -> Tensor:
    """Run a method on a batch, and check what it gives.

    Parameters
    ----------
    options
        Of the method, for example how many samples it takes.

    Returns
    -------
    (clips, T, P) float32 on the CPU

    Raises
    ------
    ConfigError
        If there is no such method.
    ValueError
        If what it gives has another shape, or NaN.
    """
    if name not in METHODS:
        raise ConfigError(f"method: {name!r} is not one of {', '.join(METHODS)}")
    grid = model.grid
    expected = (len(pixel_values), grid.n_times, grid.height * grid.width)
    result = METHODS[name].explain(model, pixel_values, target, **options).detach().float().cpu()
    if tuple(result.shape) != expected or not torch.isfinite(result).all():
        raise ValueError(
            f"method {name!r} gave {tuple(result.shape)}, expected finite values {expected}"
        )
    return result
