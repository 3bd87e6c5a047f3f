"""How an offline run's clips score, by predicted class: what a stream is held against."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.special import ndtr, ndtri

from pipeline.errors import StoreError
from pipeline.stream.correlation import autocorrelation_times, in_order, limits

Float64Array = NDArray[np.float64]

MIN_CLIPS = 50
"""A class with fewer clips is held against all clips."""
_MIN_INDEPENDENT = 20.0
"""As is one with fewer clips that have nothing to do with each other."""
_N_KNOTS = 65
_CAP = 4.5
"""Normal scores beyond are cut off: no single window says more."""
_SHRINKAGE = 0.05
"""How far correlations are drawn towards none: some scores nearly determine others."""
DISTANCE = "all scores together"
AGREEMENT = "agreement"
"""Bhattacharyya coefficient of a map and the mean map of the run's clips of the same class."""
TURNS = {"turned to the left": 1, "upside down": 2, "turned to the right": 3}
"""How a camera may come to lie, and by how many quarters its picture turns to the left then. Scores
of these names say how much better a map agrees with the usual one turned so than as it is."""
_N_FOLDS = 5
"""Parts of the clips: the agreement of each is with the mean map of the others."""


@dataclass(frozen=True)
class Places:
    """Where clips lie in recorded streams, whose neighbours resemble each other.

    Attributes
    ----------
    index
        (clips,) int64, number of each clip's step; streams lie far apart.
    step_s
        Length of a step, s.
    """

    index: NDArray[np.int64]
    step_s: float


@dataclass(frozen=True)
class Reference:
    """Distributions of scores over the clips of a run.

    Attributes
    ----------
    scores
        Names of the scores; the last is `DISTANCE`, and before it are those of maps, if these are
        known: `AGREEMENT` and the `TURNS`.
    class_names
        Classes, in the order of the groups.
    n_clips
        (classes + 1,) int64: clips predicted as each class, and at last all clips.
    knots
        (classes + 1, scores, 65) float64, quantiles of each group at evenly spaced normal scores
        between those of the first and the last of its clips. NaN for a group without values.
    precision
        (scores, scores) float64, inverse of the correlations between normal scores, without those
        of the turns and the distance.
    usual
        (classes + 1, height, width) float64, mean map of each group; no patches if maps aren't
        known.
    correlation_s
        (scores,) float64, autocorrelation times of a recorded stream, s, by their upper limits;
        None for clips that have nothing to do with each other.
    n_independent
        (classes + 1,) float64: ``n_clips`` over the longest autocorrelation time, in clips.
    """

    scores: tuple[str, ...]
    class_names: tuple[str, ...]
    n_clips: NDArray[np.int64]
    knots: Float64Array
    precision: Float64Array
    usual: Float64Array
    correlation_s: Float64Array | None
    n_independent: Float64Array

    def __post_init__(self) -> None:
        shape = (len(self.class_names) + 1, len(self.scores), _N_KNOTS)
        if self.knots.shape != shape or self.n_clips.shape != shape[:1]:
            raise ValueError(
                f"knots are {self.knots.shape} and n_clips {self.n_clips.shape}, expected {shape} "
                f"and {shape[:1]}"
            )
        n_joint = len(_joint(self.scores[:-1]))
        if self.precision.shape != (n_joint,) * 2 or self.scores[-1] != DISTANCE:
            raise ValueError(f"precision is {self.precision.shape}, or the last score isn't known")

    @classmethod
    def of(
        cls,
        scores: Mapping[str, ArrayLike],
        prediction: ArrayLike,
        class_names: Sequence[str],
        *,
        maps: ArrayLike | None = None,
        places: "Places | None" = None,
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
        maps
            (clips, height, width), each summing to 1: how far they agree with the usual one, as it
            is and turned, are further scores.
        places
            Where the clips lie in a recorded stream; by default they have nothing to do with each
            other.

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
        columns = np.stack(list(values.values()), axis=1)
        names = tuple(values)
        longest = 1.0
        if places is not None:
            # Before it is known which classes have clips enough to be held against their own.
            parts = [*(g for g in groups[:-1] if g.sum() >= MIN_CLIPS), groups[-1]]
            z = _by_group(columns, columns, parts, groups[-1])
            is_it = np.stack(groups[:-1], axis=1).astype(np.float64)
            times = autocorrelation_times(in_order(np.column_stack([z, is_it]), places.index))
            longest = float(times.max())
        n_independent = np.maximum(n_clips / longest, 1.0)
        known = [
            group
            for group, n, independent in zip(groups[:-1], n_clips, n_independent, strict=False)
            if n >= MIN_CLIPS and independent >= _MIN_INDEPENDENT
        ]
        parts = [*known, groups[-1]]
        usual = np.zeros((len(groups), 0, 0))
        in_all = columns
        if maps is not None:
            share = np.asarray(maps, np.float64)
            usual = np.array([_mean_map(share[group]) for group in groups])
            alike = _alike_to_others(share, groups[-1])
            in_all = np.column_stack([columns, alike])
            for group in known:
                alike = np.where(group[:, None], _alike_to_others(share, group), alike)
            columns = np.column_stack([columns, alike])
            names = (*names, AGREEMENT, *TURNS)
        marginal = np.array([_knots_of(columns, group) for group in groups])
        marginal[-1] = _knots_of(in_all, groups[-1])
        z = _by_group(columns, columns, parts, groups[-1])
        n_joint = len(_joint(names))
        precision = _precision(z[:, :n_joint])
        distance = np.array(
            [
                _knots(f)
                for f in _distances(columns[:, :n_joint], in_all[:, :n_joint], parts, groups)
            ]
        )
        lasts: Float64Array | None = None
        if places is not None:
            rows = in_order(np.column_stack([z, _distance(z, precision)]), places.index)
            lasts = limits(autocorrelation_times(rows), len(label))[1] * places.step_s
        return cls(
            scores=(*names, DISTANCE),
            class_names=tuple(class_names),
            n_clips=n_clips,
            knots=np.concatenate([marginal, distance[:, None]], axis=1),
            precision=precision,
            usual=usual,
            correlation_s=lasts,
            n_independent=n_independent,
        )

    def group_of(self, label: str) -> int:
        """Index of the clips that a window of a predicted class is held against."""
        try:
            index = self.class_names.index(label)
        except ValueError:
            return len(self.class_names)
        has_own = self.n_clips[index] >= MIN_CLIPS and self.n_independent[index] >= _MIN_INDEPENDENT
        return index if has_own else len(self.class_names)

    def map_scores(self, group: int, where: Float64Array) -> dict[str, float]:
        """Say how far a map (height, width) agrees with the usual one of a group, as it is: 0 to 1.

        And how much better it agrees with the usual one as a camera sees it that was turned: -1 to
        1. NaN if the clips' maps have another grid, or none.
        """
        alike = np.full(1 + len(TURNS), np.nan)
        if self.usual.shape[1:] == where.shape:
            alike = _alike(where, self._as_seen[group])
        return dict(zip((AGREEMENT, *TURNS), alike.tolist(), strict=True))

    @cached_property
    def _as_seen(self) -> list[Float64Array]:
        """The usual map of each group as it is and turned."""
        return [_turned(usual) for usual in self.usual]

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
        """Scales of each group, for its scores and for the distance."""
        return [
            (_Scale(knots[:-1], int(n)), _Scale(knots[-1:], int(n)))
            for knots, n in zip(self.knots, self.n_clips, strict=True)
        ]

    def typical(self, group: int, score: int) -> float:
        """Median of a score in a group."""
        return float(self.knots[group, score, _N_KNOTS // 2])

    def share_at_most(self, label: str) -> float:
        """Share of clips predicted as a class, plus two standard errors."""
        n = float(self.n_independent[-1])
        share = float(self.n_clips[self.class_names.index(label)] / self.n_clips[-1])
        # With one clip more, as a class that the run never predicted may still be predicted.
        share = (share * n + 1) / (n + 1)
        return float(min(1.0, share + 2 * np.sqrt(share * (1 - share) / n)))


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
    """Mahalanobis distance of normal scores (clips, scores) from 0: (clips,), NaN where one is.

    Scores behind those that the precision is of don't count.
    """
    z = z[:, : len(precision)]
    distance: Float64Array = np.sqrt(np.einsum("ns,st,nt->n", z, precision, z))
    return distance


def _knots_of(columns: Float64Array, group: NDArray[np.bool_]) -> Float64Array:
    """Quantiles of some clips in each column: (scores, 65)."""
    return np.array([_knots(column) for column in columns[group].T])


def _by_group(
    columns: Float64Array,
    fitted: Float64Array,
    parts: Sequence[NDArray[np.bool_]],
    fits: NDArray[np.bool_],
) -> Float64Array:
    """Give normal scores (clips, scores), each clip's among those of its group in ``fits``.

    ``parts`` are groups of clips, of which the last has all and is for those that no other has.
    """
    z = np.full(columns.shape, np.nan)
    left = parts[-1].copy()
    for group in parts:
        members = group & left
        left &= ~group
        within = group & fits
        if members.any() and within.any():
            z[members] = _Scale(_knots_of(fitted, within), int(within.sum()))(columns[members])
    return z


def _precision(z: Float64Array) -> Float64Array:
    whole = z[np.isfinite(z).all(axis=1)]
    correlation = whole.T @ whole / max(1, len(whole))
    scale = np.sqrt(np.maximum(np.diag(correlation), 1e-6))
    correlation = (1 - _SHRINKAGE) * correlation / np.outer(scale, scale)
    inverse: Float64Array = np.linalg.inv(correlation + _SHRINKAGE * np.eye(z.shape[1]))
    return inverse


def _folds(n_clips: int) -> list[NDArray[np.int64]]:
    """Parts of neighbouring clips: what is alike is mostly in one part."""
    return np.array_split(np.arange(n_clips), _N_FOLDS)


def _distances(
    columns: Float64Array,
    in_all: Float64Array,
    parts: Sequence[NDArray[np.bool_]],
    groups: Sequence[NDArray[np.bool_]],
) -> list[Float64Array]:
    """Distances of the clips of each group from the others: a clip is nearer to what it is part of.

    ``in_all`` has the scores as they are among all clips.
    """
    n_clips = len(columns)
    far, far_in_all = np.full(n_clips, np.nan), np.full(n_clips, np.nan)
    for fold in _folds(n_clips):
        others = np.full(n_clips, True)
        others[fold] = False
        z = _by_group(columns, columns, parts, others)
        precision = _precision(z[others])
        far[fold] = _distance(z[fold], precision)
        z = _by_group(in_all, in_all, parts[-1:], others)
        far_in_all[fold] = _distance(z[fold], precision)
    return [*(far[group] for group in groups[:-1]), far_in_all]


def _joint(names: Sequence[str]) -> Sequence[str]:
    """Scores that make up the distance: the turns ask about it again, in one direction each."""
    return [name for name in names if name not in TURNS]


def _mean_map(maps: Float64Array) -> Float64Array:
    """Mean of maps (clips, height, width); uniform if there is none."""
    whole = maps[np.isfinite(maps).all(axis=(1, 2))]
    if not len(whole):
        return np.full(maps.shape[1:], 1 / max(1, math.prod(maps.shape[1:])))
    mean: Float64Array = whole.mean(axis=0)
    return mean


def _turned(usual: Float64Array) -> Float64Array:
    """Give a map (height, width) as it is and as of each of the `TURNS`: (turns + 1, h, w)."""
    height, width = usual.shape
    seen = [usual]
    for quarters in TURNS.values():
        turned = np.rot90(usual, quarters)
        if turned.shape != usual.shape:
            resized = Image.fromarray(turned.astype(np.float32)).resize((width, height))
            turned = np.maximum(np.asarray(resized, np.float64), 0)
        seen.append(turned / turned.sum())
    return np.array(seen)


def _alike(maps: Float64Array, seen: Float64Array) -> Float64Array:
    """Bhattacharyya coefficients of maps (..., h, w) with what `_turned` gives: (..., turns + 1).

    Those of the turns less the first one.
    """
    root = np.sqrt(np.maximum(maps, 0))
    alike = np.einsum("...yx,kyx->...k", root, np.sqrt(seen))
    return np.concatenate([alike[..., :1], alike[..., 1:] - alike[..., :1]], axis=-1)


def _alike_to_others(maps: Float64Array, group: NDArray[np.bool_]) -> Float64Array:
    """How each clip of a group is like the others' mean map: (clips, turns + 1), NaN outside."""
    found = np.full((len(maps), 1 + len(TURNS)), np.nan)
    members = np.flatnonzero(group)
    for fold in _folds(len(members)):
        others = np.delete(members, fold)
        found[members[fold]] = _alike(maps[members[fold]], _turned(_mean_map(maps[others])))
    return found
