"""Splices: frames of one clip inside another clip, so that the time of the evidence is known."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Spliced:
    """Clips into which frames from others were put."""

    frames: NDArray[Any]
    """(clips, T, ...)"""
    planted: NDArray[np.bool_]
    """(clips, T): whether a step shows the other clip; only these hold evidence of its class."""
    donors: NDArray[np.int64]
    """(clips,): index of the clip that the frames come from."""


def splice(frames: NDArray[Any], labels: NDArray[np.integer], n_steps: int, seed: int) -> Spliced:
    """Put ``n_steps`` frames from a clip of another class into each clip, at a random time.

    The frames keep their time: they are those at the same steps of the donor.

    Parameters
    ----------
    frames
        (clips, T, ...), as a model sees them; a tubelet's frames count as one.
    labels
        (clips,)

    Raises
    ------
    ValueError
        If clips don't have more steps than that, or all are of one class.
    """
    n_clips, n_times = frames.shape[:2]
    if not 0 < n_steps < n_times:
        raise ValueError(f"n_steps: {n_steps}, expected 1 to {n_times - 1}")
    if len(set(labels.tolist())) < 2:
        raise ValueError("labels: all clips are of one class, expected two or more")
    rng = np.random.default_rng([seed, 601])
    planted = np.zeros((n_clips, n_times), np.bool_)
    donors = np.empty(n_clips, np.int64)
    result = frames.copy()
    for clip in range(n_clips):
        donors[clip] = rng.choice(np.flatnonzero(labels != labels[clip]))
        start = int(rng.integers(n_times - n_steps + 1))
        planted[clip, start : start + n_steps] = True
        result[clip, planted[clip]] = frames[donors[clip], planted[clip]]
    return Spliced(result, planted, donors)
