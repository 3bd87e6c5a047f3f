"""Findings about single clips: unlike their class, with a suspect label, or near duplicates.

Clips are compared in square-root space (Hellinger): each clip is the vector of sqrt(spatial map)
and sqrt(T), minus the mean of all clips, scaled to length 1.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.audit.evidence import Evidence
from analysis.audit.finding import Finding
from analysis.audit.neighbours import n_nearer, nearest, two_nn_dimension
from analysis.audit.settings import AuditSettings
from analysis.audit.significance import adjusted

Float64Array = NDArray[np.float64]

_QUARTILES_APART = float(stats.norm.ppf(0.75) - stats.norm.ppf(0.25))
"""Distance of a normal distribution's quartiles, in standard deviations."""
_LOWER_SHARE = 0.2
_UPPER_SHARE = 0.9
"""Share of clips below the quantile that also measures the spread above the median: a few percent
of odd clips move it little."""
_UPPER_APART = float(stats.norm.ppf(_UPPER_SHARE))
"""Distance of that quantile of a normal distribution from its median, in standard deviations."""
_LEAST_CHANCE = 0.01
"""P by chance of fitting the class so badly, above which a clip counts as one of it."""


def directions(evidence: Evidence) -> Float64Array:
    """Directions in which clips differ from the mean of all: (n, d), each of length 1, or 0."""
    vectors = hellinger(evidence)
    vectors -= vectors.mean(axis=0)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Float64Array = vectors / np.where(length > 1e-6, length, np.inf)
    return unit


def hellinger(evidence: Evidence) -> Float64Array:
    """Return square roots of the spatial map and of T, (n, y * x + time).

    Euclidean distance between these vectors is Hellinger's over both together, up to a factor.
    """
    maps = np.maximum(evidence.maps.astype(np.float64), 0)
    when = np.maximum(evidence.when.astype(np.float64), 0)
    roots: Float64Array = np.sqrt(np.concatenate([maps, when], axis=1))
    return roots


class ClassProducts:
    """How well each clip fits each class, and how well it would by chance."""

    def __init__(self, evidence: Evidence) -> None:
        vectors = directions(evidence)
        self._groups = evidence.groups
        n_classes = len(evidence.class_names)
        member = self._groups >= 0
        self.size = np.bincount(self._groups[member], minlength=n_classes)
        sums = np.zeros((n_classes, vectors.shape[1]))
        np.add.at(sums, self._groups[member], vectors[member])
        self._products = vectors @ sums.T
        self._itself = np.einsum("nd,nd->n", vectors, vectors)
        covariance = vectors.T @ vectors / max(len(vectors), 1)
        # Variance of a clip's product with a clip drawn from all.
        self.spread = np.einsum("nd,de,ne->n", vectors, covariance, vectors)

    def own(self, rows: NDArray[np.integer]) -> Float64Array:
        """Mean product with the other clips of each row's class."""
        groups = self._groups[rows]
        mean: Float64Array = (self._products[rows, groups] - self._itself[rows]) / np.maximum(
            self.size[groups] - 1, 1
        )
        return mean

    def other(self, rows: NDArray[np.integer], index: int) -> Float64Array:
        """Mean product of rows with the clips of a class that they aren't in."""
        mean: Float64Array = self._products[rows, index] / max(int(self.size[index]), 1)
        return mean


def _beyond_class(value: float, members: Float64Array) -> float:
    """One-sided p for a value above those of a class's other clips, by Student's t.

    Where they are skewed, their deviation is that of their highest tenth if it is wider.
    """
    n, mean = len(members), float(members.mean())
    middle, upper = np.quantile(members, [0.5, _UPPER_SHARE])
    above = float(upper - middle) / _UPPER_APART
    deviation = max(float(members.std(ddof=1)), above) * np.sqrt(1 + 1 / n)
    if deviation <= 0:
        return 0.0 if value > mean else 1.0
    return float(stats.t.sf((value - mean) / deviation, n - 1))


def _beyond_all(lack: Float64Array, groups: NDArray[np.integer]) -> Float64Array:
    """One-sided p for how much each clip lacks, beside the clips of its own class.

    The logarithm of what clips lack is taken to be normal above its class's median, with one spread
    for all classes: that of the quartiles or, as it is skewed, that of the highest tenth if it is
    wider. The clips that are looked for move these little as long as they are a few percent.
    """
    logs = np.log(np.maximum(lack, 1e-9))
    for index in np.unique(groups):
        of_group = groups == index
        logs[of_group] -= np.median(logs[of_group])
    low, high, upper = np.quantile(logs, [0.25, 0.75, _UPPER_SHARE])
    spread = max((high - low) / _QUARTILES_APART, upper / _UPPER_APART)
    if spread <= 0:
        return np.ones(len(logs))
    return np.asarray(stats.norm.sf(logs / spread), np.float64)


def unlike_class(evidence: Evidence, settings: AuditSettings) -> list[Finding]:
    """Find clips whose maps are unlike those of their class.

    The map agrees less with the mean of the class's other clips than theirs do: of what
    ``class_agreement`` lacks to 1, as minus its logarithm, see `_beyond_all`. A class of scattered
    maps has many that agree little, so a clip must also fit its class clearly less (p of 0.01) than
    a clip drawn from all would: for such a one, the mean product with n - 1 others has mean 0 and
    variance v' S v / (n - 1). The p is that of the first, and 1 where the second isn't met.
    """
    groups = evidence.groups
    products = ClassProducts(evidence)
    tested = np.flatnonzero((groups >= 0) & (products.size[groups] >= settings.min_clips))
    if not len(tested):
        return []
    own = products.own(tested)
    size = products.size[groups[tested]]
    deviation = np.sqrt(products.spread[tested] / (size - 1))
    z = np.where(deviation > 0, own / np.where(deviation > 0, deviation, 1), 0.0)
    by_chance = np.asarray(stats.t.cdf(z, size - 2), np.float64)
    agreement = np.clip(np.nan_to_num(evidence.score("class_agreement")[tested], nan=1), 1e-6, 1)
    p = _beyond_all(-np.log(agreement), groups[tested])
    p[by_chance > _LEAST_CHANCE] = 1
    q = adjusted(p)
    found = []
    for at in np.flatnonzero(q <= settings.q).tolist():
        row, name = int(tested[at]), evidence.class_names[int(groups[tested[at]])]
        (example,) = evidence.examples(np.array([row]))
        found.append(
            Finding(
                kind="unlike_class",
                scope="clip",
                subject=(example.video_id, name),
                seen=f"In {example.video_id} the weight lies at other places or times than in "
                f"the other {size[at] - 1} clips of {name!r}: {-z[at]:.1f} standard errors below "
                "what chance gives.",
                check="Look at the clip: it may be of a different kind from its class, or show "
                "something that the model mistakes.",
                effect=float(own[at]),
                effect_name="mean cosine with the other clips of its class",
                low=float("nan"),
                high=float("nan"),
                p=float(p[at]),
                q=float(q[at]),
                n=int(size[at]),
                strength=float(np.clip(-own[at], 0, 1)),
                examples=(example,),
                method=evidence.method,
                class_specific=evidence.class_specific,
            )
        )
    return found


def label_suspects(evidence: Evidence, settings: AuditSettings) -> list[Finding]:
    """Find labels that both the prediction and the map contradict.

    Candidates are those of confident learning (Northcutt et al. 2019): the predicted class isn't
    the label, nor another label of what the clip shows, and is at least as probable as on average
    over clips with that label, and as in four fifths of those that the model gets right: where
    it is wrong by itself, it is less sure. A candidate counts if its map fits the predicted
    class better than its label's class, both by more than clips drawn at random would and by more
    than the other clips of its label do. The larger p of the two counts.
    """
    label, prediction = evidence.label, evidence.prediction
    if not (label >= 0).any():
        return []
    products = ClassProducts(evidence)
    size = products.size
    known = label >= 0
    of_label = np.nan_to_num(evidence.score("label_probability"))
    total = np.bincount(label[known], weights=of_label[known], minlength=len(size))
    usual = total / np.maximum(size, 1)
    probability = evidence.score("probability")
    enough = np.minimum(size[label], size[prediction]) >= settings.min_clips
    right = pd.Series(probability).where(label == prediction).groupby(prediction)
    when_right = right.quantile(_LOWER_SHARE).reindex(range(len(size))).fillna(1.0).to_numpy()
    sure = probability >= np.maximum(np.maximum(usual, when_right)[prediction], 0.5)
    rows = np.flatnonzero(evidence.wrong & enough & sure)
    p = np.ones(len(rows))
    for at, row in enumerate(rows.tolist()):
        own, other = int(label[row]), int(prediction[row])
        members = np.flatnonzero(label == own)
        gains = products.other(members, other) - products.own(members)
        gain = float(gains[members == row][0])
        variance = float(products.spread[row] * (1 / (size[own] - 1) + 1 / size[other]))
        freedom = int(min(size[own] - 1, size[other])) - 1
        by_chance = float(stats.t.sf(gain / variance**0.5, freedom)) if variance > 0 else 1.0
        p[at] = max(by_chance, _beyond_class(gain, gains[members != row]))
    q = adjusted(p)
    found = []
    for at in np.flatnonzero(q <= settings.q).tolist():
        row = int(rows[at])
        labelled, predicted = (evidence.class_names[int(i)] for i in (label[row], prediction[row]))
        (example,) = evidence.examples(np.array([row]))
        surplus = float(probability[row] - of_label[row])
        found.append(
            Finding(
                kind="label_suspect",
                scope="clip",
                subject=(example.video_id, labelled, predicted),
                seen=f"{example.video_id} is labelled {labelled!r}, but the model says "
                f"{predicted!r} ({probability[row]:.0%}) and its map is as in that class.",
                check=f"Look at the clip and decide whether its label should be {predicted!r}.",
                effect=surplus,
                effect_name="probability of the predicted class minus that of the label",
                low=float("nan"),
                high=float("nan"),
                p=float(p[at]),
                q=float(q[at]),
                n=1,
                strength=float(np.clip(surplus, 0, 1)),
                examples=(example,),
                method=evidence.method,
                class_specific=evidence.class_specific,
            )
        )
    return found


def _how_near(ratio: float, k: int) -> str:
    """Say how near two videos are, from their distance over that to the k-th neighbour."""
    if ratio < 1e-4:
        return "to the model they are the same"
    return f"{1 / ratio:.0f} times nearer to each other than to the {k}th neighbour"


def near_duplicates(evidence: Evidence, settings: AuditSettings) -> list[Finding]:
    """Find pairs of videos that are far nearer to each other than to the rest.

    Distances are between the model's pooled vectors if they are stored, else between the maps. Take
    r_1 and r_k, a point's distances to its first and k-th neighbour: among points of locally even
    density in d dimensions, (r_1 / r_k)^d is the smallest of k - 1 uniform numbers. d is estimated
    from all clips (Facco et al. 2017). Two clips of one video aren't a pair; a clip with several
    labels counts once, and of two videos with several segments the nearest two are the finding.

    A classifier's vector says more of the class than of the clip, and hardly differs where a cue
    gives the class away. A copy is looked at alike, too: each of a pair has to be among the other's
    k nearest by the maps.
    """
    evidence = evidence.of_clips()
    n, k = len(evidence.table), settings.duplicate_neighbours
    if n < 3 * k:
        return []
    vectors = hellinger(evidence) if evidence.vectors is None else _unit(evidence.vectors)
    _, video = np.unique(evidence.table["video_id"].to_numpy(object), return_inverse=True)
    rows, distances = nearest(vectors.astype(np.float32), video, k)
    dimension = two_nn_dimension(distances)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(distances[:, -1] > 0, distances[:, 0] / distances[:, -1], 1.0)
        p = -np.expm1((k - 1) * np.log1p(-np.minimum(ratio**dimension, 1 - 1e-16)))
    q = adjusted(p)
    split = evidence.table["split"].to_numpy(object)
    basis = "maps" if evidence.vectors is None else "pooled vectors"
    pairs: dict[tuple[int, int], int] = {}
    for at in np.flatnonzero((q <= settings.q) & (ratio <= settings.duplicate_ratio)).tolist():
        other = int(rows[at, 0])
        pair = (min(at, other), max(at, other))
        if pair not in pairs or p[at] > p[pairs[pair]]:  # keep the less significant direction
            pairs[pair] = at
    if evidence.vectors is not None and pairs:
        pairs = _alike_in_maps(pairs, hellinger(evidence).astype(np.float32), video, k)
    found, told = [], set[frozenset[int]]()
    for (first, second), at in sorted(pairs.items(), key=lambda item: (ratio[item[1]], item[0])):
        videos = frozenset((int(video[first]), int(video[second])))
        if videos in told:
            continue
        told.add(videos)
        across = (
            isinstance(split[first], str)
            and isinstance(split[second], str)
            and (split[first] != split[second])
        )
        examples = evidence.examples(np.array([first, second]))
        where = f", one in {split[first]!r} and one in {split[second]!r}" if across else ""
        found.append(
            Finding(
                kind="near_duplicate",
                scope="clip",
                subject=tuple(example.video_id for example in examples),
                seen=f"{examples[0].video_id} and {examples[1].video_id} are near duplicates by "
                f"their {basis}{where}: {_how_near(float(ratio[at]), k)}.",
                check="Compare the two clips, and keep both in the same split if they show "
                "the same footage.",
                effect=float(ratio[at]),
                effect_name=f"distance divided by that to the {k}th neighbour",
                low=float("nan"),
                high=float("nan"),
                p=float(p[at]),
                q=float(q[at]),
                n=2,
                strength=float((1 - ratio[at]) * (1.0 if across else 0.7)),
                examples=examples,
                method=evidence.method,
                class_specific=evidence.class_specific,
            )
        )
    return found


def _alike_in_maps(
    pairs: dict[tuple[int, int], int],
    maps: NDArray[np.float32],
    video: NDArray[np.integer],
    k: int,
) -> dict[tuple[int, int], int]:
    """Keep the pairs whose rows are among each other's k nearest by their maps."""
    one, other = np.array(list(pairs)).T
    nearer = n_nearer(maps, video, np.append(one, other), np.append(other, one))
    alike = np.maximum(*np.split(nearer, 2)) < k
    return {pair: at for (pair, at), kept in zip(pairs.items(), alike, strict=True) if kept}


def _unit(vectors: NDArray[np.floating]) -> Float64Array:
    values = vectors.astype(np.float64)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 0, length, 1)
