"""Maps that know nothing about the clip, as baselines for an attribution."""

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]


def uniform_attribution(n_times: int, height: int, width: int) -> Float64Array:
    """Return the map that knows nothing: (time, y, x), sums to 1."""
    return np.full((n_times, height, width), 1 / (n_times * height * width))


def center_gaussian(n_times: int, height: int, width: int, sigma: float = 0.25) -> Float64Array:
    """Return the map that assumes only that what matters is in the middle: (time, y, x).

    Parameters
    ----------
    sigma
        Standard deviation as a fraction of the frame's side.
    """

    def profile(n: int) -> Float64Array:
        position = (np.arange(n) + 0.5) / n - 0.5
        return np.exp(-(position**2) / (2 * sigma**2))

    frame = np.outer(profile(height), profile(width))
    return np.broadcast_to(frame / frame.sum() / n_times, (n_times, height, width)).copy()
