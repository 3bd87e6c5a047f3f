"""Earth mover's distance between an attribution and the truth: in space, in time, and over both.

Each score is 1 - W1(A, truth) / d_max, so 1 is a map that equals the truth's distribution and 0 one
whose whole mass is as far away as the grid allows. Unlike average precision, it tells a near miss
from a far one.

Degenerate input: a map or a frame of zeros counts as uniform, a grid of one patch or one time step
scores 1, and what has no truth, or a map that isn't finite where the truth is known, is NaN.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

Float64Array = NDArray[np.float64]

_MAX_ITERATIONS = 10_000_000
"""Steps of the network simplex, far more than the largest grid takes: it ends at the optimum."""


def emd_space(
    attribution: NDArray[np.floating], truth: NDArray[np.floating], known: NDArray[np.bool_]
) -> Float64Array:
    """Mean score over the frames that have truth, each frame normalised to sum to 1.

    Parameters
    ----------
    attribution
        (clips, time, y, x), non-negative.
    truth
        Same shape; share of each patch that is covered.
    known
        (clips, time): whether the truth of a time step is known.

    Returns
    -------
    (clips,) float64, 0 to 1; NaN for a clip without truth
    """
    _check(attribution, truth, known)
    n_clips, _, height, width = attribution.shape
    cost = _distances(_grid(1, height, width, 0.0))
    scores = np.full(n_clips, np.nan)
    for clip in range(n_clips):
        frames = np.flatnonzero(known[clip] & truth[clip].any(axis=(1, 2)))
        of_frames = [
            _score(attribution[clip, frame].ravel(), truth[clip, frame].ravel(), cost)
            for frame in frames
        ]
        if of_frames:
            scores[clip] = np.mean(of_frames)
    return scores


def emd_time(
    importance: NDArray[np.floating], truth: NDArray[np.floating], known: NDArray[np.bool_]
) -> Float64Array:
    """Score of when: in one dimension W1 is the sum of the absolute differences of the two CDFs.

    Parameters
    ----------
    importance
        (clips, time), non-negative: mass of each time step.
    truth
        (clips, time), non-negative, for example covered patches of each step.
    known
        (clips, time). Steps whose truth isn't known are left out, and those beside them count as
        neighbours.

    Returns
    -------
    (clips,) float64, 0 to 1; NaN for a clip without truth
    """
    _check(importance, truth, known)
    scores = np.full(len(importance), np.nan)
    for clip, steps in enumerate(known):
        of_truth = truth[clip, steps].astype(np.float64)
        if not of_truth.any():
            continue
        of_map = importance[clip, steps]
        if not np.isfinite(of_map).all():
            continue
        difference = _normalised(of_map) - of_truth / of_truth.sum()
        farthest = max(len(of_truth) - 1, 1)
        scores[clip] = 1 - np.abs(np.cumsum(difference)[:-1]).sum() / farthest
    return scores


def emd_space_time(
    attribution: NDArray[np.floating], truth: NDArray[np.floating], known: NDArray[np.bool_]
) -> Float64Array:
    """Score over space and time together; the cost is sqrt(dy^2 + dx^2 + (lambda dt)^2).

    lambda is max(height, width) / time, so that the clip is about a cube. Dear: use it on a sample.
    Parameters and result as `emd_space`; time steps whose truth isn't known are left out.
    """
    _check(attribution, truth, known)
    n_clips, n_times, height, width = attribution.shape
    points = _grid(n_times, height, width, max(height, width) / n_times)
    cost = _distances(points)
    scores = np.full(n_clips, np.nan)
    for clip in range(n_clips):
        kept = np.repeat(known[clip], height * width)
        of_truth = truth[clip].ravel()[kept]
        if of_truth.any():
            among = cost[np.ix_(kept, kept)]
            scores[clip] = _score(attribution[clip].ravel()[kept], of_truth, among, cost.max())
    return scores


def _score(
    attribution: NDArray[np.floating],
    truth: NDArray[np.floating],
    cost: Float64Array,
    farthest: float | None = None,
) -> float:
    """1 - W1 / d_max of two masses over the same points, by POT's exact network simplex."""
    try:
        # From the extra `evaluation`; POT comes without types.
        import ot  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(
            "earth mover's distance needs POT: pip install 'staa[evaluation]'"
        ) from error

    farthest = float(cost.max()) if farthest is None else farthest
    if not np.isfinite(attribution).all():
        return float("nan")
    if farthest == 0:
        return 1.0
    source, target = _normalised(attribution), _normalised(truth)
    # Points without mass don't take part, and the truth is a few patches of hundreds.
    here, there = np.flatnonzero(source), np.flatnonzero(target)
    # POT compares the sums of both masses to the last bits.
    source, target = source[here] / source[here].sum(), target[there] / target[there].sum()
    among = np.ascontiguousarray(cost[np.ix_(here, there)])
    distance = ot.emd2(source, target, among, numItermax=_MAX_ITERATIONS)
    return 1 - float(distance) / farthest


def _normalised(values: NDArray[np.floating]) -> Float64Array:
    mass = np.asarray(values, np.float64)
    total = mass.sum()
    return mass / total if total > 0 else np.full(mass.shape, 1 / mass.size)


def _grid(n_times: int, height: int, width: int, time_scale: float) -> Float64Array:
    """Places of all patches, (time * y * x, 3), in patches."""
    axes = (np.arange(n_times) * time_scale, np.arange(height), np.arange(width))
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.float64)


def _distances(points: Float64Array) -> Float64Array:
    from scipy.spatial.distance import cdist

    distances: Float64Array = cdist(points, points)
    return distances


def _check(
    attribution: NDArray[np.floating], truth: NDArray[np.floating], known: NDArray[np.bool_]
) -> None:
    if attribution.shape != truth.shape or known.shape != truth.shape[:2]:
        raise ValueError(
            f"attribution is {attribution.shape}, truth {truth.shape} and known {known.shape}: "
            "expected two of one shape, and known (clips, time)"
        )
    if (np.asarray(attribution) < 0).any():
        raise ValueError("attribution has negative values: a mass can't be negative")
