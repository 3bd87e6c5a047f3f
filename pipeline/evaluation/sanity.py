"""Sanity: an explanation changes with the model and with the class, and holds still otherwise.

- Cascading randomisation (Adebayo et al. 2018, arXiv 1810.03292): parameters are replaced by noise
  from the classifier downwards, and each map is held against the true model's. A map that stays the
  same doesn't explain the model.
- Class sensitivity: the map of one class against that of another one.
- Max-sensitivity (Yeh et al. 2019, arXiv 1901.09392): how far a map moves under noise that nobody
  sees.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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

    0 if one of them is: it has nothing of the other. NaN if a map has a value that isn't finite.
    """
    rows = [np.asarray(values, np.float64).reshape(len(values), -1) for values in (one, other)]
    finite = np.asarray(np.isfinite(np.concatenate(rows, axis=1)).all(axis=1))
    rows = [np.where(finite[:, None], values, 0.0) for values in rows]
    centred = [values - values.mean(axis=1, keepdims=True) for values in rows]
    # A constant map of floats has a deviation of rounding.
    constant = [np.ptp(values, axis=1) == 0 for values in rows]
    norms = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    defined = ~(constant[0] | constant[1]) & (norms > 0)
    products = (centred[0] * centred[1]).sum(axis=1)
    result = np.divide(products, norms, out=np.zeros(len(products)), where=defined)
    return np.where(finite, np.where(constant[0] & constant[1], 1.0, result), np.nan)


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


Noise = Mapping[nn.Parameter, Tensor]
"""What takes the place of some parameters, each of the parameter's shape, dtype and device."""


def noise_of(model: nn.Module, seed: int, *, n_stages: int | None = None) -> Noise:
    """Draw noise for the upper stages of a model.

    Each tensor becomes normal noise of its own mean and deviation, so that signals keep their size.
    Tensors of one value, such as an untouched LayerNorm's, get a deviation of 0.1.

    Parameters
    ----------
    n_stages
        How many stages, from the classifier down; all of them, by default.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = {}
    with torch.no_grad():
        # A parameter that two stages share is drawn once.
        for parameter in dict.fromkeys(p for _, group in stages(model)[:n_stages] for p in group):
            deviation = float(parameter.std(correction=0)) or 0.1
            drawn = torch.randn(parameter.shape, generator=generator) * deviation
            noise[parameter] = drawn.to(parameter) + parameter.mean()
    return noise


@contextmanager
def replaced(noise: Noise) -> Iterator[None]:
    """While open, parameters are what is given in their place; nothing is copied."""
    kept = {parameter: parameter.data for parameter in noise}
    try:
        for parameter, values in noise.items():
            parameter.data = values
        yield
    finally:
        for parameter, values in kept.items():
            parameter.data = values


@contextmanager
def randomised(model: nn.Module, seed: int, *, n_stages: int | None = None) -> Iterator[list[str]]:
    """While open, the upper stages of a model are noise, by `noise_of`; gives their names."""
    with replaced(noise_of(model, seed, n_stages=n_stages)):
        yield [name for name, _ in stages(model)[:n_stages]]


def cascade_depths(model: nn.Module, at_most: int) -> tuple[int, ...]:
    """Numbers of stages to randomise one after the other, for a cascade of bounded cost.

    The classifier alone, then all that is behind each transformer block and the block, the last
    block first. Of more than ``at_most`` these are spread evenly, with the first and the last one.

    Parameters
    ----------
    at_most
        2 or more.

    Returns
    -------
    For `randomised`, rising; from 1, without the embeddings below the first block
    """
    blocks = [n for n, (name, _) in enumerate(stages(model), start=1) if _BLOCK.match(name)]
    depths = [1, *blocks]
    n_kept = min(at_most, len(depths))
    return tuple(
        depths[place] for place in np.linspace(0, len(depths) - 1, n_kept).round().astype(int)
    )


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
    (clips,) float64, as `largest_change`; 0 for a map that doesn't look at the clip
    """
    moved = [
        explain(pixel_values + noise)
        for noise in pixel_noise(pixel_values, radius=radius, n_samples=n_samples, seed=seed)
    ]
    return largest_change(explain(pixel_values), moved)


def pixel_noise(
    pixel_values: Tensor, *, radius: float, n_samples: int, seed: int
) -> Iterator[Tensor]:
    """Draw uniform noise of at most ``radius`` a value, of the clips' shape."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n_samples):
        noise = (2 * torch.rand(pixel_values.shape, generator=generator) - 1) * radius
        yield noise.to(pixel_values)


def largest_change(
    true: NDArray[np.floating], moved: Sequence[NDArray[np.floating]]
) -> Float64Array:
    """Largest of ||moved - true|| / ||true||, in the Euclidean norm: maps (clips, ...) to (clips,).

    0 for a map of zeros that stays so. NaN for one that doesn't, as nothing is relative to it, and
    where a value isn't a number.
    """
    values = np.asarray(true, np.float64).reshape(len(true), -1)
    norms = np.linalg.norm(values, axis=1)
    largest = np.zeros(len(values))
    for each in moved:
        distance = np.linalg.norm(
            np.asarray(each, np.float64).reshape(values.shape) - values, axis=1
        )
        undefined = np.where(distance == 0, 0.0, np.nan)
        change = np.divide(distance, norms, out=undefined, where=norms > 0)
        # Unlike `fmax`, which would leave NaN out.
        largest = np.maximum(largest, change)
    return largest
