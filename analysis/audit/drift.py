"""Drift between two runs over the same videos: two models, checkpoints, or dataset versions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.audit.evidence import Evidence, seed_of
from analysis.audit.finding import Finding, Place
from analysis.audit.logos import where_in_words
from analysis.audit.settings import AuditSettings
from analysis.audit.sign_flips import SignFlips, sign_flip_test, smallest_p
from analysis.audit.significance import adjusted, bootstrap_interval, mean_of
from pipeline.errors import StoreError

Float64Array = NDArray[np.float64]

COMPARED = (
    *("entropy", "border_mass", "center_mass", "first_frame_mass", "last_frame_mass"),
    *("movement", "stillness", "label_probability"),
)
"""Scores whose change is tested; the map is tested as well, patch by patch, and the answers."""
_OF_ANSWERS = ("label_probability",)
"""Scores among these that don't depend on the attribution."""
_ENDS = {"first_frame_mass": 0, "last_frame_mass": -1}
"""Time step that a score is of."""

_LEAST_CHANGE = 0.5
"""The least mean change that is a finding, in standard deviations of the first run's score over all
clips. Rounding or another precision changes the same model far less."""
_LEAST_PROBABILITY = 0.05
"""The least change of a probability, and of the share of clips that are right; and the share of
videos that may be answered otherwise, where nothing says which answer is right."""
_FLIPS = (4_096, 100_000)
"""Fewest and most flips of a test; between them as many as a class that drifts alone needs."""

Reason = Literal[
    "absent from the second run",
    "absent from the first run",
    "too few shared videos",
    "too few videos in the first run",
]
"""Why a class can't be tested."""
LOST: tuple[Reason, ...] = ("absent from the second run", "too few shared videos")
"""Reasons by which the second run lacks what the first has."""


@dataclass(frozen=True)
class Comparison:
    """The differences between two runs, and which classes could be tested at all."""

    findings: list[Finding]
    n_videos: int
    """Videos of a known class that both runs show; one of two labels counts twice."""
    n_paired: int
    """Classes of which both runs show a video."""
    tested: tuple[str, ...]
    """Classes that were tested."""
    untested: Mapping[str, Reason]
    """The other classes of either run."""
    least_videos: int
    """Shared videos that a class needs to be tested."""
    least_alone: int
    """Shared videos that a class needs to be found if no other one changes."""
    few: tuple[str, ...]
    """Classes that were tested on fewer than `least_alone` videos."""
    notes: tuple[str, ...] = field(default=())
    """Sentences about scores that were left out, or taken in another way than within one run."""

    @property
    def lost(self) -> tuple[str, ...]:
        """Classes of the first run that lack a tested counterpart for what the second run lacks."""
        return tuple(name for name, reason in self.untested.items() if reason in LOST)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that JSON can hold, without the findings."""
        return {
            "n_videos": self.n_videos,
            "n_paired": self.n_paired,
            "tested": list(self.tested),
            "untested": dict(self.untested),
            "least_videos": self.least_videos,
            "least_alone": self.least_alone,
            "few": list(self.few),
            "notes": list(self.notes),
        }


def drift(first: Evidence, second: Evidence, settings: AuditSettings) -> list[Finding]:
    """Find classes in which the second run's maps or answers differ from the first's.

    The findings of `compare_runs`. Where the attributions are of different methods, the answers
    alone are compared.

    Raises
    ------
    StoreError
        When the runs have no video in common, or their classes differ.
    """
    answers_only = _methods_differ(first, second) is not None
    return compare_runs(first, second, settings, answers_only=answers_only).findings


def compare_runs(
    first: Evidence, second: Evidence, settings: AuditSettings, *, answers_only: bool = False
) -> Comparison:
    """Test each class for whether the second run's maps or answers differ from the first's.

    Videos are paired by id, and by label where both runs have labels. Each class has two tests. The
    first is of all scores and, if the grids are equal, all patches of the mean map: flips of the
    signs of the videos' changes (`analysis.audit.sign_flips`), whose p needs no correction for
    their number. The second is of the answers: McNemar's exact test of how many are right, or in a
    run without labels whether more than one video in twenty has another predicted class (exact
    binomial test); there a class is what the first run predicts. Classes with fewer shared videos
    than ``min_clips``, or than can give p below q, aren't tested.

    Where the importance of time steps isn't of one kind in both runs, or one of them has none,
    first and last steps are compared by T, or not at all if T says when evidence was read.

    Parameters
    ----------
    answers_only
        Leave out all that depends on the attribution.

    Raises
    ------
    StoreError
        When the runs have no video in common, their classes differ, or, unless ``answers_only``,
        their attributions are of different methods.
    """
    if list(first.class_names) != list(second.class_names):
        raise StoreError("the runs have different classes: they can't be compared by class")
    if not answers_only and (methods := _methods_differ(first, second)) is not None:
        raise StoreError(
            f"the runs have attributions of different methods, {methods}: expected the same; "
            "answers_only compares their answers"
        )
    rows, others = _paired(first, second)
    if not len(rows):
        raise StoreError("the runs have no video id in common")
    pairs = _Pairs(first, second, rows, others, answers_only)
    n_shared, untested = _shared(first, second, rows, settings)
    names = list(first.class_names)
    chosen = [index for index in np.flatnonzero(n_shared).tolist() if index not in untested]
    n_flips = int(np.clip(np.ceil(2 * len(chosen) / settings.q), *_FLIPS))
    tested = [
        _Class(pairs, names[index], np.flatnonzero(pairs.group == index), n_flips)
        for index in chosen
    ]
    q_values = _adjusted(tested, settings.q)
    found = [
        told
        for one, (q_map, q_answers) in zip(tested, q_values, strict=True)
        if (told := one.finding(q_map, q_answers, settings.q)) is not None
    ]
    least_alone = _least_videos(settings, max(len(chosen), 1))
    return Comparison(
        found,
        n_videos=int(n_shared.sum()),
        n_paired=int((n_shared > 0).sum()),
        tested=tuple(names[index] for index in chosen),
        untested={names[index]: reason for index, reason in untested.items()},
        least_videos=_least_videos(settings),
        least_alone=least_alone,
        few=tuple(names[index] for index in chosen if n_shared[index] < least_alone),
        notes=pairs.notes,
    )


def _methods_differ(first: Evidence, second: Evidence) -> str | None:
    """Say both methods, if they aren't the same; None if they are.

    Which layers are read, and whether tokens are followed back, may differ with the model.
    """
    one, other = _method_of(first), _method_of(second)
    if one != other:
        return f"{one} and {other}"
    if first.options is None or second.options is None:
        return None
    of_model = set() if first.weights == second.weights else {"layers", "step_back"}
    options, others = (
        each.of_attribution().model_dump(exclude=of_model)
        for each in (first.options, second.options)
    )
    differing = [key for key in options if options[key] != others[key]]
    if not differing:
        return None
    return " and ".join(
        f"{one} with " + ", ".join(f"{key}={each[key]!r}" for key in differing)
        for each in (options, others)
    )


def _method_of(evidence: Evidence) -> str:
    kind = "of a class" if evidence.class_specific else "of no class"
    return f"{evidence.method!r} ({kind})"


def _least_videos(settings: AuditSettings, n_classes: int = 1) -> int:
    """Shared videos with which the least p, times the number of classes, is within q."""
    needed = settings.min_clips
    while smallest_p(needed) * n_classes > settings.q:
        needed += 1
    return needed


def _shared(
    first: Evidence, second: Evidence, rows: NDArray[np.int64], settings: AuditSettings
) -> tuple[NDArray[np.int64], dict[int, Reason]]:
    """Count the shared videos of each class, and say which classes can't be tested, and why."""
    n_classes, least = len(first.class_names), _least_videos(settings)

    def counts(groups: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(groups[groups >= 0], minlength=n_classes).astype(np.int64)

    shared, before = counts(first.groups[rows]), counts(first.groups)
    # Without labels a class is what the first run predicts, so the second has none of its own.
    after = counts(second.label) if _labelled(first) else np.zeros_like(before)
    untested: dict[int, Reason] = {}
    for index in np.flatnonzero((before + after > 0) & (shared < least)).tolist():
        if not before[index]:
            untested[index] = "absent from the first run"
        elif not shared[index]:
            untested[index] = "absent from the second run"
        else:
            lost = before[index] >= least
            untested[index] = "too few shared videos" if lost else "too few videos in the first run"
    return shared, untested


def _labelled(evidence: Evidence) -> bool:
    return bool((evidence.label >= 0).any())


def _paired(first: Evidence, second: Evidence) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of both runs that show the same video; matched by label as well if both have labels."""
    labelled = _labelled(first) and _labelled(second)
    columns = ["video_id", "label_index"] if labelled else ["video_id"]
    one, other = (pd.MultiIndex.from_frame(evidence.table[columns]) for evidence in (first, second))
    # A video of several labels is paired by its first.
    unique = np.flatnonzero(~other.duplicated())
    at = other[unique].get_indexer(one)
    rows = np.flatnonzero(at >= 0)
    return rows, unique[at[rows]].astype(np.int64)


class _Pairs:
    """Paired videos of two runs: their class, scores, maps and answers, a row a video."""

    def __init__(
        self,
        first: Evidence,
        second: Evidence,
        rows: NDArray[np.int64],
        others: NDArray[np.int64],
        answers_only: bool,
    ) -> None:
        self.first, self.second, self.rows, self.others = first, second, rows, others
        self.group = first.groups[rows]
        self.of_maps = not answers_only and first.grid[1:] == second.grid[1:]
        self.labelled = _labelled(first)
        self.before: dict[str, Float64Array] = {}
        self.after: dict[str, Float64Array] = {}
        self.least: dict[str, float] = {}
        notes = ["only answers are compared"] if answers_only else []
        if not answers_only and not self.of_maps:
            notes.append("maps have different grids, so no patch is compared")
        of_t = first.importance_kind != second.importance_kind
        t_says = first.times_weigh and second.times_weigh
        for name in _OF_ANSWERS if answers_only else COMPARED:
            if name in _ENDS and first.grid[0] != second.grid[0]:
                notes.append(f"{name} is left out: the runs have different time steps")
                continue
            if name in _ENDS and of_t and not t_says:
                notes.append(f"{name} is left out: the importance of frames isn't of one kind")
                continue
            if name in _ENDS and of_t:
                notes.append(f"{name} is of T: the importance of frames isn't of one kind")
                before, after = (
                    evidence.when[:, _ENDS[name]].astype(np.float64) for evidence in (first, second)
                )
            else:
                before, after = first.score(name), second.score(name)
            if not np.isfinite(after[others] - before[rows]).any():
                continue
            self.before[name], self.after[name] = before[rows], after[others]
            self.least[name] = (
                _LEAST_PROBABILITY
                if name == "label_probability"
                else _LEAST_CHANGE * max(float(np.nanstd(before)), 1e-3)
            )
        self.notes = tuple(notes)

    def right(self, member: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which videos each run answers rightly, by the first run's labels."""
        label = self.first.label[self.rows[member]]
        return (
            self.first.prediction[self.rows[member]] == label,
            self.second.prediction[self.others[member]] == label,
        )

    def changed(self, member: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which videos have another predicted class."""
        return np.asarray(
            self.first.prediction[self.rows[member]] != self.second.prediction[self.others[member]]
        )

    def map_changes(self, member: NDArray[np.int64]) -> Float64Array:
        """(videos, patches) change of each patch's share."""
        before, after = self.first.maps[self.rows[member]], self.second.maps[self.others[member]]
        return after.astype(np.float64) - before


@dataclass(frozen=True)
class _Told:
    """A change that is worth telling."""

    values: Float64Array
    what: str
    seen: str
    strength: float
    q: float
    p: float
    place: Place = field(default_factory=Place)


class _Class:
    """The tests of one class."""

    def __init__(self, pairs: _Pairs, name: str, member: NDArray[np.int64], n_flips: int) -> None:
        self.pairs, self.name, self.member = pairs, name, member
        self.scores = list(pairs.before)
        self.p_answers, self.least_p_answers = _answers_test(pairs, member)
        columns = [pairs.after[each][member] - pairs.before[each][member] for each in self.scores]
        changes = np.stack(columns, axis=1) if columns else np.zeros((len(member), 0))
        least = np.array([pairs.least[each] for each in self.scores], np.float64)
        if pairs.of_maps:
            of_map = pairs.map_changes(member)
            changes = np.concatenate([changes, of_map], axis=1)
            least = np.append(least, np.full(of_map.shape[1], 1 / of_map.shape[1]))
        self.flips: SignFlips | None = None
        if changes.size:
            seed = seed_of("drift", name)
            self.flips = sign_flip_test(changes, least, n_flips=n_flips, seed=seed)

    def finding(self, q_map: float, q_answers: float, most: float) -> Finding | None:
        """Give the change that is most worth telling; None if there is none."""
        candidates = []
        if self.flips is not None and q_map <= most:
            candidates += self._scores_told(self.flips, q_map, most)
            if self.pairs.of_maps:
                candidates += self._patch_told(self.flips, q_map, most)
        if q_answers <= most:
            candidates += self._answers_told(q_answers)
        if not candidates:
            return None
        told = max(candidates, key=lambda each: each.strength)
        seed = seed_of("drift", self.name, told.what)
        low, high = bootstrap_interval(mean_of, told.values, seed=seed)
        order = np.argsort(-np.abs(told.values), kind="stable")
        second = self.pairs.second
        return Finding(
            kind="drift",
            scope="class",
            subject=(self.name,),
            seen=f"In {self.name!r} {told.seen}.",
            check="Compare these clips in both runs: the second may have learned something "
            "that the first didn't need.",
            effect=float(told.values.mean()),
            effect_name=told.what,
            low=low,
            high=high,
            p=told.p,
            q=told.q,
            n=len(self.member),
            strength=told.strength,
            examples=second.examples(self.pairs.others[self.member][order]),
            method=second.method,
            class_specific=second.class_specific,
            place=told.place,
        )

    def _scores_told(self, flips: SignFlips, q: float, most: float) -> list[_Told]:
        told = []
        for column, name in enumerate(self.scores):
            if flips.p_of(column) > most:
                continue
            before, after = (
                run[name][self.member] for run in (self.pairs.before, self.pairs.after)
            )
            values = np.nan_to_num(after - before)
            size = abs(float(np.nanmean(after - before))) / self.pairs.least[name]
            if size >= 1:
                seen = f"{name} goes from {np.nanmean(before):.3f} to {np.nanmean(after):.3f}"
                told.append(
                    _Told(values, f"mean change of {name}", seen, size / (1 + size), q, flips.p)
                )
        return told

    def _patch_told(self, flips: SignFlips, q: float, most: float) -> list[_Told]:
        """Tell of the patch that gains most, if that is twice a uniform share and sure."""
        change = self.pairs.map_changes(self.member)
        mean = change.mean(axis=0)
        cell = int(mean.argmax())
        grows = float(mean[cell]) * change.shape[1]
        before = float(self.pairs.first.maps[self.pairs.rows[self.member], cell].mean())
        sure = flips.p_of(len(self.scores) + cell) <= most
        if not (sure and grows >= 1 and before + mean[cell] >= 1.5 * before):
            return []
        grid = self.pairs.first.grid
        y, x = divmod(cell, grid[2])
        seen = (
            f"the patch in row {y + 1}, column {x + 1} ({where_in_words(y, x, grid)}) goes from "
            f"{before:.1%} to {before + mean[cell]:.1%} of the weight"
        )
        place = Place(y=(y, y + 1), x=(x, x + 1))
        what = "mean change of the patch's share"
        return [_Told(change[:, cell], what, seen, grows / (1 + grows), q, flips.p, place)]

    def _answers_told(self, q: float) -> list[_Told]:
        if self.pairs.labelled:
            before, after = self.pairs.right(self.member)
            values = after.astype(np.float64) - before
            what = "change of the share that is right"
            seen = f"the share of right answers goes from {before.mean():.1%} to {after.mean():.1%}"
        else:
            values = self.pairs.changed(self.member).astype(np.float64)
            what = "share that is answered otherwise"
            seen = f"{values.mean():.1%} of the videos are answered otherwise"
        size = abs(float(values.mean())) / _LEAST_PROBABILITY
        if size < 1:
            return []
        return [_Told(values, what, seen, size / (1 + size), q, self.p_answers)]


def _answers_test(pairs: _Pairs, member: NDArray[np.int64]) -> tuple[float, float]:
    """Test whether a class is answered otherwise: p, and the least p that it could have had."""
    if not pairs.labelled:
        n_changed = int(pairs.changed(member).sum())
        p = stats.binomtest(
            n_changed, len(member), _LEAST_PROBABILITY, alternative="greater"
        ).pvalue
        return float(p), float(_LEAST_PROBABILITY ** len(member))
    before, after = pairs.right(member)
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    if not gained + lost:
        return 1.0, 1.0
    return float(stats.binomtest(gained, gained + lost).pvalue), smallest_p(gained + lost)


def _adjusted(tested: list[_Class], most: float) -> list[tuple[float, float]]:
    """Give q of each class's tests, over those of both kinds that could have been significant.

    A test of answers that is too small to be so whatever the truth doesn't count (Gilbert 2005,
    false discovery rates for discrete data): only its size decides that, and not its outcome.
    """
    p = np.array(
        [
            (
                np.nan if one.flips is None else one.flips.p,
                one.p_answers if one.least_p_answers <= most else np.nan,
            )
            for one in tested
        ],
        np.float64,
    ).reshape(len(tested), 2)
    q = np.nan_to_num(adjusted(p.ravel()), nan=1.0).reshape(len(tested), 2)
    return [(float(of_map), float(of_answers)) for of_map, of_answers in q]
