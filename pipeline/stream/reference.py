"""How an offline run's clips score, by predicted class: what a stream is held against."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from pipeline.errors import StoreError, reason_of
from pipeline.storage.files import read_bytes, write_bytes

Float64Array = NDArray[np.float64]

MIN_CLIPS = 50
"""A class with fewer clips is held against all clips."""
_N_KNOTS = 65
_CAP = 4.5
"""Normal scores beyond are cut off: no single window says more."""
_SHRINKAGE = 0.05
"""Of the correlations towards none: some scores nearly determine others."""
DISTANCE = "all scores together"
_FORMAT = "staa-stream-reference-1"


@dataclass(frozen=True)
class Reference:
    """Distributions of scores over the clips of a run.

    Attributes
    ----------
    scores
        Names of the scores; the last is `DISTANCE`.
    class_names
        Classes, in the order of the groups.
    n_clips
        (classes + 1,) int64: clips predicted as each class, and at last all clips.
    knots
        (classes + 1, scores, 65) float64, quantiles of each group at evenly spaced normal scores
        between those of the first and the last of its clips. NaN for a group without values.
    precision
        (scores - 1, scores - 1) float64, inverse of the correlations between normal scores.
    """

    scores: tuple[str, ...]
    class_names: tuple[str, ...]
    n_clips: NDArray[np.int64]
    knots: Float64Array
    precision: Float64Array

    def __post_init__(self) -> None:
        shape = (len(self.class_names) + 1, len(self.scores), _N_KNOTS)
        if self.knots.shape != shape or self.n_clips.shape != shape[:1]:
            raise ValueError(
                f"knots are {self.knots.shape} and n_clips {self.n_clips.shape}, expected {shape} "
                f"and {shape[:1]}"
            )
        if self.precision.shape != (len(self.scores) - 1,) * 2 or self.scores[-1] != DISTANCE:
            raise ValueError(f"precision is {self.precision.shape}, or the last score isn't known")

    @classmethod
    def of(
        cls, scores: Mapping[str, ArrayLike], prediction: ArrayLike, class_names: Sequence[str]
    ) -> "Reference":
        """Take the scores of a run's clips.

        Parameters
        ----------
        scores
            (clips,) each; NaN for a clip that has none. A score without any value is left out.
        prediction
            (clips,) int, index of the predicted class; clips with another index count as clips of
            no class.
        class_names
            Names of the classes.

        Raises
        ------
        StoreError
            For fewer than `MIN_CLIPS` clips with scores.
        """
        label = np.asarray(prediction, np.int64)
        values = {name: np.asarray(column, np.float64) for name, column in scores.items()}
        values = {name: column for name, column in values.items() if np.isfinite(column).any()}
        n_scored = max((int(np.isfinite(column).sum()) for column in values.values()), default=0)
        if n_scored < MIN_CLIPS:
            raise StoreError(
                f"the run has {n_scored} clips with scores: expected at least {MIN_CLIPS} to hold "
                "a stream against"
            )
        groups = [label == index for index in range(len(class_names))] + [np.full(len(label), True)]
        n_clips = np.array([group.sum() for group in groups], np.int64)
        marginal = np.array(
            [[_knots(column[group]) for column in values.values()] for group in groups]
        )
        # How far a clip is from the others of its class, in all scores together.
        columns = np.stack(list(values.values()), axis=1)
        own = np.where((label >= 0) & (label < len(class_names)), label, len(class_names))
        own = np.where(n_clips[own] >= MIN_CLIPS, own, len(class_names))
        z = np.full(columns.shape, np.nan)
        for group in np.unique(own):
            members = own == group
            z[members] = _Scale(marginal[group], int(n_clips[group]))(columns[members])
        whole = z[np.isfinite(z).all(axis=1)]
        correlation = whole.T @ whole / max(1, len(whole))
        scale = np.sqrt(np.maximum(np.diag(correlation), 1e-6))
        correlation = (1 - _SHRINKAGE) * correlation / np.outer(scale, scale)
        precision = np.linalg.inv(correlation + _SHRINKAGE * np.eye(len(values)))
        far = _distance(z, precision)
        distance = np.array([_knots(far[group]) for group in groups])
        return cls(
            scores=(*values, DISTANCE),
            class_names=tuple(class_names),
            n_clips=n_clips,
            knots=np.concatenate([marginal, distance[:, None]], axis=1),
            precision=precision,
        )

    def group_of(self, label: str) -> int:
        """Index of the clips that a window of a predicted class is held against."""
        try:
            index = self.class_names.index(label)
        except ValueError:
            return len(self.class_names)
        return index if self.n_clips[index] >= MIN_CLIPS else len(self.class_names)

    def normal_scores(self, group: int, values: Float64Array) -> tuple[Float64Array, float]:
        """Turn scores into normal scores: Phi^-1 of the share of clips that lie below.

        Beyond all clips they go on with the slope of the outer 16 %, up to 4.5. NaN stays NaN.

        Parameters
        ----------
        values
            (scores - 1,): all but the distance.

        Returns
        -------
        (scores,) normal scores, and the distance that the last one is of
        """
        of_scores, of_distance = self._scales[group]
        z = of_scores(values[None])
        far = _distance(z, self.precision)
        return np.append(z[0], of_distance(far[:, None])[0]), float(far[0])

    @cached_property
    def _scales(self) -> "list[tuple[_Scale, _Scale]]":
        """Of each group, for its scores and for the distance."""
        return [
            (_Scale(knots[:-1], int(n)), _Scale(knots[-1:], int(n)))
            for knots, n in zip(self.knots, self.n_clips, strict=True)
        ]

    def typical(self, group: int, score: int) -> float:
        """Median of a score in a group."""
        return float(self.knots[group, score, _N_KNOTS // 2])

    def share_at_most(self, label: str) -> float:
        """Share of clips predicted as a class, plus two standard errors."""
        n = int(self.n_clips[-1])
        # With one clip more, as a class that the run never predicted may still be predicted.
        share = (self.n_clips[self.class_names.index(label)] + 1) / (n + 1)
        return float(min(1.0, share + 2 * np.sqrt(share * (1 - share) / n)))

    def save(self, url: str) -> None:
        """Write it as .npz at any fsspec URL."""
        written = io.BytesIO()
        np.savez_compressed(
            written,
            format=np.array(_FORMAT),
            scores=np.array(self.scores),
            class_names=np.array(self.class_names),
            n_clips=self.n_clips,
            knots=self.knots,
            precision=self.precision,
        )
        write_bytes(url, written.getvalue())

    @classmethod
    def load(cls, url: str) -> "Reference":
        """Read what `save` wrote.

        Raises
        ------
        StoreError
            When the file is something else.
        """
        data = read_bytes(url)
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as read:
                if str(read["format"]) != _FORMAT:
                    raise ValueError("another format")
                return cls(
                    tuple(str(name) for name in read["scores"]),
                    tuple(str(name) for name in read["class_names"]),
                    read["n_clips"].astype(np.int64),
                    read["knots"].astype(np.float64),
                    read["precision"].astype(np.float64),
                )
        # A damaged archive fails its reader in many ways.
        except Exception as error:
            raise StoreError(
                f"{url} is no reference for streams, or is damaged: {reason_of(error)}"
            ) from error


@lru_cache(maxsize=1024)
def _levels(n: int) -> Float64Array:
    """Give normal scores of the knots, from the least of n clips to the greatest."""
    end = float(ndtri(1 - 1 / (max(n, 2) + 1)))
    return np.linspace(-end, end, _N_KNOTS)


def _knots(values: Float64Array) -> Float64Array:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return np.full(_N_KNOTS, np.nan)
    knots: Float64Array = np.quantile(finite, ndtr(_levels(len(values))), method="hazen")
    return knots


class _Scale:
    """From scores to normal scores, by the quantiles of n clips."""

    def __init__(self, knots: Float64Array, n: int) -> None:
        self._knots, self._levels = knots, _levels(n)
        self._score = np.arange(len(knots))
        self._is_known = np.isfinite(knots[:, 0])
        # Scale beyond the least and the greatest clip: that of the tail on the same side. The
        # middle's would make a few sd of what a skewed score does now and then.
        inner = [np.interp((-1, 1), self._levels, row) for row in knots]
        low, high = np.array(inner).reshape(-1, 2).T
        beyond = max(float(self._levels[-1]) - 1, 0.5)
        self._below_sd = np.maximum((low - knots[:, 0]) / beyond, 1e-6)
        self._above_sd = np.maximum((knots[:, -1] - high) / beyond, 1e-6)

    def __call__(self, values: Float64Array) -> Float64Array:
        """Give normal scores (clips, scores) of values (clips, scores)."""
        knots, levels, score, last = self._knots, self._levels, self._score, _N_KNOTS - 1
        below = (knots < values[..., None]).sum(axis=-1)
        up_to = (knots <= values[..., None]).sum(axis=-1)
        right = np.clip(below, 1, last)
        low, high = knots[score, right - 1], knots[score, right]
        part = (values - low) / np.where(high > low, high - low, 1.0)
        z = levels[right - 1] + part * (levels[1] - levels[0])
        if (below < up_to).any():
            # Equal clips share the middle of their ranks.
            ends = levels[np.minimum(below, last)], levels[np.maximum(up_to - 1, 0)]
            z = np.where(below < up_to, ndtri((ndtr(ends[0]) + ndtr(ends[1])) / 2), z)
        z = np.where(up_to == 0, levels[0] + (values - knots[:, 0]) / self._below_sd, z)
        z = np.where(below > last, levels[-1] + (values - knots[:, -1]) / self._above_sd, z)
        is_known = np.isfinite(values) & self._is_known
        found: Float64Array = np.where(is_known, np.clip(z, -_CAP, _CAP), np.nan)
        return found


def _distance(z: Float64Array, precision: Float64Array) -> Float64Array:
    """Mahalanobis distance of normal scores (clips, scores) from 0: (clips,), NaN where one is."""
    distance: Float64Array = np.sqrt(np.einsum("ns,st,nt->n", z, precision, z))
    return distance
