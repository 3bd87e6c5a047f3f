"""How significant a difference is: rank tests of groups against the rest, bootstrap intervals."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Float64Array = NDArray[np.float64]

_RESAMPLES = 1000
_MAX_RESAMPLED = 2000
"""Most values of a sample that are resampled; their interval is narrow enough."""


def rank_tests(
    values: NDArray[np.floating], groups: NDArray[np.integer], n_groups: int
) -> tuple[Float64Array, Float64Array]:
    """Test each group's values against those of all other groups (Mann-Whitney).

    Values are ranked once for all groups. The normal approximation, with ties and without
    continuity correction, is that of `scipy.stats.mannwhitneyu`.

    Parameters
    ----------
    values
        (n,) finite.
    groups
        (n,) group of each value; -1 counts among the others for every group.

    Returns
    -------
    (groups,) probability that a value of the group is above one of the others, ties counted half;
    and (groups,) one-sided p for that. NaN for a group with no value or all values
    """
    n = len(values)
    ranks = stats.rankdata(values)
    member = groups >= 0
    size = np.bincount(groups[member], minlength=n_groups).astype(np.float64)
    total = np.bincount(groups[member], weights=ranks[member], minlength=n_groups)
    u = total - size * (size + 1) / 2
    rest = n - size
    _, ties = np.unique(values, return_counts=True)
    tied = float((ties.astype(np.float64) ** 3 - ties).sum()) / (n * max(n - 1, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        auc = u / (size * rest)
        deviation = np.sqrt(size * rest / 12 * (n + 1 - tied))
        z = (u - size * rest / 2) / deviation
    p = np.where(np.isfinite(z), special.ndtr(-z), np.where(size * rest > 0, 1.0, np.nan))
    return auc, p


def adjusted(p: NDArray[np.floating]) -> Float64Array:
    """Benjamini-Hochberg's q for each p; NaN is left out and stays NaN."""
    q = np.full(np.shape(p), np.nan)
    known = np.isfinite(p)
    if known.any():
        q[known] = stats.false_discovery_control(np.asarray(p, np.float64)[known])
    return q


def bootstrap_interval(
    statistic: Callable[..., Float64Array],
    *samples: NDArray[np.floating],
    seed: int,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a statistic of samples, each resampled independently.

    Parameters
    ----------
    statistic
        Maps samples of shape (resamples, n) to (resamples,).
    samples
        (n,) each, one value per video; out of more than 2,000 values, 2,000 are drawn.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for sample in samples:
        values = np.asarray(sample, np.float64)
        if len(values) > _MAX_RESAMPLED:
            values = rng.choice(values, _MAX_RESAMPLED, replace=False)
        drawn.append(values[rng.integers(0, len(values), (_RESAMPLES, len(values)))])
    low, high = np.quantile(statistic(*drawn), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_ratio(inside: Float64Array, outside: Float64Array) -> Float64Array:
    """Ratio of the means of (resamples, n) and (resamples, m)."""
    ratio: Float64Array = inside.mean(axis=-1) / np.maximum(outside.mean(axis=-1), 1e-12)
    return ratio


def mean_difference(inside: Float64Array, outside: Float64Array) -> Float64Array:
    """Difference of the means of (resamples, n) and (resamples, m)."""
    difference: Float64Array = inside.mean(axis=-1) - outside.mean(axis=-1)
    return difference


def mean_of(values: Float64Array) -> Float64Array:
    """Mean of (resamples, n)."""
    mean: Float64Array = values.mean(axis=-1)
    return mean
