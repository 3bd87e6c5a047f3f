"""Dynamic threshold and attention focusing: sharper attributions from stored ones (STAA, 3.3).

Pure NumPy functions of a joint attribution (..., time, y, x), so that they are applied when a store
is read and the store keeps what the model did. Every result is again a distribution per clip, and
NaN for a clip that has none. They compute in float32 or better: a share of 1e-5, usual on a fine
grid, has lost its digits in float16, and so has its square.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

ThresholdKind = Literal["percentile", "sigma", "otsu"]
FloatArray = NDArray[np.floating]

_CLIP_AXES = (-3, -2, -1)
_FRAME_AXES = (-2, -1)


def joint_attribution(spatial: FloatArray, temporal: FloatArray) -> NDArray[np.float32]:
    """Multiply the stored arrays into A = S * T.

    Parameters
    ----------
    spatial
        (..., time, y, x), sums to 1 over (y, x).
    temporal
        (..., time), sums to 1.

    Returns
    -------
    (..., time, y, x) float32, sums to 1 over (time, y, x) as far as float16 holds S: within 1e-3.
    NaN where the clip has no attribution.
    """
    weights = np.asarray(temporal, np.float32)[..., None, None]
    return np.asarray(spatial, np.float32) * weights


def dynamic_threshold(
    attribution: FloatArray,
    *,
    kind: ThresholdKind = "percentile",
    percentile: float = 50.0,
    n_sigma: float = 1.0,
    per_frame: bool = False,
) -> FloatArray:
    """Set to 0 what lies below a threshold taken from the attribution's own distribution.

    Parameters
    ----------
    attribution
        (..., time, y, x), non-negative.
    kind
        ``percentile``: the given percentile of the values. ``sigma``: their mean plus ``n_sigma``
        standard deviations. ``otsu``: the split into two groups that differ most (Otsu 1979).
    per_frame
        A threshold for each frame instead of one for the clip.

    Returns
    -------
    Same shape, float32 or float64; sums to 1 over (time, y, x). The largest value is always kept.

    Raises
    ------
    ValueError
        For an unknown kind, a percentile outside 0 to 100, or an ``n_sigma`` that isn't finite.
    """
    if kind not in get_args(ThresholdKind):
        raise ValueError(f"kind: {kind!r} is not one of {', '.join(get_args(ThresholdKind))}")
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile: {percentile} is not between 0 and 100")
    if not np.isfinite(n_sigma):
        raise ValueError(f"n_sigma: {n_sigma} is not finite")
    attribution = _at_least_float32(attribution)
    axes = _FRAME_AXES if per_frame else _CLIP_AXES
    if kind == "percentile":
        # "higher" takes a value that occurs, so that what is kept doesn't hang on interpolation.
        threshold = np.percentile(
            attribution, percentile, axis=axes, keepdims=True, method="higher"
        )
    elif kind == "sigma":
        deviation = attribution.std(axis=axes, keepdims=True)
        threshold = attribution.mean(axis=axes, keepdims=True) + n_sigma * deviation
    else:
        threshold = _otsu(attribution, axes)
    threshold = np.minimum(threshold, attribution.max(axis=axes, keepdims=True))
    return _normalise(np.where(attribution >= threshold, attribution, 0))


def focus_attention(
    attribution: FloatArray, *, smoothing: float = 0.0, temperature: float = 1.0
) -> FloatArray:
    """Smooth within each frame, then sharpen: A^(1/temperature), renormalised over the clip.

    Parameters
    ----------
    attribution
        (..., time, y, x), non-negative.
    smoothing
        Standard deviation of the Gaussian over (y, x), in patches; 0 leaves the maps as they are.
        What would leave a frame is reflected at its border, so that each frame keeps its share.
    temperature
        Below 1 sharpens, above 1 flattens; the order of values is kept.

    Returns
    -------
    Same shape, float32 or float64; sums to 1 over (time, y, x).

    Raises
    ------
    ValueError
        For a smoothing that is negative or a temperature that isn't positive; neither may be
        infinite.
    """
    if not 0 <= smoothing < np.inf:
        raise ValueError(f"smoothing: {smoothing} is not a finite number from 0")
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature: {temperature} is not a finite number above 0")
    attribution = _at_least_float32(attribution)
    if smoothing:
        attribution = ndimage.gaussian_filter(
            attribution, smoothing, axes=_FRAME_AXES, mode="reflect"
        )
    # Scaled by the maximum first: a small power would underflow values of 1e-3 otherwise.
    peak = attribution.max(axis=_CLIP_AXES, keepdims=True)
    with np.errstate(invalid="ignore"):
        relative = attribution / peak
    return _normalise(relative ** (1 / temperature))


def _at_least_float32(attribution: FloatArray) -> FloatArray:
    dtype = np.result_type(attribution.dtype, np.float32)
    result: FloatArray = attribution.astype(dtype, copy=False)
    return result


def _normalise(attribution: FloatArray) -> FloatArray:
    # 0 / 0, of a clip without any attribution, is the NaN that is wanted.
    with np.errstate(invalid="ignore"):
        result: FloatArray = attribution / attribution.sum(axis=_CLIP_AXES, keepdims=True)
    return result


def _otsu(attribution: FloatArray, axes: tuple[int, ...]) -> FloatArray:
    """Exact Otsu threshold on the sorted values: no bins, so that no bin width is to be chosen."""
    n_lead = attribution.ndim - len(axes)
    lead = attribution.shape[:n_lead]
    values = np.sort(attribution.reshape(*lead, -1).astype(np.float64), axis=-1)
    n = values.shape[-1]
    if n == 1:
        return values.reshape(*lead, *(1 for _ in axes))
    n_low = np.arange(1, n)
    sums = values.cumsum(axis=-1)
    mean_low = sums[..., :-1] / n_low
    mean_high = (sums[..., -1:] - sums[..., :-1]) / (n - n_low)
    between = n_low * (n - n_low) * (mean_high - mean_low) ** 2
    first_high = np.expand_dims(between.argmax(axis=-1) + 1, -1)
    threshold = np.take_along_axis(values, first_high, axis=-1)
    return threshold.reshape(*lead, *(1 for _ in axes))
