"""Evidence for a class: what the readout reads for it, and references with a backward pass."""

import torch
from torch import Tensor

from pipeline.attribution.method import Method
from pipeline.models.adapter import Adapter
from pipeline.models.backward import gradient_relevance, held_gradient


def evidence(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Positive evidence of all layers: where the evidence for the class is, in one forward pass."""
    return _explained(model, pixel_values, target, Method(name="evidence", layers="all"))


def signed_evidence(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Signed evidence of all layers: what tells this class from the others."""
    method = Method(name="evidence", layers="all", target="label")
    with torch.inference_mode():
        signed = model.explain(pixel_values, method, target).signed
    assert signed is not None
    return signed


def changed_evidence(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Positive evidence times how far each token is from the clip's median frame."""
    method = Method(name="evidence", layers="all", change_weighted=True)
    return _explained(model, pixel_values, target, method)


def chefer(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Gradient-weighted relevance (Chefer et al. 2021, arXiv 2103.15679): one backward pass."""
    return gradient_relevance(model, pixel_values, target)


def libra_grad(model: Adapter, pixel_values: Tensor, target: Tensor) -> Tensor:
    """Input x Gradient of the tokens with LibraGrad's frozen rules (arXiv 2411.16760)."""
    return held_gradient(model, pixel_values, target, from_median=False)


def _explained(model: Adapter, pixel_values: Tensor, target: Tensor, method: Method) -> Tensor:
    with torch.inference_mode():
        of_class = method.model_copy(update={"target": "label"})
        return model.explain(pixel_values, of_class, target).attribution
