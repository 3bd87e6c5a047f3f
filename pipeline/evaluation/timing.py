"""Whether the importance of time steps finds what was put in: planted moments and splices.

A *planted moment* is a gesture or a flash in one step, with everything else alike over the classes:
the class can be known from nothing else. A *splice* is a run of steps of another clip in the place
of this one's: for the other clip's class, the evidence lies in them. The window of an action is no
such truth, since the resting poses before and after are evidence of a move, too.
"""

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]


def moment_found(importance: NDArray[np.floating], planted: NDArray[np.bool_]) -> Float64Array:
    """Whether the most important step is a planted one.

    Parameters
    ----------
    importance
        (clips, T), any numbers; a clip with NaN has no highest step, and NaN for an answer.
    planted
        (clips, T)

    Returns
    -------
    (clips,) float64: 0 or 1; of several highest steps, the share that is planted. NaN for a clip
    in which nothing is planted.
    """
    _check(importance, planted)
    highest = importance == importance.max(axis=1, keepdims=True)
    hit = (highest & planted).sum(axis=1) / np.maximum(highest.sum(axis=1), 1)
    return np.where(planted.any(axis=1) & highest.any(axis=1), hit, np.nan)


def planted_excess(importance: NDArray[np.floating], planted: NDArray[np.bool_]) -> Float64Array:
    """Share of the importance on planted steps, less the share of steps that they are.

    Parameters
    ----------
    importance
        (clips, T); negative importance counts as none. A clip with none at all counts as uniform.

    Returns
    -------
    (clips,) float64, -1 to 1: 0 for a profile that knows nothing. NaN for a clip in which nothing
    is planted.
    """
    _check(importance, planted)
    positive = np.maximum(np.asarray(importance, np.float64), 0)
    totals = positive.sum(axis=1)
    positive[totals == 0] = 1
    share = (positive * planted).sum(axis=1) / positive.sum(axis=1)
    return np.where(planted.any(axis=1), share - planted.mean(axis=1), np.nan)


def _check(importance: NDArray[np.floating], planted: NDArray[np.bool_]) -> None:
    if importance.shape != planted.shape or importance.ndim != 2:
        raise ValueError(
            f"importance is {importance.shape} and planted {planted.shape}, expected (clips, T)"
        )
