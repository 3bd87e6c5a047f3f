"""Bets that something has changed: what they pay, and what they have made since any window.

A score z, standard normal without drift, is whitened as an autoregression of first order with
phi = (tau - 1) / (tau + 1),

    r_t = (z_t - phi^k z_{t-k}) / sqrt(1 - phi^2k)      k windows after the last one that was scored

with tau the integrated autocorrelation time in windows. It bets, up and down, on a shift,

    e_t = exp(lambda c(+-r_t - margin)) / E[exp(lambda c(N(0, 1)))]

where c cuts off at 1.5, so that no single window counts for much, and the margin is what the run's
own clips may be wrong by. The bets since any window add up to R_t = (1 + R_{t-1}) e_t (Shiryaev
1963, Roberts 1966).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Float64Array = NDArray[np.float64]

SIZES = np.array([0.5, 1.1])
"""lambda: shifts of the whitened score that are bet on."""
CUT = 1.5
"""Whitened scores are cut off there."""
_REFERENCE_ERRORS = 2.0
"""Standard errors of the run's own clips that are no drift."""
LOG_MEAN = np.log(
    np.exp(SIZES**2 / 2) * (ndtr(CUT - SIZES) - ndtr(-CUT - SIZES))
    + (np.exp(SIZES * CUT) + np.exp(-SIZES * CUT)) * ndtr(-CUT)
)
"""log E[exp(lambda c(N))] of each size."""


class Whitener:
    """Takes the scores of one window after the other; NaN says nothing."""

    def __init__(self, n_scores: int) -> None:
        self._last_z = np.full(n_scores, np.nan)
        self._last_window = np.zeros(n_scores, np.int64)

    def log_pay(
        self, window: int, z: Float64Array, tau: Float64Array, n_clips: float
    ) -> Float64Array:
        """Log of what each bet pays.

        Parameters
        ----------
        z
            (scores,)
        tau
            (scores,) autocorrelation times in windows.
        n_clips
            Independent clips of the run by which z is known.

        Returns
        -------
        (scores, 2, sizes): up and down
        """
        gap = np.maximum(window - self._last_window, 1)
        phi = np.where(np.isnan(self._last_z), 0.0, ((tau - 1) / (tau + 1)) ** gap)
        spread = np.sqrt(1 - phi**2)
        residual = (z - phi * np.nan_to_num(self._last_z)) / spread
        margin = _REFERENCE_ERRORS / np.sqrt(n_clips) * (1 - phi) / spread
        sided = np.stack([residual, -residual], axis=1) - margin[:, None]
        known = np.isfinite(z)
        self._last_z[known], self._last_window[known] = z[known], window
        paid: Float64Array = SIZES * np.clip(sided, -CUT, CUT)[:, :, None] - LOG_MEAN
        return paid


class Bets:
    """Bets of one kind.

    Parameters
    ----------
    weights
        Share of the whole that each bet has: the first axis is what is watched, the others how it
        is bet on.
    """

    def __init__(self, weights: Float64Array) -> None:
        self._weights = weights
        self._wealth = np.zeros(weights.shape)
        self._sum = np.zeros(weights.shape)
        """CUSUM of log e; the change is where it was last 0 (Page 1954)."""
        self._since = np.zeros(weights.shape, np.int64)
        self._rests = np.zeros(len(weights), bool)

    def bet(self, log_e: Float64Array, window: int) -> None:
        """Multiply by e, of the shape of the weights; NaN says nothing."""
        counts = np.isfinite(log_e)
        counts &= ~self._rests.reshape(-1, *([1] * (log_e.ndim - 1)))
        log_e = np.where(counts, log_e, 0)
        # An alarm comes long before; the bound keeps what rests in range.
        wealth = np.minimum((1 + self._wealth) * np.exp(log_e), 1e300)
        self._wealth = np.where(counts, wealth, self._wealth)
        self._since = np.where(counts & (self._sum <= 0), window, self._since)
        self._sum = np.maximum(self._sum, 0) + log_e

    def mean(self) -> float:
        """Weighted sum of all R."""
        return float((self._weights * self._wealth).sum())

    def best(self) -> tuple[float, int, int]:
        """Give the highest weighted R, what it watches, and the window since when."""
        weighted = self._weights * self._wealth
        place = np.unravel_index(int(weighted.argmax()), weighted.shape)
        return float(weighted[place]), int(place[0]), int(self._since[place])

    def rest(self, which: NDArray[np.bool_]) -> None:
        """Stop watching after an alarm."""
        self._rests |= which

    def watch(self, which: NDArray[np.bool_]) -> None:
        """Watch again."""
        self._rests &= ~which

    def restart(self) -> None:
        """Forget all bets."""
        self._wealth[:] = 0
        self._sum[:] = 0
