"""Attributions against a mask of what matters: lift, and the order of patches.

The *lift* is the share of the attribution A that falls on the mask, over the share of the clip that
the mask covers. A map that ignores the clip has a lift near 1; all of A on the mask has the
highest. It halves when a map is smoothed, although the order of patches gets better by that;
average precision, AUROC, relevance rank and pointing look at the order alone. They are NaN, and so
is the mass, of a map that has NaN where the truth is known.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from pipeline.store import by_video

Float64Array = NDArray[np.float64]

COVERED = 0.25
"""A patch belongs to the truth if this share of it is covered, or more."""


@dataclass(frozen=True)
class Lift:
    """Lift of one method over the clips of a dataset."""

    share: float
    """Mean share of the attribution on the mask."""
    covered: float
    """Mean share of the clip that the mask covers."""
    n_clips: int
    standard_error: float
    """Of `value`, over videos, by the delta method for a ratio of means; NaN of fewer than two."""

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


def lift(share: Float64Array, covered: Float64Array, videos: NDArray[Any] | None = None) -> Lift:
    """Summarise shares per clip; the ratio of means is not ruled by clips of tiny masks.

    Parameters
    ----------
    share, covered
        (clips,) finite.
    videos
        (clips,) the video of each: the error is clustered by it. By default each clip is one.
    """
    of_clip = np.arange(len(share)) if videos is None else videos
    error = by_video.standard_error(share, covered, of_clip)
    return Lift(float(share.mean()), float(covered.mean()), len(share), error)


def average_precision(
    attribution: NDArray[np.floating],
    truth: NDArray[np.bool_],
    known: NDArray[np.bool_] | None = None,
) -> Float64Array:
    """Average precision of the patches' order: sum over thresholds of (R_n - R_n-1) P_n.

    Scikit-learn's `average_precision_score`: patches of equal value are one threshold, so a
    constant map has the share of patches that are truth.

    Parameters
    ----------
    attribution
        (clips, ...): any numbers, higher is more important.
    truth
        Same shape: the patches that matter.
    known
        Same shape: patches whose truth is known; the others are left out. All, by default.

    Returns
    -------
    (clips,) float64, 0 to 1; NaN for a clip without truth, where scikit-learn has 0
    """
    scores, positive, _ = _rows(attribution, truth, known)
    order = np.argsort(-scores, axis=1, kind="stable")
    scores = np.take_along_axis(scores, order, axis=1)
    positive = np.take_along_axis(positive, order, axis=1)
    n = scores.shape[1]
    is_last = np.ones(scores.shape, np.bool_)
    is_last[:, :-1] = scores[:, :-1] != scores[:, 1:]
    ends = np.where(is_last, np.arange(n), n)
    # The last patch of those that have the same value as each.
    ends = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    found = np.take_along_axis(positive.cumsum(axis=1), ends, axis=1)
    return _ratio((positive * found / (ends + 1)).sum(axis=1), positive.sum(axis=1))


def auroc(
    attribution: NDArray[np.floating],
    truth: NDArray[np.bool_],
    known: NDArray[np.bool_] | None = None,
) -> Float64Array:
    """Probability that a patch of the truth has a higher value than another; equal ones count half.

    Area under the ROC curve, by Mann-Whitney's U. Parameters as `average_precision`; NaN for a clip
    in which all patches are truth, or none.
    """
    scores, positive, counted = _rows(attribution, truth, known)
    # Patches that aren't counted have the lowest ranks.
    ranks = rankdata(scores, axis=1) - (~counted).sum(axis=1, keepdims=True)
    n_positive = positive.sum(axis=1)
    n_negative = counted.sum(axis=1) - n_positive
    u = (ranks * positive).sum(axis=1) - n_positive * (n_positive + 1) / 2
    return _ratio(u, n_positive * n_negative)


def relevance_mass(
    attribution: NDArray[np.floating],
    mask: NDArray[np.floating],
    known: NDArray[np.bool_] | None = None,
) -> Float64Array:
    """Share of the attribution that falls on the mask (Arras et al. 2022, arXiv 2003.07258).

    Parameters
    ----------
    attribution
        (clips, ...), non-negative; a map of zeros counts as uniform.
    mask
        Same shape; share of each patch that is covered.
    known
        As `average_precision`: the share is of what lies on patches whose truth is known.

    Returns
    -------
    (clips,) float64, 0 to 1; NaN for a clip of which nothing is known
    """
    _same_shape(attribution, mask)
    counted = np.ones(mask.shape, np.bool_) if known is None else known
    # Sums of half precision would be off by 1e-3.
    weights = np.where(counted, attribution, 0.0).astype(np.float64).reshape(len(mask), -1)
    empty = weights.sum(axis=1) == 0
    weights[empty] = counted.reshape(len(mask), -1)[empty]
    return _ratio((weights * mask.reshape(len(mask), -1)).sum(axis=1), weights.sum(axis=1))


def relevance_rank(
    attribution: NDArray[np.floating],
    truth: NDArray[np.bool_],
    known: NDArray[np.bool_] | None = None,
) -> Float64Array:
    """Share of truth among the K highest patches, K being the truth's size (Arras et al. 2022).

    Patches that are equal at the K-th place count as a random choice among them would on average.
    Parameters as `average_precision`; NaN for a clip without truth.
    """
    scores, positive, _ = _rows(attribution, truth, known)
    n_truth = positive.sum(axis=1)
    ordered = -np.sort(-scores, axis=1)
    lowest = np.take_along_axis(ordered, np.maximum(n_truth - 1, 0)[:, None], axis=1)
    above, level = scores > lowest, scores == lowest
    n_places = n_truth - above.sum(axis=1)
    hits = (above & positive).sum(axis=1)
    hits = hits + n_places * (level & positive).sum(axis=1) / level.sum(axis=1)
    return _ratio(hits, n_truth)


def pointing(
    attribution: NDArray[np.floating],
    truth: NDArray[np.bool_],
    known: NDArray[np.bool_] | None = None,
) -> Float64Array:
    """Whether the highest patch is truth: the pointing game (Zhang et al. 2018, arXiv 1608.00507).

    The share that is truth, where several patches are highest. The paper has a tolerance of 15
    pixels; a patch is about as large, and it is left out. Parameters as `average_precision`; NaN
    without truth.
    """
    scores, positive, _ = _rows(attribution, truth, known)
    highest = scores == scores.max(axis=1, keepdims=True)
    hit = (highest & positive).sum(axis=1) / highest.sum(axis=1)
    return np.where(positive.any(axis=1), hit, np.nan)


def _rows(
    attribution: NDArray[np.floating],
    truth: NDArray[np.bool_],
    known: NDArray[np.bool_] | None,
) -> tuple[Float64Array, NDArray[np.bool_], NDArray[np.bool_]]:
    """Clips as rows: values, truth, and which patches count; the others are lowest and no truth.

    A clip whose map has NaN has no truth.
    """
    _same_shape(attribution, truth)
    counted = np.ones(truth.shape, np.bool_) if known is None else known
    _same_shape(attribution, counted)
    n_clips = len(attribution)
    scores = np.where(counted, attribution, -np.inf).astype(np.float64).reshape(n_clips, -1)
    positive = (truth.astype(np.bool_) & counted).reshape(n_clips, -1)
    # NaN has no place in an order: as if nothing of the clip were truth.
    unordered = np.asarray(np.isnan(scores).any(axis=1))
    scores[unordered] = 0
    return scores, positive & ~unordered[:, None], counted.reshape(n_clips, -1)


def _ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> Float64Array:
    """Divide; NaN where there is nothing to divide by."""
    result = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def _same_shape(attribution: NDArray[Any], mask: NDArray[Any]) -> None:
    if attribution.shape != mask.shape:
        raise ValueError(f"attribution is {attribution.shape} and mask {mask.shape}: not the same")
