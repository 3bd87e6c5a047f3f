"""Shapley value of each time step: the reference for *when*.

A coalition is a set of steps; the others show the clip's median frame, or another fill, which is
named wherever a figure stands. The value of a coalition is the log-odds of the class,
logit_c - logsumexp(the other logits): a probability near 1 would hide what the second half of the
evidence adds. The values sum to the whole effect, v(all) - v(none), whatever the order of frames.

The reference has noise of its own: it is another after the clip was shifted by two pixels. So
`repeatability`, its agreement with itself, stands beside each figure. A profile that asks the same
model about the same pixels can agree better; what it has found beyond that doesn't repeat.
"""

from collections.abc import Callable
from math import comb

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import rankdata
from torch import Tensor

from pipeline.evaluation.perturbation import Classifier, Fill, Probe

Float64Array = NDArray[np.float64]

MAX_EXACT_STEPS = 8
"""Steps up to which all 2^T coalitions are asked."""
N_PERMUTATIONS = 64
"""Orders of the steps that are sampled beyond, each with its reverse."""
SHIFT_PX = 2


def log_odds(given: NDArray[np.floating], target: NDArray[np.integer]) -> Float64Array:
    """Log-odds of each clip's class: (..., clips, classes) to (..., clips) float64.

    For a model of one class it is the logit.
    """
    logits: Float64Array = np.asarray(given, np.float64)
    clips = np.arange(len(target))
    chosen: Float64Array = logits[..., clips, target]
    if logits.shape[-1] == 1:
        return chosen
    others = np.broadcast_to(logits, logits.shape).copy()
    others[..., clips, target] = -np.inf
    odds: Float64Array = chosen - logsumexp(others, axis=-1)
    return odds


def frame_shapley(
    probe: Probe,
    target: NDArray[np.integer],
    *,
    fill: Fill = "median",
    seed: int = 0,
    n_permutations: int = N_PERMUTATIONS,
) -> Float64Array:
    """Shapley values of a batch's time steps, exact up to `MAX_EXACT_STEPS` and sampled beyond.

    Parameters
    ----------
    target
        (clips,): classes.
    seed, n_permutations
        Seed of the sample.

    Returns
    -------
    (clips, T) float64, log-odds; sums to v(all) - v(none)
    """
    n_times = probe.grid.n_times
    if n_times <= MAX_EXACT_STEPS:
        coalitions = all_coalitions(n_times)
        return exact_shapley(coalition_values(probe, coalitions, target, fill))
    return sampled_shapley(
        lambda coalitions: coalition_values(probe, coalitions, target, fill),
        n_times,
        np.random.default_rng(seed),
        n_permutations,
    )


def coalition_values(
    probe: Probe, coalitions: NDArray[np.bool_], target: NDArray[np.integer], fill: Fill
) -> Float64Array:
    """Log-odds of the target when only a coalition's steps are there: (coalitions, clips).

    Parameters
    ----------
    coalitions
        (coalitions, T) bool
    """
    n_patches = probe.grid.height * probe.grid.width
    shape = (len(coalitions), probe.n_clips, probe.grid.n_times, n_patches)
    removed = np.broadcast_to(~coalitions[:, None, :, None], shape)
    return log_odds(probe.logits(removed, fill), target)


def all_coalitions(n_times: int) -> NDArray[np.bool_]:
    """Every subset, (2^T, T) bool; row k holds the steps of k's binary digits."""
    numbers = np.arange(2**n_times)
    return np.asarray((numbers[:, None] >> np.arange(n_times)) % 2 == 1)


def exact_shapley(values: Float64Array) -> Float64Array:
    """Shapley values from those of all coalitions (Shapley 1953).

    phi_t = sum over S without t of |S|! (T - |S| - 1)! / T! (v(S + t) - v(S)).

    Parameters
    ----------
    values
        (2^T, clips), in the order of `all_coalitions`.

    Returns
    -------
    (clips, T) float64
    """
    n_times = (len(values) - 1).bit_length()
    coalitions = all_coalitions(n_times)
    sizes = coalitions.sum(axis=1)
    result = np.empty((values.shape[1], n_times))
    for step in range(n_times):
        without = np.flatnonzero(~coalitions[:, step])
        weights = 1 / (n_times * np.array([comb(n_times - 1, size) for size in sizes[without]]))
        result[:, step] = weights @ (values[without + (1 << step)] - values[without])
    return result


def sampled_shapley(
    value: Callable[[NDArray[np.bool_]], Float64Array],
    n_times: int,
    generator: np.random.Generator,
    n_permutations: int = N_PERMUTATIONS,
) -> Float64Array:
    """Estimate by orders of the steps, each beside its reverse (Castro et al. 2009).

    The values of each order sum to v(all) - v(none), and so do their means.

    Parameters
    ----------
    value
        From (coalitions, T) bool to (coalitions, clips).

    Returns
    -------
    (clips, T) float64
    """
    total: Float64Array | float = 0.0
    for _ in range(n_permutations):
        forwards = generator.permutation(n_times)
        for order in (forwards, forwards[::-1]):
            coalitions = np.zeros((n_times + 1, n_times), np.bool_)
            for place, step in enumerate(order):
                coalitions[place + 1 :, step] = True
            gains = np.diff(value(coalitions), axis=0)
            of_step = np.empty_like(gains)
            of_step[order] = gains
            total = total + of_step.T
    return np.asarray(total / (2 * n_permutations))


def rank_agreement(one: NDArray[np.floating], other: NDArray[np.floating]) -> Float64Array:
    """Spearman's correlation of each row: (clips, T) twice to (clips,).

    0 where a row is constant: it orders nothing. One step agrees with itself: 1. NaN where a value
    is: it has no rank.
    """
    if one.shape != other.shape:
        raise ValueError(f"one is {one.shape} and other {other.shape}: not the same")
    is_number = ~(np.isnan(one) | np.isnan(other)).any(axis=1)
    if one.shape[1] == 1:
        return np.where(is_number, 1.0, np.nan)
    ranks = [rankdata(values, axis=1) for values in (one, other)]
    centred = [rank - rank.mean(axis=1, keepdims=True) for rank in ranks]
    norms = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    products = (centred[0] * centred[1]).sum(axis=1)
    result = np.zeros(len(one))
    np.divide(products, norms, out=result, where=norms > 0)
    return np.where(is_number, result, np.nan)


def repeatability(
    model: Classifier,
    pixel_values: Tensor,
    target: NDArray[np.integer],
    values: Float64Array,
    *,
    fill: Fill = "median",
    seed: int = 0,
    batch_size: int = 16,
) -> Float64Array:
    """Agreement of the reference with itself on the clip shifted by two pixels: (clips,).

    Parameters
    ----------
    values
        (clips, T): `frame_shapley` of the clips as they are.
    """
    probe = Probe(model, shifted(pixel_values), batch_size=batch_size)
    return rank_agreement(values, frame_shapley(probe, target, fill=fill, seed=seed + 1))


def shifted(pixel_values: Tensor, pixels: int = SHIFT_PX) -> Tensor:
    """Move frames down and right; the edge is repeated where nothing is left."""
    height, width = pixel_values.shape[-2:]
    rows = (torch.arange(height, device=pixel_values.device) - pixels).clamp(min=0)
    columns = (torch.arange(width, device=pixel_values.device) - pixels).clamp(min=0)
    return pixel_values[..., rows, :][..., columns]
