"""Whether a metric itself can be trusted: it is tried on truths that are corrupted.

A metric is given the true contributions of a clip and worse and worse versions of them. One that
ranks a corrupted truth above the truth is *flagged*, with how often it does so. The flag stands on
the leaderboard, and at the names in `pipeline.store.measured.FLAGGED` in what `jobs.evaluate`
prints, on the page, and in `analysis.measured_by_class`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]
Metric = Callable[[Float64Array], NDArray[np.floating]]
"""From maps (clips, T, P) to a value per clip (clips,), higher is better."""

CORRUPTIONS = ("noise put in", "parts taken out", "signs turned", "random")
STRENGTHS = (0.1, 0.3, 0.6)


@dataclass(frozen=True)
class Comparison:
    """A metric of a corrupted truth less that of the truth, on the clips where both are defined."""

    gain: float
    """Mean over clips; above 0, the corrupted truth is ranked above the truth."""
    standard_error: float
    preferred: float
    """Share of clips in which the corrupted truth is ranked above the truth."""
    n_clips: int

    @property
    def prefers_corrupted(self) -> bool:
        """Whether the gain is more than chance: above two standard errors."""
        return self.gain > max(2 * self.standard_error, 1e-9)


@dataclass(frozen=True)
class MetricCheck:
    """How a metric ranks corrupted truths."""

    metric: str
    truth: float
    """Mean value of the truth, over the clips where it is defined."""
    comparisons: Mapping[str, Comparison]
    """By the corruption's name and strength."""

    @property
    def flagged(self) -> tuple[str, ...]:
        """Corruptions that the metric ranks above the truth."""
        return tuple(name for name, each in self.comparisons.items() if each.prefers_corrupted)


def corrupted(
    truth: NDArray[np.floating], kind: str, strength: float, generator: np.random.Generator
) -> Float64Array:
    """Corrupt true contributions.

    Parameters
    ----------
    truth
        (clips, T, P), contributions of either sign.
    kind
        One of `CORRUPTIONS`: noise of the truth's size is added to a share of all patches; a share
        of the patches that contribute is set to 0; a share of them has its sign turned; or the map
        is random, whatever the strength.
    strength
        That share, 0 to 1.

    Returns
    -------
    Same shape, float64
    """
    values: Float64Array = np.asarray(truth, np.float64).copy()
    contributes = values != 0
    size = np.abs(values).max(axis=(1, 2), keepdims=True)
    chosen = generator.random(values.shape) < strength
    if kind == "noise put in":
        values += chosen * size * generator.random(values.shape)
        return values
    if kind == "parts taken out":
        return np.where(chosen & contributes, 0.0, values)
    if kind == "signs turned":
        return np.where(chosen & contributes, -values, values)
    if kind == "random":
        return np.asarray(generator.random(values.shape) * size)
    raise ValueError(f"kind: {kind!r} is not one of {', '.join(CORRUPTIONS)}")


def check_metric(
    name: str, metric: Metric, truth: NDArray[np.floating], *, seed: int = 0
) -> MetricCheck:
    """Hold a metric of the truth against that of each corruption at each strength.

    A clip whose value is undefined for one of them is left out of that comparison.
    """
    of_truth = np.asarray(metric(np.asarray(truth, np.float64)), np.float64)
    tried = [(kind, strength) for kind in CORRUPTIONS[:-1] for strength in STRENGTHS]
    comparisons = {}
    for index, (kind, strength) in enumerate([*tried, (CORRUPTIONS[-1], 1.0)]):
        generator = np.random.default_rng([seed, index])
        value = np.asarray(metric(corrupted(truth, kind, strength, generator)), np.float64)
        gain = (value - of_truth)[np.isfinite(value) & np.isfinite(of_truth)]
        label = kind if kind == CORRUPTIONS[-1] else f"{kind}, {strength:.0%}"
        comparisons[label] = _comparison(gain)
    return MetricCheck(name, float(np.nanmean(of_truth)), comparisons)


def _comparison(gain: Float64Array) -> Comparison:
    n_clips = len(gain)
    if not n_clips:
        return Comparison(float("nan"), float("nan"), float("nan"), 0)
    error = gain.std(ddof=1) / np.sqrt(n_clips) if n_clips > 1 else 0.0
    return Comparison(float(gain.mean()), float(error), float((gain > 0).mean()), n_clips)
