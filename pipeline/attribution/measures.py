"""Measures of one attribution: how much of it is kept, and how spread out it is."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
Float64Array = NDArray[np.float64]

_CLIP_AXES = (-3, -2, -1)


def share_kept(attribution: FloatArray) -> Float64Array:
    """Share of the clip's patches whose value isn't 0: (..., time, y, x) to (...) float64.

    NaN for a clip without attribution.
    """
    kept = np.where(np.isnan(attribution), np.nan, attribution > 0)
    share: Float64Array = kept.mean(axis=_CLIP_AXES, dtype=np.float64)
    return share


def normalised_entropy(attribution: FloatArray) -> Float64Array:
    """Entropy of each attribution, -sum A log A, divided by its maximum, log(time * y * x).

    Parameters
    ----------
    attribution
        (..., time, y, x), non-negative, with at least two values.

    Returns
    -------
    (...) float64 in [0, 1]: 0 if all attention is on one patch, 1 if it is uniform; NaN for a clip
    without attribution
    """
    values = attribution.reshape(*attribution.shape[:-3], -1).astype(np.float64)
    # Stored shares are rounded to half precision, so their sum isn't exactly 1.
    values /= values.sum(axis=-1, keepdims=True)
    # v log v tends to 0 as v does.
    surprise = -np.log(np.where(values > 0, values, 1.0))
    entropy = (values * surprise).sum(axis=-1) / np.log(values.shape[-1])
    clipped: Float64Array = np.clip(entropy, 0.0, 1.0)
    return clipped
