"""The metrics of STAA's paper (arXiv 2411.00630) under their names, and as its code has them.

They are reported for comparison with published figures and never stand for quality. Kendall's tau
asks whether the prediction moves steadily as more is removed: a random order does that best, while
a good map has done its damage after a few percent, and what follows is noise. With half of the
patches removed next to nothing is left of the prediction, whatever the map.

The forms in ``legacy_`` follow the notebook that its authors published (evaluationEXP.ipynb): the
mean over *all* classes of the change of *logits*, and single bytes of the frames set to 0 at the
positions that the flattened attention's largest half has, which are the first bytes of the clip and
have nothing to do with the patches.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from pipeline.evaluation.perturbation import (
    Fill,
    Probe,
    descending,
    first_parts,
    probability_of,
    unit_scores,
    where_ordered,
)

Float64Array = NDArray[np.float64]

HALF = 0.5
SHARES = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))
"""Shares removed for the rank correlation."""


def faithfulness(
    probe: Probe,
    attribution: NDArray[np.floating],
    target: NDArray[np.integer],
    *,
    fill: Fill,
    generator: np.random.Generator,
) -> Float64Array:
    """Change of the target's probability when the upper half of the patches is removed.

    Parameters
    ----------
    attribution
        (clips, T, P)

    Returns
    -------
    (clips,) float64, 0 to 1
    """
    changes: Float64Array = _changes(probe, attribution, target, [HALF], fill, generator)[0]
    return changes


def monotonicity(
    probe: Probe,
    attribution: NDArray[np.floating],
    target: NDArray[np.integer],
    *,
    fill: Fill,
    generator: np.random.Generator,
) -> Float64Array:
    """Kendall's tau-b between the share removed (10 to 90 %) and the change of the probability.

    Returns
    -------
    (clips,) float64, -1 to 1; 0 where the probability doesn't change
    """
    return tau(SHARES, _changes(probe, attribution, target, SHARES, fill, generator))


def tau(shares: Sequence[float], changes: NDArray[np.floating]) -> Float64Array:
    """Kendall's tau-b of each column of (shares, clips) with the shares; 0 of a constant.

    NaN of a column with NaN, which isn't a constant.
    """
    values = np.array([kendalltau(shares, column).statistic for column in changes.T])
    return np.where(np.ptp(changes, axis=0) == 0, 0.0, values)


def legacy_masked(
    frames: NDArray[Any],
    attention: NDArray[np.floating],
    share: float = HALF,
    black: Sequence[float] = (0, 0, 0),
) -> NDArray[Any]:
    """Set bytes of a clip to 0 as the authors' code does; see the module.

    Parameters
    ----------
    frames
        (frames, height, width, 3) of one clip: bytes, or what they were normalised to.
    attention
        Any shape: the model's attention, of which flat positions are taken for those of bytes.
    black
        What a byte of 0 was normalised to, in each channel.

    Raises
    ------
    ValueError
        If there is more attention than bytes.
    """
    flat = attention.ravel()
    if flat.size > frames.size:
        raise ValueError(f"attention has {flat.size} values and the clip {frames.size} bytes")
    # Counted from the front, as the last 0 of a list are all of it.
    masked, positions = frames.copy(), np.argsort(flat)[flat.size - int(share * flat.size) :]
    masked.reshape(-1)[positions] = np.asarray(black, frames.dtype)[positions % 3]
    return masked


def legacy_faithfulness(
    logits: NDArray[np.floating], masked_logits: NDArray[np.floating]
) -> Float64Array:
    """1 - mean over all classes of the change of logits, of a clip and `legacy_masked` of it.

    Parameters
    ----------
    logits, masked_logits
        (clips, classes)

    Returns
    -------
    (clips,) float64; without a lower bound
    """
    change = np.abs(logits - masked_logits).mean(axis=-1, dtype=np.float64)
    return np.asarray(1 - change)


def legacy_monotonicity(
    logits: NDArray[np.floating], masked_logits: NDArray[np.floating]
) -> Float64Array:
    """Kendall's tau between the shares and the mean change of logits; NaN, as theirs, of no change.

    Parameters
    ----------
    logits
        (clips, classes)
    masked_logits
        (9, clips, classes): masked by 10 to 90 %.
    """
    changes = np.abs(logits - masked_logits).mean(axis=-1, dtype=np.float64)
    return np.array([kendalltau(SHARES, column).statistic for column in changes.T])


def _changes(
    probe: Probe,
    attribution: NDArray[np.floating],
    target: NDArray[np.integer],
    shares: Sequence[float],
    fill: Fill,
    generator: np.random.Generator,
) -> Float64Array:
    scores = unit_scores(attribution, "patches")
    order = descending(scores, generator)
    counts = [round(share * order.shape[1]) for share in shares]
    removed = probe.logits(first_parts(order, counts, "patches", probe.grid), fill)
    clean = probability_of(probe.clean_logits(), target)
    return where_ordered(np.abs(clean - probability_of(removed, target)), scores)
