"""Whether a metric itself can be trusted: it is tried on truths that are corrupted.

A metric is given the true contributions of a clip and worse and worse versions of them. One that
ranks a corrupted truth above the truth is *flagged*, with how often it does so, and the flag stands
wherever the metric is shown.
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
class MetricCheck:
    """How a metric ranks corrupted truths."""

    metric: str
    truth: float
    """Mean value of the truth."""
    corrupted: Mapping[str, float]
    """Mean value of each corrupted truth."""
    preferred: Mapping[str, float]
    """Share of clips in which the corrupted truth is ranked above the truth."""

    @property
    def flagged(self) -> tuple[str, ...]:
        """Corruptions that the metric ranks above the truth, in the mean over clips."""
        return tuple(
            name
            for name, value in self.corrupted.items()
            if not value <= self.truth + 1e-9 * max(1.0, abs(self.truth))
        )


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
    means, shares = {}, {}
    for index, (kind, strength) in enumerate(
        (kind, strength) for kind in CORRUPTIONS for strength in STRENGTHS
    ):
        if kind == "random" and strength != STRENGTHS[0]:
            continue
        generator = np.random.default_rng([seed, index])
        value = np.asarray(metric(corrupted(truth, kind, strength, generator)), np.float64)
        both = np.isfinite(value) & np.isfinite(of_truth)
        label = kind if kind == "random" else f"{kind}, {strength:.0%}"
        # On the same clips, so that both means are of one thing.
        offset = of_truth[both].mean() - np.nanmean(of_truth)
        means[label] = float(value[both].mean() - offset)
        shares[label] = float((value[both] > of_truth[both]).mean())
    return MetricCheck(name, float(np.nanmean(of_truth)), means, shares)
