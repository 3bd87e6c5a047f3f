"""Drift between two runs over the same videos: two models, checkpoints, or dataset versions."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.audit.bias import where_in_words
from analysis.audit.evidence import Evidence, seed_of
from analysis.audit.finding import Finding, Place
from analysis.audit.settings import AuditSettings
from analysis.audit.significance import adjusted, bootstrap_interval, mean_of
from pipeline.errors import StoreError

COMPARED = (
    *("entropy", "border_mass", "center_mass", "first_frame_mass", "last_frame_mass"),
    *("movement", "stillness", "label_probability"),
)
"""Scores whose change is tested; the map is tested as well, patch by patch."""

_LEAST_CHANGE = 0.5
"""The least mean change that is a finding, in standard deviations of the first run's score over all
clips. Rounding or another precision changes the same model far less."""
_LEAST_PROBABILITY = 0.05
"""The least change of a probability, and of the share of clips that are right."""


def drift(first: Evidence, second: Evidence, settings: AuditSettings) -> list[Finding]:
    """Find classes in which the second run attends or answers differently from the first.

    Videos are paired by id and label. Each class is tested in each score, and in each patch of the
    mean map if the grids are equal (Wilcoxon's signed rank test). Its p is the smallest, times the
    number of its tests.

    Raises
    ------
    StoreError
        When the runs have no video in common, or their classes differ.
    """
    if list(first.class_names) != list(second.class_names):
        raise StoreError("the runs have different classes: they can't be compared by class")
    rows, others = _paired(first, second)
    if not len(rows):
        raise StoreError("the runs have no video id in common")
    label = first.groups[rows]
    same_grid = first.grid[1:] == second.grid[1:]
    n_classes = len(first.class_names)
    names = [name for name in COMPARED if np.isfinite(first.score(name)[rows]).any()]
    changes = {name: second.score(name)[others] - first.score(name)[rows] for name in names}
    scale = {
        name: _LEAST_PROBABILITY
        if name == "label_probability"
        else _LEAST_CHANGE * max(float(np.nanstd(first.score(name))), 1e-3)
        for name in names
    }
    classes = [
        index for index in range(n_classes) if int((label == index).sum()) >= settings.min_clips
    ]
    tested = {
        index: _least(
            {name: changes[name][label == index] for name in names},
            _map_changes(first, second, rows, others, label == index) if same_grid else None,
        )
        for index in classes
    }
    q = adjusted(np.array([tested[index].p for index in classes], np.float64))
    found = []
    for at, index in enumerate(classes):
        member = label == index
        if not q[at] <= settings.q:
            continue
        told = _told(first, second, rows, others, member, changes, scale, same_grid)
        if told is None:
            continue
        name = first.class_names[index]
        values, what, seen, place, strength = told
        low, high = bootstrap_interval(mean_of, values, seed=seed_of("drift", name, what))
        order = np.argsort(-np.abs(values), kind="stable")
        found.append(
            Finding(
                kind="drift",
                scope="class",
                subject=(name,),
                seen=f"In {name!r} {seen}.",
                check="Compare these clips in both runs: the second may have learned something "
                "that the first didn't need.",
                effect=float(values.mean()),
                effect_name=what,
                low=low,
                high=high,
                p=tested[index].p,
                q=float(q[at]),
                n=int(member.sum()),
                strength=strength,
                examples=second.examples(others[member][order]),
                method=second.method,
                class_specific=second.class_specific,
                place=place,
            )
        )
    return found


class _Tested:
    def __init__(self, p: float) -> None:
        self.p = p


def _paired(first: Evidence, second: Evidence) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of both runs that show the same video; matched by label as well if both have labels."""
    labelled = all((evidence.label >= 0).any() for evidence in (first, second))
    columns = ["video_id", "label_index"] if labelled else ["video_id"]
    one, other = (pd.MultiIndex.from_frame(evidence.table[columns]) for evidence in (first, second))
    # A video of several labels is paired by its first.
    unique = np.flatnonzero(~other.duplicated())
    at = other[unique].get_indexer(one)
    rows = np.flatnonzero(at >= 0)
    return rows, unique[at[rows]].astype(np.int64)


def _map_changes(
    first: Evidence,
    second: Evidence,
    rows: NDArray[np.int64],
    others: NDArray[np.int64],
    member: NDArray[np.bool_],
) -> NDArray[np.float64]:
    change = second.maps[others[member]].astype(np.float64) - first.maps[rows[member]]
    return change


def _least(by_score: dict[str, NDArray[np.float64]], of_map: NDArray[np.float64] | None) -> _Tested:
    p_values = [_signed_rank(change[np.isfinite(change)]) for change in by_score.values()]
    if of_map is not None:
        p_values += [_signed_rank(of_map[:, cell]) for cell in range(of_map.shape[1])]
    return _Tested(float(min(min(p_values) * len(p_values), 1.0)))


def _signed_rank(change: NDArray[np.float64]) -> float:
    """Two-sided p of Wilcoxon's test; 1 if nothing has changed."""
    moved = change[np.abs(change) > 1e-6]
    if len(moved) < 5:
        return 1.0
    return float(stats.wilcoxon(moved, method="approx" if len(moved) > 50 else "auto").pvalue)


def _told(
    first: Evidence,
    second: Evidence,
    rows: NDArray[np.int64],
    others: NDArray[np.int64],
    member: NDArray[np.bool_],
    changes: dict[str, NDArray[np.float64]],
    scale: dict[str, float],
    same_grid: bool,
) -> tuple[NDArray[np.float64], str, str, Place, float] | None:
    """Say what has changed most; None if no change is worth telling."""
    size = {
        name: abs(float(np.nanmean(change[member]))) / scale[name]
        for name, change in changes.items()
        if _signed_rank(change[member][np.isfinite(change[member])]) <= 0.01
    }
    best = max(size, key=lambda name: size[name]) if size else None
    told = None
    if best is not None and size[best] >= 1:
        values = changes[best][member]
        before, after = (
            float(np.nanmean(evidence.score(best)[at[member]]))
            for evidence, at in ((first, rows), (second, others))
        )
        told = (
            values[np.isfinite(values)],
            f"mean change of {best}",
            f"{best} goes from {before:.3f} to {after:.3f}",
            Place(),
            float(np.clip(size[best] / (1 + size[best]), 0, 1)),
        )
    if same_grid:
        change = _map_changes(first, second, rows, others, member)
        mean = change.mean(axis=0)
        cell = int(mean.argmax())
        before = float(first.maps[rows[member], cell].mean())
        n_patches = change.shape[1]
        grows = mean[cell] * n_patches
        sure = _signed_rank(change[:, cell]) * n_patches <= 0.05
        worth = grows / (1 + grows)
        if (
            sure
            and grows >= 1
            and (before + mean[cell]) >= 1.5 * before
            and (told is None or worth > told[4])
        ):
            y, x = divmod(cell, first.grid[2])
            told = (
                change[:, cell],
                "mean change of the patch's share",
                f"the patch in row {y + 1}, column {x + 1} "
                f"({where_in_words(y, x, first.grid)}) goes from {before:.1%} to "
                f"{before + mean[cell]:.1%} of the attention",
                Place(y=(y, y + 1), x=(x, x + 1)),
                float(worth),
            )
    return told
