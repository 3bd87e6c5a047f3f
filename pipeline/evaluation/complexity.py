"""How concentrated an attribution is: properties of the map alone, which say nothing of its truth.

A map of zeros counts as uniform; of one that isn't finite, both are NaN.
"""

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]


def entropy(attribution: NDArray[np.floating]) -> Float64Array:
    """Shannon entropy of the share of each patch, nats (Bhatt et al. 2020, arXiv 2005.00631).

    Parameters
    ----------
    attribution
        (clips, ...); the sign is dropped, and each clip normalised to sum to 1.

    Returns
    -------
    (clips,) float64: 0 for one patch, ln(n) for a uniform map of n patches
    """
    shares = _shares(attribution)
    logarithms = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    result: Float64Array = -(shares * logarithms).sum(axis=1)
    return result


def gini(attribution: NDArray[np.floating]) -> Float64Array:
    """Gini index of the patches' shares (Chalasani et al. 2020, arXiv 1810.06583).

    sum_i (2 i - n - 1) a_i / (n sum_i a_i) with a in ascending order and i from 1. Quantus adds
    1e-7 to each value first, and differs by that.

    Parameters
    ----------
    attribution
        (clips, ...); the sign is dropped.

    Returns
    -------
    (clips,) float64: 0 for a uniform map, (n - 1) / n for one patch of n
    """
    ordered = np.sort(_shares(attribution), axis=1)
    n = ordered.shape[1]
    weights = 2 * np.arange(1, n + 1) - n - 1
    result: Float64Array = ordered @ weights / n
    return result


def _shares(attribution: NDArray[np.floating]) -> Float64Array:
    rows = np.abs(np.asarray(attribution, np.float64)).reshape(len(attribution), -1)
    totals = rows.sum(axis=1, keepdims=True)
    is_finite = np.isfinite(totals)
    shares = np.where(is_finite, np.full_like(rows, 1 / rows.shape[1]), np.nan)
    np.divide(rows, totals, out=shares, where=is_finite & (totals > 0))
    return shares
