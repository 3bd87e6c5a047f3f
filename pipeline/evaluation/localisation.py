"""Attributions against a mask of what matters: the lift over a map that knows nothing.

The share of the attribution A that falls on the mask, over the share of the clip that the mask
covers. A map that ignores the clip has a lift near 1; all of A on the mask has the highest.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class Lift:
    """Lift of one method over the clips of a dataset."""

    share: float
    """Mean share of the attribution on the mask."""
    covered: float
    """Mean share of the clip that the mask covers."""
    n_clips: int
    standard_error: float
    """Of `value`, over clips, by the delta method for a ratio of means."""

    @property
    def value(self) -> float:
        """Ratio of the two means; 1 for an attribution that knows nothing of the mask."""
        return self.share / self.covered


def share_on_mask(attribution: NDArray[np.floating], mask: NDArray[np.floating]) -> Float64Array:
    """Share of each clip's attribution that falls on its mask.

    Parameters
    ----------
    attribution
        (clips, time, y, x), sums to 1 over (time, y, x).
    mask
        Same shape; the share of each patch that the mask covers, 0 to 1.

    Returns
    -------
    (clips,) float64, 0 to 1
    """
    if attribution.shape != mask.shape:
        raise ValueError(f"attribution is {attribution.shape} and mask {mask.shape}: not the same")
    shares: Float64Array = np.einsum("ntyx,ntyx->n", attribution, mask, dtype=np.float64)
    return shares


def share_covered(mask: NDArray[np.floating]) -> Float64Array:
    """Share of each clip (time, y, x) that its mask covers: (clips,) float64."""
    covered: Float64Array = mask.mean(axis=(1, 2, 3), dtype=np.float64)
    return covered


def lift(share: Float64Array, covered: Float64Array) -> Lift:
    """Summarise shares per clip; the ratio of means is not ruled by clips of tiny masks."""
    n_clips = len(share)
    ratio = share.mean() / covered.mean()
    residual = share - ratio * covered
    error = residual.std(ddof=1) / np.sqrt(n_clips) / covered.mean() if n_clips > 1 else np.nan
    return Lift(float(share.mean()), float(covered.mean()), n_clips, float(error))
