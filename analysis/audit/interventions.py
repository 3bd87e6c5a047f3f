"""Proof by intervention, as tables: what to do to which clips, and the outcome.

A plan is a table with a row per intervention. `pipeline.evaluation`, which has the model, carries
them out and returns the same rows with one more column, ``probability``: that of the class in
``target`` for the changed clip. The unchanged clip is a row, too (``arm`` is ``none``), so that
outcomes need no second table. Nothing here loads a model.

Columns of a plan:

=============  ====================================================================================
``finding``    key of the finding
``row``        row of the run: the clip
``video_id``   the clip's video, by which intervals are clustered
``target``     class index whose probability is to be measured
``arm``        ``none``, ``named`` (what the finding names) or ``random`` (of the same size)
``action``     ``keep``, ``replace`` (region or frames by ``fill``), ``surround`` (as many patches
               around the region, from a direction that ``seed`` draws), ``freeze`` (all frames are
               the middle one) or ``shuffle`` (frames in the order of ``seed``)
``fill``       ``blur``, ``median`` (frame) or ``mean`` (colour) for ``replace`` and ``surround``,
               else empty
``t0`` ``t1``  time steps of the model, half-open
``y0`` ``y1``  rows of patches, half-open
``x0`` ``x1``  columns of patches, half-open
``seed``       seed of ``surround`` and ``shuffle``
=============  ====================================================================================
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.audit.evidence import Evidence, seed_of
from analysis.audit.finding import Finding, Place, Proof
from analysis.audit.significance import bootstrap_interval, mean_of
from pipeline.errors import StoreError

FILLS = ("blur", "median", "mean")
"""What a region is replaced by: three fills, since each leaves something that a model may see."""

COLUMNS = (
    *("finding", "row", "video_id", "target", "arm", "action", "fill"),
    *("t0", "t1", "y0", "y1", "x0", "x1", "seed"),
)
OUTCOME = "probability"
"""Column that an outcome has besides those of the plan."""

_LEAST_CLIPS = 5
"""Videos below which an interval by bootstrap says nothing, and a finding counts as not tried."""
STILL_SHARE = 0.9
"""Share of a class's probability that frozen clips keep, if a still would do."""
_LEAST_CHANGE = 0.02
"""The least mean drop of probability, beyond that of a random region, that confirms a finding."""


@dataclass(frozen=True)
class _Action:
    arm: str
    action: str
    fill: str
    place: Place
    seed: int = 0


def plan_interventions(
    findings: Sequence[Finding], evidence: Evidence, *, clips_per_finding: int = 20
) -> pd.DataFrame:
    """Plan how to test on the model each finding that can be proved.

    For findings about a region or time steps, these are replaced, and for comparison a random
    region of the same size, disjoint from it; where there is no room for one, as many patches
    around it. A region of more than half of the frame has nothing to be compared with, and its
    finding is left out. The clips are those of the class with the most weight there. For static
    findings, all frames are frozen to one, or shuffled for comparison; a class that needs no
    movement loses nothing. The clips of those are drawn from the ones that the run's own prediction
    is right about: where the model is wrong, or a label is, there is nothing to keep. Findings that
    can't be proved this way are left out, and so are label suspects, which
    `analysis.audit.second_model` checks.

    Returns
    -------
    DataFrame with the columns that the module's docstring lists
    """
    rows: list[dict[str, object]] = []
    for finding in findings:
        if finding.proof.state == "not applicable" or finding.scope != "class":
            continue
        index = list(evidence.class_names).index(finding.subject[0])
        member = np.flatnonzero(evidence.groups == index)
        place = _named_place(finding, evidence.grid)
        if finding.kind != "static" and not has_control(place, evidence.grid):
            continue
        for row in _in_order(finding, place, evidence, member)[:clips_per_finding]:
            clip = evidence.table.iloc[int(row)]
            rng = np.random.default_rng(seed_of(finding.key, clip["video_id"]))
            for action in _actions(finding, place, evidence.grid, rng):
                t0, t1, y0, y1, x0, x1 = _bounds(action.place, evidence.grid)
                rows.append(
                    {
                        "finding": finding.key,
                        "row": int(clip["row"]),
                        "video_id": str(clip["video_id"]),
                        "target": index,
                        "arm": action.arm,
                        "action": action.action,
                        "fill": action.fill,
                        **{"t0": t0, "t1": t1, "y0": y0, "y1": y1, "x0": x0, "x1": x1},
                        "seed": action.seed,
                    }
                )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def prove(findings: Sequence[Finding], outcomes: pd.DataFrame) -> list[Finding]:
    """Add the outcome of interventions to the findings.

    A finding is confirmed if taking away what it names lowers the class's probability by more than
    taking away a random region of the same size: by 0.02 or more in the mean over fills and clips,
    with a 95 % interval that excludes 0 (bootstrap over videos). A static finding is confirmed if
    clips whose frames are frozen keep nine tenths of the class's probability, with an interval that
    excludes less. With fewer than five videos a finding counts as not tried.

    Parameters
    ----------
    outcomes
        A plan with the column ``probability``; rows of findings other than the given ones are
        ignored.

    Raises
    ------
    StoreError
        When a column is missing, or a finding's clips lack the unchanged clip or an arm.
    """
    if absent := [name for name in (*COLUMNS, OUTCOME) if name not in outcomes]:
        raise StoreError(f"outcomes of interventions have no column {absent[0]!r}")
    tried = {str(key): part for key, part in outcomes.groupby("finding")}
    return [
        finding.with_proof(_proof(finding, tried[finding.key])) if finding.key in tried else finding
        for finding in findings
    ]


def means_by_arm(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Mean probability of each video, over its clips and fills: a row a video, a column an arm."""
    return outcomes.groupby(["video_id", "arm"])[OUTCOME].mean().unstack("arm")


def _proof(finding: Finding, outcomes: pd.DataFrame) -> Proof:
    means = means_by_arm(outcomes)
    wanted = ["none", "named", "random"]
    if set(wanted) - set(means.columns) or means[wanted].isna().any(axis=None):
        raise StoreError(
            f"outcomes of {finding.key}: expected each clip unchanged, changed as named, and "
            "changed at random"
        )
    if len(means) < _LEAST_CLIPS:
        return Proof()
    named = (means["named"] - means["none"]).to_numpy(np.float64)
    random = (means["random"] - means["none"]).to_numpy(np.float64)
    beyond = named - random
    low, high = bootstrap_interval(mean_of, beyond, seed=seed_of("proof", finding.key))
    if finding.kind == "static":
        # Freezing is the named arm: a class that needs no movement keeps its probability.
        kept = (means["named"] - STILL_SHARE * means["none"]).to_numpy(np.float64)
        holds = bootstrap_interval(mean_of, kept, seed=seed_of("kept", finding.key))[0] > 0
    else:
        holds = high < 0 and beyond.mean() <= -_LEAST_CHANGE
    return Proof(
        state="confirmed" if holds else "not confirmed",
        change=float(named.mean()),
        low=low,
        high=high,
        random_change=float(random.mean()),
        n_clips=len(means),
    )


def _named_place(finding: Finding, grid: tuple[int, int, int]) -> Place:
    """Place that a finding is about; one that only the middle matters is about the middle."""
    if finding.kind != "centre_only":
        return finding.place
    # At most half of each side, so that there is room around it.
    y, x = (-(-size // 4) for size in grid[1:])
    return Place(y=(y, grid[1] - y), x=(x, grid[2] - x))


def _in_order(
    finding: Finding, place: Place, evidence: Evidence, member: NDArray[np.integer]
) -> NDArray[np.integer]:
    """Rows of a class in the order in which they are tried, by what the run says of them alone."""
    if finding.kind != "static":
        return member[np.argsort(-_share(evidence, member, place), kind="stable")]
    right = member[evidence.prediction[member] == evidence.groups[member]]
    # Nothing of a map says which clips show a still best, so they are drawn.
    return np.random.default_rng(seed_of("static", finding.subject[0])).permutation(right)


def _actions(
    finding: Finding, place: Place, grid: tuple[int, int, int], rng: np.random.Generator
) -> list[_Action]:
    actions = [_Action("none", "keep", "", Place())]
    if finding.kind == "static":
        seed = int(rng.integers(2**31))
        return [
            *actions,
            _Action("named", "freeze", "", Place()),
            _Action("random", "shuffle", "", Place(), seed),
        ]
    for fill in FILLS:
        actions.append(_Action("named", "replace", fill, place))
        if has_room(place, grid):
            actions.append(_Action("random", "replace", fill, random_place(place, grid, rng)))
        else:
            seed = int(rng.integers(2**31))
            actions.append(_Action("random", "surround", fill, place, seed))
    return actions


def has_room(place: Place, grid: tuple[int, int, int]) -> bool:
    """Whether a place of the same size fits elsewhere, without overlap."""
    return any(
        bounds is not None and bounds[1] - bounds[0] <= max(bounds[0], size - bounds[1])
        for bounds, size in zip((place.time, place.y, place.x), grid, strict=True)
    )


def has_control(place: Place, grid: tuple[int, int, int]) -> bool:
    """Whether there is something as large as the place that doesn't overlap it."""
    _, _, y0, y1, x0, x1 = _bounds(place, grid)
    return has_room(place, grid) or 2 * (y1 - y0) * (x1 - x0) <= grid[1] * grid[2]


def random_place(place: Place, grid: tuple[int, int, int], rng: np.random.Generator) -> Place:
    """Draw a place of the same size elsewhere, without overlap: there must be room."""
    if not has_room(place, grid):
        raise ValueError(f"{place} on a grid of {grid}: no room for another place of its size")
    given = {"time": place.time, "y": place.y, "x": place.x}
    sizes = dict(zip(given, grid, strict=True))
    while True:
        moved: dict[str, tuple[int, int] | None] = dict.fromkeys(given)
        for name, bounds in given.items():
            if bounds is not None:
                length = bounds[1] - bounds[0]
                start = int(rng.integers(0, sizes[name] - length + 1))
                moved[name] = (start, start + length)
        if any(_disjoint(moved[name], given[name]) for name in given):
            return Place(**moved)


def _disjoint(one: tuple[int, int] | None, other: tuple[int, int] | None) -> bool:
    return one is not None and other is not None and (one[1] <= other[0] or other[1] <= one[0])


def _bounds(place: Place, grid: tuple[int, int, int]) -> tuple[int, ...]:
    n_times, height, width = grid
    pairs = (place.time or (0, n_times), place.y or (0, height), place.x or (0, width))
    return tuple(bound for pair in pairs for bound in pair)


def _share(evidence: Evidence, rows: NDArray[np.integer], place: Place) -> NDArray[np.float64]:
    """Weight that each clip gives to a place; clips are tried in this order."""
    t0, t1, y0, y1, x0, x1 = _bounds(place, evidence.grid)
    _, height, width = evidence.grid
    maps = evidence.maps[rows].reshape(-1, height, width)[:, y0:y1, x0:x1]
    where: NDArray[np.float64] = maps.sum(axis=(1, 2)).astype(np.float64)
    when: NDArray[np.float64] = evidence.frame_weight[rows, t0:t1].sum(axis=1).astype(np.float64)
    return where * when
