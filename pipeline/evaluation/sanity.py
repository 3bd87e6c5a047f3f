"""Sanity: an explanation changes with the model and with the class, and holds still otherwise.

- Cascading randomisation (Adebayo et al. 2018, arXiv 1810.03292): parameters are replaced by noise
  from the classifier downwards, and each map is held against the true model's. A map that stays the
  same doesn't explain the model.
- Class sensitivity: the map of one class against that of another one.
- Max-sensitivity (Yeh et al. 2019, arXiv 1901.09392): how far a map moves under noise that nobody
  sees.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.evaluation.shapley import rank_agreement

Float64Array = NDArray[np.float64]
Explain = Callable[[Tensor], NDArray[np.floating]]
"""From pixel values to maps (clips, T, P)."""

_BLOCK = re.compile(r"^.*?(?:\b|_)layers?\.\d+")
"""Prefix of a transformer block's parameters, as ``encoder.layer.3`` or ``spatial_layers.3``."""
_READ_LAST = ("pooler", "pooler.cross_attention_layer")
"""Stages of V-JEPA 2's pooler that are registered first: its query, and what that reads by."""


def pearson(one: NDArray[np.floating], other: NDArray[np.floating]) -> Float64Array:
    """Correlation of two maps of each clip, (clips, ...) to (clips,); 1 if both are constant.

    0 if one of them is: it has nothing of the other.
    """
    rows = [np.asarray(values, np.float64).reshape(len(values), -1) for values in (one, other)]
    centred = [values - values.mean(axis=1, keepdims=True) for values in rows]
    # A constant map of floats has a deviation of rounding.
    constant = [np.ptp(values, axis=1) == 0 for values in rows]
    norms = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    defined = ~(constant[0] | constant[1]) & (norms > 0)
    products = (centred[0] * centred[1]).sum(axis=1)
    result = np.divide(products, norms, out=np.zeros(len(products)), where=defined)
    return np.where(constant[0] & constant[1], 1.0, result)


def spearman(one: NDArray[np.floating], other: NDArray[np.floating]) -> Float64Array:
    """Rank correlation of two maps of each clip, (clips, ...) to (clips,); 0 of a constant one."""
    return rank_agreement(one.reshape(len(one), -1), other.reshape(len(other), -1))


def stages(model: nn.Module) -> list[tuple[str, list[nn.Parameter]]]:
    """Parameters from the output to the input: the classifier, each block, the embeddings.

    A stage is a transformer block, or what is registered between blocks below one name.
    """
    named = [(name, name.rpartition(".")[0].split("."), p) for name, p in model.named_parameters()]
    roots = {module[0] for name, module, _ in named if _BLOCK.match(name)}
    grouped: dict[str, list[nn.Parameter]] = {}
    for name, module, parameter in named:
        block = _BLOCK.match(name)
        # A module without blocks, such as a pooling head, is one stage.
        key = block[0] if block else ".".join(module[: 2 if module[0] in roots else 1])
        grouped.setdefault(key, []).append(parameter)
    # Registered from the input to the output, but for a pooler that reads behind its own blocks.
    names = list(grouped)[::-1]
    first = next((place for place, name in enumerate(names) if name.startswith("pooler")), 0)
    late = [name for name in names if name in _READ_LAST]
    names = [*names[:first], *late, *(name for name in names[first:] if name not in late)]
    return [(name, grouped[name]) for name in names]


@contextmanager
def randomised(model: nn.Module, seed: int, *, n_stages: int | None = None) -> Iterator[list[str]]:
    """While open, the upper stages of a model are noise; gives their names.

    Each tensor becomes normal noise of its own mean and deviation, so that signals keep their size.
    Tensors of one value, such as an untouched LayerNorm's, get a deviation of 0.1.

    Parameters
    ----------
    n_stages
        How many stages, from the classifier down; all of them, by default.
    """
    chosen = stages(model)[:n_stages]
    kept = {parameter: parameter.detach().clone() for _, group in chosen for parameter in group}
    generator = torch.Generator().manual_seed(seed)
    try:
        with torch.no_grad():
            for parameter in kept:
                deviation = float(parameter.std(correction=0)) or 0.1
                noise = torch.randn(parameter.shape, generator=generator) * deviation
                parameter.copy_(noise.to(parameter) + parameter.mean())
        yield [name for name, _ in chosen]
    finally:
        with torch.no_grad():
            for parameter, values in kept.items():
                parameter.copy_(values)


def cascading_randomisation(
    model: nn.Module, explain: Explain, pixel_values: Tensor, *, seed: int = 0
) -> dict[str, Float64Array]:
    """Correlation of the true model's maps with those of the model as it is randomised downwards.

    Parameters
    ----------
    model
        The module whose parameters ``explain`` depends on; it is as before afterwards.

    Returns
    -------
    Pearson's correlation (clips,), by the lowest stage that is noise
    """
    true = explain(pixel_values)
    result = {}
    for n_stages in range(1, len(stages(model)) + 1):
        with randomised(model, seed, n_stages=n_stages) as names:
            result[names[-1]] = pearson(true, explain(pixel_values))
    return result


def class_sensitivity(
    of_target: NDArray[np.floating], of_other: NDArray[np.floating]
) -> Float64Array:
    """Correlation of a clip's maps for two classes: 1 is a map that is blind to the class.

    Parameters
    ----------
    of_target, of_other
        (clips, T, P)

    Returns
    -------
    (clips,) float64, -1 to 1; lower is more specific
    """
    return pearson(of_target, of_other)


def max_sensitivity(
    explain: Explain,
    pixel_values: Tensor,
    *,
    radius: float = 0.02,
    n_samples: int = 10,
    seed: int = 0,
) -> Float64Array:
    """Largest relative change of a map under uniform noise of at most ``radius`` a value.

    max over noise of ||map(x + noise) - map(x)|| / ||map(x)||, in the Euclidean norm.

    Returns
    -------
    (clips,) float64; 0 for a map that doesn't look at the clip, and for one of zeros that stays so
    """
    generator = torch.Generator().manual_seed(seed)
    true = np.asarray(explain(pixel_values), np.float64).reshape(len(pixel_values), -1)
    norms = np.linalg.norm(true, axis=1)
    largest = np.zeros(len(true))
    for _ in range(n_samples):
        noise = (2 * torch.rand(pixel_values.shape, generator=generator) - 1) * radius
        moved = np.asarray(explain(pixel_values + noise.to(pixel_values)), np.float64)
        distance = np.linalg.norm(moved.reshape(true.shape) - true, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            largest = np.fmax(largest, distance / norms)
    return largest
