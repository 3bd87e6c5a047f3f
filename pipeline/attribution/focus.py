"""Dynamic threshold and attention focusing: sharper attributions from stored ones (STAA, 3.3).

Both are applied when a store is read, so that the store keeps what the model did. They are frozen
objects that know their parameters, and their ``apply`` is a pure function of a joint attribution
(..., time, y, x). Every result is again a distribution per clip, and NaN for a clip that has none.
A clip's result is the same to the bit whichever clips are computed with it: everything is in
float64, and values are always taken in the same order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

ThresholdKind = Literal["percentile", "sigma", "otsu"]
FloatArray = NDArray[np.floating]
Float64Array = NDArray[np.float64]

_CLIP_AXES = (-3, -2, -1)
_FRAME_AXES = (-2, -1)

_ROUNDING = 1e-6
"""Relative: two float32 computations of one value differ by less than this."""


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
    (..., time, y, x) float32, sums to 1 over (time, y, x) within 1e-3, as S is stored in float16.
    NaN for a clip without attribution.
    """
    weights = np.asarray(temporal, np.float32)[..., None, None]
    return np.asarray(spatial, np.float32) * weights


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Dynamic threshold: values below a point of the attribution's own distribution become 0.

    ValueError is raised for an unknown kind, a percentile outside 0 to 100, or an ``n_sigma`` that
    isn't finite.
    """

    kind: ThresholdKind = "percentile"
    """``percentile``: the given percentile of the values. ``sigma``: their mean plus ``n_sigma``
    standard deviations. ``otsu``: the split into two groups that differ most (Otsu 1979)."""
    percentile: float = 50.0
    """For the kind ``percentile``: 0 to 100."""
    n_sigma: float = 1.0
    """For the kind ``sigma``."""
    per_frame: bool = False
    """Use a threshold for each frame instead of one for the clip."""

    def __post_init__(self) -> None:
        kinds = get_args(ThresholdKind)
        if self.kind not in kinds:
            raise ValueError(f"kind: {self.kind!r} is not one of {', '.join(kinds)}")
        if not 0 <= self.percentile <= 100:
            raise ValueError(f"percentile: {self.percentile} is not between 0 and 100")
        if not np.isfinite(self.n_sigma):
            raise ValueError(f"n_sigma: {self.n_sigma} is not finite")

    @property
    def name(self) -> str:
        """Short, readable name, such as ``sigma 1, per frame``."""
        values = {"percentile": f" {self.percentile:g}", "sigma": f" {self.n_sigma:g}", "otsu": ""}
        return f"{self.kind}{values[self.kind]}{', per frame' if self.per_frame else ''}"

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters that were applied, as JSON values; those of other kinds are left out."""
        own = {
            "percentile": {"percentile": self.percentile},
            "sigma": {"n_sigma": self.n_sigma},
            "otsu": {},
        }
        return {
            "step": "threshold",
            "kind": self.kind,
            **own[self.kind],
            "per_frame": self.per_frame,
        }

    def apply(self, attribution: FloatArray) -> FloatArray:
        """Cut the attribution at its threshold and renormalise over the clip.

        This is idempotent: applied to its own result, with a new threshold, it keeps the same
        values and changes only the last bits, by renormalising. The reason is that cut values count
        as 0. That leaves a percentile's rank where it was, never lifts ``mean + n_sigma *
        deviation`` above what is kept (by Cantelli's inequality, as no value is negative), and sets
        Otsu's two groups further apart than any other split.

        Parameters
        ----------
        attribution
            (..., time, y, x), non-negative.

        Returns
        -------
        Same shape, float32 or float64; sums to 1 over (time, y, x). The largest value is always
        kept, and equal values are kept or cut together.
        """
        values = attribution.astype(np.float64)
        axes = _FRAME_AXES if self.per_frame else _CLIP_AXES
        n_lead = values.ndim - len(axes)
        # One row per group that has a threshold: a reduction along rows doesn't depend on their
        # number.
        rows = values.reshape(-1, int(np.prod(values.shape[n_lead:])))
        if self.kind == "percentile":
            # Take a value that occurs, so that what is kept doesn't depend on interpolation.
            threshold = np.percentile(
                rows, self.percentile, axis=-1, keepdims=True, method="higher"
            )
        elif self.kind == "sigma":
            deviation = rows.std(axis=-1, keepdims=True)
            threshold = rows.mean(axis=-1, keepdims=True) + self.n_sigma * deviation
            # A value may equal the threshold, as 1 is the mean of (0, 1, 2): rounding must not cut
            # it.
            threshold -= _ROUNDING * np.abs(threshold)
        else:
            threshold = _otsu(rows)
        threshold = np.minimum(threshold, rows.max(axis=-1, keepdims=True))
        # With the comparison this way round, NaN stays.
        kept = np.where(rows < threshold, 0, rows).reshape(values.shape)
        return _normalise(kept).astype(_result_dtype(attribution))


@dataclass(frozen=True, kw_only=True)
class Focus:
    """Attention focusing: smooth each frame, sharpen by a power, renormalise over the clip.

    ValueError is raised for a negative smoothing, a temperature that isn't positive, or an infinite
    value of either.
    """

    smoothing: float = 0.0
    """Standard deviation of the Gaussian over (y, x), in patches; 0 leaves the maps as they are.
    What would cross a frame's border is reflected, so that each frame keeps its share."""
    temperature: float = 1.0
    """The power is 1 / temperature: a temperature below 1 sharpens, above 1 flattens."""

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < np.inf:
            raise ValueError(f"smoothing: {self.smoothing} is not a finite number from 0")
        if not 0 < self.temperature < np.inf:
            raise ValueError(f"temperature: {self.temperature} is not a finite number above 0")

    @property
    def name(self) -> str:
        """Short, readable name, such as ``smoothing 1, temperature 0.5``."""
        temperature = f"temperature {self.temperature:g}"
        if not self.smoothing:
            return temperature
        smoothing = f"smoothing {self.smoothing:g}"
        return smoothing if self.temperature == 1 else f"{smoothing}, {temperature}"

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters that were applied, as JSON values."""
        return {"step": "focus", "smoothing": self.smoothing, "temperature": self.temperature}

    def apply(self, attribution: FloatArray) -> FloatArray:
        """Smooth, sharpen and renormalise over the clip: A^(1/temperature) / sum.

        The power never reverses the order of two values in the clip. Different values become equal
        only if the result's precision can't tell them apart, or if a share underflows to 0.
        Smoothing does change the order; the power then keeps that of the smoothed map.

        Parameters
        ----------
        attribution
            (..., time, y, x), non-negative.

        Returns
        -------
        Same shape, float32 or float64; sums to 1 over (time, y, x).
        """
        values = attribution.astype(np.float64)
        if self.smoothing:
            values = ndimage.gaussian_filter(
                values, self.smoothing, axes=_FRAME_AXES, mode="reflect"
            )
        # Scale by the maximum first: a high power would underflow values of 1e-3 otherwise.
        peak = values.max(axis=_CLIP_AXES, keepdims=True)
        with np.errstate(invalid="ignore"):
            relative = values / peak
        sharpened: Float64Array = relative ** (1 / self.temperature)
        return _normalise(sharpened).astype(_result_dtype(attribution))


Step = Threshold | Focus


def apply_steps(attribution: FloatArray, steps: Iterable[Step]) -> FloatArray:
    """Apply the steps to (..., time, y, x) in their order; with none, nothing changes."""
    for step in steps:
        attribution = step.apply(attribution)
    return attribution


def steps_name(steps: Sequence[Step]) -> str:
    """Name of what `apply_steps` does: ``otsu, then temperature 0.5``."""
    return ", then ".join(step.name for step in steps) or "as stored"


def _result_dtype(attribution: FloatArray) -> np.dtype[Any]:
    # A share of 1e-5, usual on a fine grid, loses its digits in float16.
    return np.result_type(attribution.dtype, np.float32)


def _normalise(values: Float64Array) -> Float64Array:
    # Sum along rows, one per clip: as above, the bits don't depend on the number of clips.
    clips = values.reshape(-1, int(np.prod(values.shape[-3:])))
    # For a clip without attribution, 0 / 0 gives the NaN that is wanted.
    with np.errstate(invalid="ignore"):
        result: Float64Array = clips / clips.sum(axis=-1, keepdims=True)
    return result.reshape(values.shape)


def _otsu(rows: Float64Array) -> Float64Array:
    """Exact Otsu threshold of each row, (rows, 1), without bins whose width must be chosen.

    If several splits are equally good within rounding, as both splits of (0, 1, 2) are, the lowest
    is taken.
    """
    ordered = np.sort(rows, axis=-1)
    n = ordered.shape[-1]
    if n == 1:
        return ordered
    n_low = np.arange(1, n)
    # Measure from the smallest value, so that a row of nearly equal values keeps its digits.
    sums = (ordered - ordered[:, :1]).cumsum(axis=-1)
    mean_low = sums[:, :-1] / n_low
    mean_high = (sums[:, -1:] - sums[:, :-1]) / (n - n_low)
    between = n_low * (n - n_low) * (mean_high - mean_low) ** 2
    between[ordered[:, 1:] == ordered[:, :-1]] = 0
    best = between >= (1 - _ROUNDING) * between.max(axis=-1, keepdims=True)
    first_high = np.expand_dims(best.argmax(axis=-1) + 1, -1)
    return np.take_along_axis(ordered, first_high, axis=-1)
