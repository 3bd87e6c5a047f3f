"""Localisation and complexity of attributions, a value per clip, and what they come to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import complexity, transport
from pipeline.evaluation.localisation import (
    COVERED,
    auroc,
    average_precision,
    pointing,
    relevance_rank,
)
from pipeline.store import by_video
from pipeline.store.ground_truth import Truth

Float64Array = NDArray[np.float64]

LOCALISATION = ("average_precision", "auroc", "relevance_rank", "pointing", "emd_time")
"""Scores of every clip; those of space by transport are taken on a sample."""
TRANSPORT = ("emd_space", "emd_space_time")
COMPLEXITY = ("entropy", "gini")


@dataclass(frozen=True)
class Score:
    """Mean of a metric over the clips where it is defined."""

    mean: float
    standard_error: float
    """Over videos; NaN of fewer than two."""
    n_clips: int
    n_undefined: int
    """Clips that were measured and have no answer: no truth, for example."""


def score(values: NDArray[np.floating], videos: NDArray[Any] | None = None) -> Score:
    """Average a metric over clips; what is undefined is counted, and never averaged.

    Parameters
    ----------
    values
        (clips,) of those that were measured; NaN where undefined.
    videos
        (clips,) the video of each: the error is clustered by it. By default each clip is one.
    """
    of_clip = np.arange(len(values)) if videos is None else videos
    is_defined = np.isfinite(values)
    defined = values[is_defined].astype(np.float64)
    n_clips = len(defined)
    return Score(
        mean=float(defined.mean()) if n_clips else float("nan"),
        standard_error=by_video.standard_error(defined, np.ones(n_clips), of_clip[is_defined]),
        n_clips=n_clips,
        n_undefined=len(values) - n_clips,
    )


def localisation(attribution: NDArray[np.floating], truth: Truth) -> dict[str, Float64Array]:
    """Give `LOCALISATION` of some clips: (clips,) each.

    Parameters
    ----------
    attribution
        (clips, time, y, x), non-negative.
    """
    positive, known = truth.covered >= COVERED, truth.patches_known
    profiles = attribution.sum(axis=(2, 3)), truth.covered.sum(axis=(2, 3))
    return {
        "average_precision": average_precision(attribution, positive, known),
        "auroc": auroc(attribution, positive, known),
        "relevance_rank": relevance_rank(attribution, positive, known),
        "pointing": pointing(attribution, positive, known),
        "emd_time": transport.emd_time(*profiles, truth.known),
    }


def transported(attribution: NDArray[np.floating], truth: Truth) -> dict[str, Float64Array]:
    """Give `TRANSPORT` of some clips: (clips,) each."""
    return {
        "emd_space": transport.emd_space(attribution, truth.covered, truth.known),
        "emd_space_time": transport.emd_space_time(attribution, truth.covered, truth.known),
    }


def complexities(attribution: NDArray[np.floating]) -> dict[str, Float64Array]:
    """Give `COMPLEXITY` of some clips: (clips,) each."""
    return {
        "entropy": complexity.entropy(attribution),
        "gini": complexity.gini(attribution),
    }


@dataclass(frozen=True)
class ClassShare:
    """How much of a class's attribution falls on what is marked, against what that covers."""

    share: float
    covered: float
    ratio: float
    interval: tuple[float, float]
    """95 %, of the ratio: bootstrap over videos; NaN of fewer than `by_video.LEAST_VIDEOS`."""
    n_clips: int


def class_shares(
    share: NDArray[np.floating],
    covered: NDArray[np.floating],
    labels: NDArray[np.integer],
    videos: NDArray[Any] | None = None,
    *,
    seed: int = 0,
) -> Mapping[int, ClassShare]:
    """Share on the mask by class: with masks of persons, the *human share*.

    Parameters
    ----------
    share
        (clips,): share of each clip's attribution on the mask, NaN where unknown.
    covered
        (clips,): share of the clip that the mask covers.
    labels
        (clips,): classes; negative ones are left out.
    videos
        (clips,): the video of each, whose clips are drawn together. By default each clip is one.

    Returns
    -------
    By class, in order; a class without a clip that has a truth isn't there
    """
    of_clip = np.arange(len(share)) if videos is None else videos
    defined = np.isfinite(share) & np.isfinite(covered) & (covered > 0) & (labels >= 0)
    result = {}
    for label in np.unique(labels[defined]).tolist():
        chosen = np.flatnonzero(defined & (labels == label))
        ends = by_video.interval(
            share[chosen], covered[chosen], of_clip[chosen], seed=[seed, label]
        )
        mean, size = float(share[chosen].mean()), float(covered[chosen].mean())
        result[label] = ClassShare(mean, size, mean / size, ends, len(chosen))
    return result
