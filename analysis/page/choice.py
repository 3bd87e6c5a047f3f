"""Which clips stand for a class on the page, and why."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.audit.finding import Finding

REASONS = {
    "typical": "its map is most like that of the class's other clips",
    "odd": "its map is least like that of the class's other clips",
    "right": "the most confident right answers",
    "wrong": "the most confident wrong answers",
    "suspect": "a finding names it: its label, a twin, or a map against its class",
    "example": "an example of another finding",
}
"""Why a clip is shown, and what that means."""

_SUSPECT = ("label_suspect", "near_duplicate", "unlike_class")

Chosen = dict[int, list[str]]
"""Reasons by the clip's row."""


def choose_clips(
    table: pd.DataFrame,
    groups: NDArray[np.integer],
    found: Sequence[Finding],
    *,
    clips_per_class: int,
) -> dict[int, Chosen]:
    """Choose clips of each class for each reason; of equals, the earlier clip comes first.

    Parameters
    ----------
    table
        From `analysis.scores`: ``class_agreement``, ``probability``, ``correct`` are used.
    groups
        (rows of the table,) class that a clip is shown in; -1 for clips that aren't chosen for
        their class, though a finding may name them.
    clips_per_class
        Clips for each reason but findings, of which every example is taken.

    Returns
    -------
    Chosen clips by class; those of no class under -1
    """
    correct = table["correct"].fillna(False).to_numpy(bool)
    known = table["correct"].notna().to_numpy()
    agreement = table["class_agreement"].to_numpy(np.float64)
    probability = table["probability"].to_numpy(np.float64)
    wanted = {
        "typical": (-agreement, np.isfinite(agreement)),
        "odd": (agreement, np.isfinite(agreement)),
        "right": (-probability, correct | ~known),
        "wrong": (-probability, ~correct & known),
    }
    rows = table.index.to_numpy()
    chosen: dict[int, Chosen] = {}
    for reason, (key, eligible) in wanted.items():
        taken = _first_of_each(groups, key, eligible & (groups >= 0), clips_per_class)
        for position in taken:
            of_class = chosen.setdefault(int(groups[position]), {})
            of_class.setdefault(int(rows[position]), []).append(reason)
    at = pd.Series(groups, index=rows)
    for finding in found:
        reason = "suspect" if finding.kind in _SUSPECT else "example"
        for example in finding.examples:
            if example.row in at.index:
                of_class = chosen.setdefault(int(at[example.row]), {})
                reasons = of_class.setdefault(example.row, [])
                if reason not in reasons:
                    reasons.append(reason)
    return chosen


def in_order_of_interest(
    chosen: dict[int, Chosen], found: Sequence[Finding], most: int
) -> NDArray[np.int64]:
    """Rows whose frames are shown, ``most`` at most: examples of findings, then classes in turn."""
    shown = {row for of_class in chosen.values() for row in of_class}
    named = (example.row for finding in found for example in finding.examples)
    first = dict.fromkeys(row for row in named if row in shown)
    queues = [iter(of_class) for name, of_class in sorted(chosen.items()) if name >= 0]
    while queues and len(first) < most:
        left = []
        for queue in queues:
            if (row := next(queue, None)) is not None:
                first.setdefault(row)
                left.append(queue)
        queues = left
    return np.array(sorted(list(first)[:most]), np.int64)


def _first_of_each(
    groups: NDArray[np.integer], key: NDArray[np.floating], eligible: NDArray[np.bool_], n: int
) -> NDArray[np.int64]:
    """Positions of the ``n`` least keys of each group, by group and key."""
    at = np.flatnonzero(eligible)
    order = at[np.lexsort((key[at], groups[at]))]
    ordered = groups[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[0] - 1)) if len(order) else order
    sizes = np.diff(np.append(starts, len(order)))
    rank = np.arange(len(order)) - np.repeat(starts, sizes)
    return order[rank < n]
