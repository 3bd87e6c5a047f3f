"""For how long the windows of a stream resemble each other."""

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

MAX_LAG = 120
"""Longest lag, in steps, whose correlation may count."""
_LAGS_OF = 3
"""Steps that a series must have for each lag."""


def autocorrelation_times(values: Float64Array) -> Float64Array:
    """Integrated autocorrelation times in steps, 1 + 2 sum rho_k: (n, scores) to (scores,).

    At least 1.

    The sum ends before the first pair of lags whose correlations don't add up to more than 0
    (Geyer 1992). NaN are left out pair by pair. What a lag without any pair would show, as of every
    second window where a job can't keep up, is taken from the lags beside it.
    """
    known = np.isfinite(values)
    n_known = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0).sum(axis=0) / n_known
    centred = np.where(known, values - mean, 0.0)
    variance = (centred**2).sum(axis=0) / n_known
    n_lags = min(MAX_LAG, len(values) // _LAGS_OF) // 2 * 2
    products, n_pairs = (_lagged(column, n_lags) for column in (centred, known.astype(np.float64)))
    n_pairs = np.rint(n_pairs)
    rho = products / np.maximum(n_pairs, 1) / np.maximum(variance, 1e-12)
    lags = np.arange(n_lags)
    for score, seen in enumerate((n_pairs > 0).T):
        if seen.any():
            rho[:, score] = np.interp(lags, lags[seen], rho[seen, score])
    pairs = rho.reshape(-1, 2, values.shape[1]).sum(axis=1)
    counts = np.cumprod(pairs > 0, axis=0)
    time: Float64Array = np.maximum(1.0, 2 * (pairs * counts).sum(axis=0) - 1)
    return time


def limits(times: Float64Array, n_steps: int) -> tuple[Float64Array, Float64Array]:
    """Two standard errors below and above autocorrelation times that n steps have shown.

    The relative error is sqrt(2 (2 W + 1) / n) for a sum over W lags (Madras & Sokal 1988), here
    twice the time.
    """
    factor = 1 + 2 * np.sqrt(2 * (4 * times + 1) / n_steps)
    return times / factor, times * factor


def in_order(values: Float64Array, place: NDArray[np.int64]) -> Float64Array:
    """Put rows at their places, from the first one on; NaN where none is: (places, scores).

    A gap that no lag bridges is closed to the shortest such gap: `autocorrelation_times` are the
    same, and an outage of any length costs no more than one of a hundred steps.
    """
    if not len(place):
        return values
    order = np.argsort(place, kind="stable")
    ordered = place[order]
    closed = np.concatenate([[0], np.cumsum(np.minimum(np.diff(ordered), MAX_LAG + 1))])
    # How many lags count goes by how long it really was.
    lasted = min(int(ordered[-1] - ordered[0]) + 1, _LAGS_OF * MAX_LAG)
    rows = np.full((max(int(closed[-1]) + 1, lasted), values.shape[1]), np.nan)
    rows[closed] = values[order]
    return rows


def _lagged(columns: Float64Array, n_lags: int) -> Float64Array:
    """Sum of products with what lies 0, 1, ... rows later: (n, scores) to (lags, scores)."""
    spectrum = np.fft.rfft(columns, 2 * len(columns), axis=0)
    sums: Float64Array = np.fft.irfft(np.abs(spectrum) ** 2, axis=0)[:n_lags]
    return sums
