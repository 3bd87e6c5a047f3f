"""Evidence for a class: what the readout reads for it, and references with a backward pass."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.attribution.method import Method
from pipeline.models.adapter import Adapter
from pipeline.models.backward import gradient_relevance, held_gradient_from_median
from pipeline.models.explain import explain
from pipeline.models.frame_importance import by_insertion


def evidence(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Positive evidence of all layers: where the evidence for the class is, in one forward pass."""
    return _explained(model, pixel_values, target)


def plain_evidence(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Positive evidence by the full derivative, that of LayerNorms and activations included."""
    return _explained(model, pixel_values, target, derivative="plain")


def last_evidence(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Positive evidence of the last layer alone."""
    return _explained(model, pixel_values, target, layers="last")


def net_evidence(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Evidence that is left of each patch once what speaks against the class is taken off it."""
    return _explained(model, pixel_values, target, clamp="sum")


def plain_net_evidence(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Net evidence by the full derivative."""
    return _explained(model, pixel_values, target, clamp="sum", derivative="plain")


def evidence_stepped_back(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Positive evidence, of final tokens followed back through the last block where they are read.

    Where a token of its own is the readout, it is `evidence`.
    """
    pools_mean = model.pools_mean(model.model.config)
    return _explained(model, pixel_values, target, step_back=pools_mean)


def net_evidence_stepped_back(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Net evidence, followed back as `evidence_stepped_back`: the default of `jobs.attribute`."""
    pools_mean = model.pools_mean(model.model.config)
    return _explained(model, pixel_values, target, clamp="sum", step_back=pools_mean)


def changed_evidence(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Positive evidence times how far each token is from the clip's median frame."""
    return _explained(model, pixel_values, target, change_weighted=True)


def changed_net_evidence(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Net evidence times how far each token is from the clip's median frame."""
    return _explained(model, pixel_values, target, clamp="sum", change_weighted=True)


def signed_evidence(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Signed evidence of all layers: what tells this class from the others."""
    return _signed(model, pixel_values, _method({}), target)


def plain_signed_evidence(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Signed evidence by the full derivative."""
    return _signed(model, pixel_values, _method({"derivative": "plain"}), target)


def chefer(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Gradient-weighted relevance (Chefer et al. 2021, arXiv 2103.15679): one backward pass."""
    return gradient_relevance(model, pixel_values, target)


def libra_grad(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Signed parts of ``--method libragrad``: LibraGrad's Input x Gradient (arXiv 2411.16760)."""
    return _signed(model, pixel_values, Method(name="libragrad", target="label"), target)


def libra_grad_from_median(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """LibraGrad counted from the clip's median frame: its positive parts are frame importance."""
    return held_gradient_from_median(model, pixel_values, target)


def inserted_frames(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Frame importance by insertion, seven forward passes at most; alike over a frame's patches."""
    grid = model.grid
    of_times = by_insertion(model, pixel_values, target)
    return of_times[:, :, None].expand(-1, -1, grid.height * grid.width)


def _explained(model: Adapter, pixel_values: Tensor, target: Tensor, **options: Any) -> Tensor:
    with torch.inference_mode():
        return explain(model, pixel_values, _method(options), target).attribution


def _signed(model: Adapter, pixel_values: Tensor, method: Method, target: Tensor) -> Tensor:
    with torch.inference_mode():
        signed = explain(model, pixel_values, method, target).signed
    assert signed is not None
    return signed


def _method(options: Mapping[str, Any]) -> Method:
    """Evidence of the given classes, clamped in its parts and not followed back unless told."""
    return Method(
        name="evidence", target="label", **{"clamp": "parts", "step_back": False, **options}
    )
