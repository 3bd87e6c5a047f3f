"""Whether the prediction depends on what the attribution says: curves and drops.

Every figure is a value per clip, and is given relative to the same figure of random orders: what
the size of the hole alone does to the prediction is no merit of a map. A constant map is a random
order; a clip whose probability doesn't change has 0 everywhere, and one whose map has NaN has NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.perturbation import (
    Fill,
    Probe,
    Unit,
    descending,
    first_parts,
    probability_of,
    unit_scores,
    where_ordered,
)

Float64Array = NDArray[np.float64]

N_STEPS = 10
"""Equal steps of a curve, from nothing to everything."""
FRACTIONS = (0.02, 0.05, 0.1, 0.2)
"""Shares of the patches that are removed, or alone kept."""
CONTRASTIVE_FRACTION = 0.05
N_RANDOM = 4
"""Random orders that a figure is held against."""


@dataclass(frozen=True)
class Curves:
    """Probability of the target as parts are removed, or put into the filled clip, best first."""

    shares: Float64Array
    """(points,): share of the parts, from 0 to 1."""
    deletion: Float64Array
    """(points, clips): p(target) without that share."""
    insertion: Float64Array
    """(points, clips): p(target) with nothing but that share."""

    @property
    def gap(self) -> Float64Array:
        """Area under insertion less that under deletion: (clips,), -1 to 1."""
        return np.asarray(np.trapezoid(self.insertion - self.deletion, self.shares, axis=0))


def curves(
    probe: Probe,
    attribution: NDArray[np.floating],
    target: NDArray[np.integer],
    *,
    unit: Unit,
    fill: Fill,
    generator: np.random.Generator,
    n_steps: int = N_STEPS,
) -> Curves:
    """Delete and insert parts, best first (Petsiuk et al. 2018, arXiv 1806.07421).

    Parameters
    ----------
    attribution
        (clips, T, P), any numbers.
    target
        (clips,): classes.
    """
    scores = unit_scores(attribution, unit)
    order = descending(scores, generator)
    n_parts = order.shape[1]
    # With few frames, some steps are the same.
    counts = np.unique(np.round(np.linspace(0, n_parts, n_steps + 1)).astype(int)).tolist()
    selected = first_parts(order, counts, unit, probe.grid)
    both = np.concatenate([selected, ~selected])
    probability = where_ordered(probability_of(probe.logits(both, fill), target), scores)
    return Curves(
        shares=np.asarray(counts) / n_parts,
        deletion=probability[: len(counts)],
        insertion=probability[len(counts) :],
    )


def gap(
    probe: Probe,
    attribution: NDArray[np.floating],
    target: NDArray[np.integer],
    *,
    unit: Unit,
    fill: Fill,
    generator: np.random.Generator,
    n_steps: int = N_STEPS,
) -> Float64Array:
    """Give insertion AUC - deletion AUC, (clips,), higher is better; see `Curves.gap`."""
    return curves(
        probe, attribution, target, unit=unit, fill=fill, generator=generator, n_steps=n_steps
    ).gap


def random_gap(
    probe: Probe,
    target: NDArray[np.integer],
    *,
    unit: Unit,
    fill: Fill,
    seed: int,
    n_random: int = N_RANDOM,
    n_steps: int = N_STEPS,
) -> Float64Array:
    """Mean gap of random orders, (clips,); of one seed the same, which the probe remembers."""
    of_each = [
        gap(
            probe,
            random,
            target,
            unit=unit,
            fill=fill,
            generator=np.random.default_rng(0),
            n_steps=n_steps,
        )
        for random in _random_attributions(probe, seed, n_random)
    ]
    return np.asarray(np.mean(of_each, axis=0))


@dataclass(frozen=True)
class Drops:
    """Fall of the target's probability, (fractions, clips) each."""

    removed: Float64Array
    """p(clip) - p(without the highest patches): higher is better."""
    kept: Float64Array
    """p(clip) - p(of the highest patches alone): lower is better."""


def drops(
    probe: Probe,
    attribution: NDArray[np.floating],
    target: NDArray[np.integer],
    *,
    fill: Fill,
    generator: np.random.Generator,
    fractions: Sequence[float] = FRACTIONS,
    unit: Unit = "patches",
) -> Drops:
    """Fall of the probability when the highest patches are removed, and when they alone are kept.

    At least one part is: with frames, a fraction below 1 / T is one frame.
    """
    scores = unit_scores(attribution, unit)
    order = descending(scores, generator)
    counts = [max(1, round(fraction * order.shape[1])) for fraction in fractions]
    selected = first_parts(order, counts, unit, probe.grid)
    probability = probability_of(probe.logits(np.concatenate([selected, ~selected]), fill), target)
    clean = probability_of(probe.clean_logits(), target)
    fall = where_ordered(clean - probability, scores)
    return Drops(removed=fall[: len(counts)], kept=fall[len(counts) :])


def random_drops(
    probe: Probe,
    target: NDArray[np.integer],
    *,
    fill: Fill,
    seed: int,
    fractions: Sequence[float] = FRACTIONS,
    unit: Unit = "patches",
    n_random: int = N_RANDOM,
) -> Drops:
    """Mean drops of random orders; of one seed the same orders."""
    of_each = [
        drops(
            probe,
            random,
            target,
            fill=fill,
            generator=np.random.default_rng(0),
            fractions=fractions,
            unit=unit,
        )
        for random in _random_attributions(probe, seed, n_random)
    ]
    return Drops(
        removed=np.mean([each.removed for each in of_each], axis=0),
        kept=np.mean([each.kept for each in of_each], axis=0),
    )


def contrastive_drop(
    probe: Probe,
    attribution: NDArray[np.floating],
    target: NDArray[np.integer],
    other: NDArray[np.integer],
    *,
    fill: Fill,
    generator: np.random.Generator,
    fraction: float = CONTRASTIVE_FRACTION,
) -> Float64Array:
    """How much more the target's logit falls than another class's, of a clip that shows both.

    The highest patches of the target's map are removed. A map that finds all actors, whatever their
    class, takes both logits down.

    Parameters
    ----------
    attribution
        (clips, T, P): map of ``target``.
    target, other
        (clips,): two classes that the clip shows.

    Returns
    -------
    (clips,) float64: fall of logit(target) - logit(other); higher is better
    """
    scores = unit_scores(attribution, "patches")
    order = descending(scores, generator)
    count = max(1, round(fraction * order.shape[1]))
    removed = probe.logits(first_parts(order, [count], "patches", probe.grid), fill)[0]
    clips = np.arange(len(target))
    margins = [
        logits[clips, target] - logits[clips, other] for logits in (probe.clean_logits(), removed)
    ]
    return where_ordered(margins[0] - margins[1], scores)


def cam_entropy(
    probe: Probe,
    attribution: NDArray[np.floating],
    *,
    fill: Fill,
    generator: np.random.Generator,
    mass: float = 0.5,
) -> Float64Array:
    """Entropy that the prediction gains when the map's core alone is kept (after 2310.01837).

    The smallest set of patches with half of A is kept: E = (H(p of it) - H(p of the clip)) / ln K,
    K the number of classes. Lower is better; below 0, the model is surer of the core than of the
    clip. Which class it is sure of doesn't count.

    Parameters
    ----------
    attribution
        (clips, T, P), non-negative; a map of zeros counts as uniform.

    Returns
    -------
    (clips,) float64, -1 to 1; 0 if there is one class
    """
    given = unit_scores(attribution, "patches")
    scores = np.where(given.sum(axis=1, keepdims=True) > 0, given, 1.0)
    order = descending(scores, generator)
    cumulated = np.take_along_axis(scores, order, axis=1).cumsum(axis=1)
    # Within rounding, half is half.
    needed = mass * cumulated[:, -1:] * (1 - 1e-12)
    counts = (cumulated < needed).sum(axis=1) + 1
    n_times, n_patches = probe.grid.n_times, probe.grid.height * probe.grid.width
    places = np.argsort(order, axis=1)
    kept = (places < counts[:, None]).reshape(1, -1, n_times, n_patches)
    entropies = [
        _entropy(logits) for logits in (probe.logits(~kept, fill)[0], probe.clean_logits())
    ]
    n_classes = probe.clean_logits().shape[-1]
    if n_classes < 2:
        return where_ordered(np.zeros(probe.n_clips), given)
    return where_ordered((entropies[0] - entropies[1]) / np.log(n_classes), given)


def _entropy(logits: Float64Array) -> Float64Array:
    """Entropy of the softmax of logits (clips, classes), nats."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    entropy: Float64Array = -(np.exp(log_probabilities) * log_probabilities).sum(axis=-1)
    return entropy


def _random_attributions(probe: Probe, seed: int, n_random: int) -> list[Float64Array]:
    shape = (probe.n_clips, probe.grid.n_times, probe.grid.height * probe.grid.width)
    return [np.random.default_rng([seed, index]).random(shape) for index in range(n_random)]
