"""Relevance by a backward pass: for who pays for it, and to hold cheaper methods against.

- `GradientWeighted`: the relevance of Chefer et al. (arXiv 2103.15679, eq. 5 and 6),
  ``R <- R + E_h[(dA * A)+] R``, followed as a row from the readout. Its layers compose as rollout's
  do, those of divided attention too.
- `held`: the three rules of LibraGrad (Mehri et al., arXiv 2411.16760): softmax, LayerNorm's
  deviation and the activation's gate have no derivative, so that input x gradient is complete.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2CLS

from pipeline.attribution.attention import Scores, softmax_held
from pipeline.attribution.column import Norm

_ACTIVATIONS = tuple({kind if isinstance(kind, type) else kind[0] for kind in ACT2CLS.values()})


@dataclass(frozen=True, eq=False)
class GradientWeighted:
    """One attention, weighed by the derivative of a logit: I + E_h[(dA * A)+].

    No matrix is formed: ``dA_h[i, j] = <G_h[i], v_h[j]>`` with G the derivative by what the heads
    read together.
    """

    scores: Scores
    """With values."""
    gradient: Tensor
    """(batch, queries, heads * head_dim): G, by what each query reads."""
    n_copies: int = 1
    """Batch items in which the first token stands: each has the share of the one that they are."""

    def back(self, shares: Tensor) -> Tensor:
        """Add to shares (batch, queries) float32 what they are relevant by: (batch, tokens).

        Those of a first token's copies sum to its share.
        """
        relevance = shares.clone()
        readers = shares.clone()
        readers[:, 0] *= self.n_copies
        for items, queries, softmax in self.scores.pieces():
            weighted = self._weighted(items, queries, softmax)
            relevance[items] += (readers[items, None, queries] @ weighted)[:, 0]
        return relevance

    def row(self) -> Tensor:
        """Weights of the first query: (batch, tokens) float32, which sum to anything."""
        first = slice(0, 1)
        return self._weighted(slice(None), first, self.scores.rows(first))[:, 0]

    def _weighted(self, items: slice, queries: slice, softmax: Tensor) -> Tensor:
        if self.scores.value is None:
            raise ValueError("relevance takes the values that the scores weigh")
        value = self.scores.value[items].float()
        gradient = self.gradient[items, queries].float()
        by_head = gradient.reshape(*gradient.shape[:2], value.shape[1], -1).transpose(1, 2)
        weighted: Tensor = softmax * (by_head @ value.transpose(-2, -1))
        return weighted.clamp(min=0).mean(1)


class _Valued(torch.autograd.Function):
    """A module's value, with the derivative of what gives the same but for rounding."""

    @staticmethod
    def forward(ctx: Any, derived: Tensor, value: Tensor) -> Tensor:
        """Give the value."""
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Pass the gradient on to what is derived."""
        return gradients[0], None


class _LinearByInput(torch.autograd.Function):
    """A linear layer's value, with its derivative by the input alone, which needn't be kept."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, value: Tensor, weight: Tensor) -> Tensor:
        """Give the value."""
        ctx.weight, ctx.dtype = weight, given.dtype
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Bring the gradient to the input."""
        return (gradients[0] @ ctx.weight.to(gradients[0].dtype)).to(ctx.dtype), None, None


@contextmanager
def held(model: nn.Module, *, norm_offset: float = 0.0, exact: bool = False) -> Iterator[None]:
    """While open, gradients pass by softmaxes, LayerNorms' deviations and activations' gates.

    The model's values stay as they are but for rounding. For a forward pass that isn't compiled.

    Parameters
    ----------
    norm_offset
        What the weights of the model's LayerNorms are counted from.
    exact
        Whether the model's values stay as they are to the bit. Linear layers are derived by their
        inputs alone then, and these needn't be kept.
    """

    def norm(module: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        bias = None if module.bias is None else module.bias.detach()
        frozen = Norm(module.weight.detach(), bias, module.eps, norm_offset)
        return valued(frozen(inputs[0].float(), frozen=True).to(output.dtype), output)

    def activation(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        (hidden,) = inputs
        gate = torch.where(hidden == 0, 0, output.detach() / hidden.detach())
        return valued(hidden * gate, output)

    def valued(derived: Tensor, output: Tensor) -> Tensor:
        # Detached, so that what the module itself would be derived by isn't kept.
        return _applied(_Valued, derived, output.detach()) if exact else derived

    def linear(module: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return _applied(_LinearByInput, inputs[0], output.detach(), module.weight.detach())

    with ExitStack() as stack:
        stack.enter_context(softmax_held(model.modules()))
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                stack.callback(module.register_forward_hook(norm).remove)
            elif isinstance(module, _ACTIVATIONS):
                stack.callback(module.register_forward_hook(activation).remove)
            elif exact and isinstance(module, nn.Linear):
                stack.callback(module.register_forward_hook(linear).remove)
        yield


def _applied(function: type[torch.autograd.Function], *given: Tensor) -> Tensor:
    # torch gives it no types.
    result: Tensor = function.apply(*given)  # type: ignore[no-untyped-call]
    return result
