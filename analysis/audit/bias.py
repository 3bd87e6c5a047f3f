"""Classes, or a whole dataset, whose maps lie at the wrong place or time.

Each class is compared with the other classes of the same run, not with a uniform map: what all
classes share comes from the model and doesn't point to a shortcut in one of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from analysis.audit.evidence import Evidence, seed_of
from analysis.audit.finding import Finding, Kind, Place
from analysis.audit.logos import where_in_words
from analysis.audit.settings import AuditSettings
from analysis.audit.significance import (
    adjusted,
    bootstrap_interval,
    mean_difference,
    mean_of,
    rank_tests,
)
from analysis.measured_columns import OF_MASKS

_LEAST_FALL = 0.95
"""Part of an end's excess by which it falls from one step to the next, where there is a cue. Where
there is none, it is 0.6 to 0.9 in five models, and 1.06 to 1.26 in four that learnt a flash."""


@dataclass(frozen=True)
class ScoreTest:
    """A score in which a class may lie above all others."""

    kind: Kind
    score: str
    least_auc: float
    """Least probability that a clip of the class lies above a clip of another class."""
    unusual: Callable[[NDArray[np.float64], NDArray[np.float64], int], bool]
    """Whether the difference is worth a look, however significant it is; takes the values of the
    class, those of the others, and the number of time steps."""
    seen: str
    check: str
    place: Callable[[NDArray[np.float64], NDArray[np.float64]], Place]
    """Where to look, from the mean weight of each time step in the class and in the others,
    (time,) each."""
    is_cue: Callable[[NDArray[np.float64], NDArray[np.float64]], bool]
    """Whether these weights have the shape of what is looked for."""


def _at_first(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> Place:
    return Place(time=(0, _n_raised(inside, outside)))


def _at_last(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> Place:
    n_times = len(inside)
    return Place(time=(n_times - _n_raised(inside[::-1], outside[::-1]), n_times))


def _anywhere(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> Place:
    return Place()


def _any_shape(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> bool:
    return True


def _falls_at_once(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> bool:
    """Whether what the first step weighs more than in other classes is gone within one step.

    A flash, a title or a cut ends. In a class that merely changes most at its ends, the weight
    falls over several steps.
    """
    excess = inside - outside
    return bool(-np.diff(excess).min(initial=0) >= _LEAST_FALL * excess[0])


def _falls_at_once_backwards(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> bool:
    return _falls_at_once(inside[::-1], outside[::-1])


def _n_raised(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> int:
    """Count the steps, from the first on, that get more than in other classes.

    A flash may last longer than one step; at least one is counted, and at most half of the clip.
    """
    raised = inside >= 1.25 * outside
    n_raised = int(np.argmin(raised)) if not raised.all() else len(raised)
    return max(1, min(n_raised, len(inside) // 2))


def _half_more(inside: NDArray[np.float64], outside: NDArray[np.float64], n_times: int) -> bool:
    # Twice an even share, or the middle between that and all of it if there are few time steps: in
    # a class that changes most towards its ends, they weigh somewhat more without any shortcut.
    least = min(2 / n_times, (1 + 1 / n_times) / 2)
    return bool(inside.mean() >= max(1.5 * outside.mean(), least))


def _a_quarter_more(
    inside: NDArray[np.float64], outside: NDArray[np.float64], n_times: int
) -> bool:
    return bool(inside.mean() >= 1.25 * outside.mean() and inside.mean() >= 0.5)


def _much_stiller(inside: NDArray[np.float64], outside: NDArray[np.float64], n_times: int) -> bool:
    # Cosines of neighbouring maps lie close below 1, so compare what they lack to 1.
    return bool(n_times > 1 and 1 - np.median(inside) <= 0.5 * (1 - np.median(outside)))


SCORE_TESTS = (
    ScoreTest(
        "first_last_frames",
        "first_frame_mass",
        0.75,
        _half_more,
        "In {subject} the first time step weighs {inside:.0%} of the clip, in other classes "
        "{outside:.0%}.",
        "Look at the first frames of these clips for a flash, a title or a cut that gives the "
        "class away.",
        _at_first,
        _falls_at_once,
    ),
    ScoreTest(
        "first_last_frames",
        "last_frame_mass",
        0.75,
        _half_more,
        "In {subject} the last time step weighs {inside:.0%} of the clip, in other classes "
        "{outside:.0%}.",
        "Look at the last frames of these clips for an end card or a cut that gives the class "
        "away.",
        _at_last,
        _falls_at_once_backwards,
    ),
    ScoreTest(
        "static",
        "stillness",
        0.8,
        _much_stiller,
        "In {subject} the map stays in place over time: its cosine with the clip's mean map is "
        "{inside:.3f}, in other classes {outside:.3f}.",
        "Check whether one frame is enough for this class: a background or an object may give it "
        "away.",
        _anywhere,
        _any_shape,
    ),
    ScoreTest(
        "centre_only",
        "center_mass",
        0.8,
        _a_quarter_more,
        "In {subject} the middle of the frame gets {inside:.0%} of the weight, in other "
        "classes {outside:.0%}.",
        "Check whether what matters is always filmed in the middle, and what happens to clips in "
        "which it isn't.",
        _anywhere,
        _any_shape,
    ),
)


def class_biases(evidence: Evidence, settings: AuditSettings) -> list[Finding]:
    """Find classes that stand out in one of `SCORE_TESTS`."""
    evidence = evidence.grouped()
    groups, n_classes = evidence.groups, len(evidence.class_names)
    size = np.bincount(groups[groups >= 0], minlength=n_classes)
    tests = [test for test in SCORE_TESTS if np.isfinite(evidence.score(test.score)).all()]
    results = [rank_tests(evidence.score(test.score), groups, n_classes) for test in tests]
    found: list[Finding] = []
    for kind in dict.fromkeys(test.kind for test in tests):
        chosen = [position for position, test in enumerate(tests) if test.kind == kind]
        p = np.array([np.where(size >= settings.min_clips, results[i][1], np.nan) for i in chosen])
        q = adjusted(p)
        for at, position in enumerate(chosen):
            test, (auc, _) = tests[position], results[position]
            values = evidence.score(test.score)
            for index in np.flatnonzero((q[at] <= settings.q) & (auc >= test.least_auc)):
                inside, outside = values[groups == index], values[groups != index]
                if not test.unusual(inside, outside, evidence.grid[0]):
                    continue
                member = groups == index
                if not test.is_cue(*_profiles(evidence, member)):
                    continue
                found.append(
                    _class_finding(
                        evidence, test, int(index), (p[at][index], q[at][index], auc[index])
                    )
                )
    return found


def _class_finding(
    evidence: Evidence, test: ScoreTest, index: int, tested: tuple[float, float, float]
) -> Finding:
    values, member = evidence.score(test.score), evidence.groups == index
    inside, outside = values[member], values[~member]
    name = evidence.class_names[index]
    seed = seed_of(test.kind, test.score, name)
    low, high = bootstrap_interval(mean_difference, inside, outside, seed=seed)
    rows = np.flatnonzero(member)
    p, q, auc = tested
    return Finding(
        kind=test.kind,
        scope="class",
        subject=(name,),
        seen=test.seen.format(
            subject=repr(name), inside=float(inside.mean()), outside=float(outside.mean())
        ),
        check=test.check,
        effect=float(inside.mean() - outside.mean()),
        effect_name=f"mean {test.score} minus that of other classes",
        low=low,
        high=high,
        p=float(p),
        q=float(q),
        n=int(member.sum()),
        strength=float(2 * auc - 1),
        examples=evidence.examples(rows[np.argsort(-inside, kind="stable")]),
        method=evidence.method,
        class_specific=evidence.class_specific,
        place=test.place(*_profiles(evidence, member)),
    )


def _profiles(
    evidence: Evidence, member: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean weight of each time step in some rows and in the others, (time,) each."""
    weight = evidence.frame_weight.astype(np.float64)
    return weight[member].mean(axis=0), weight[~member].mean(axis=0)


def attention_sinks(evidence: Evidence, settings: AuditSettings) -> list[Finding]:
    """Find patches that get nearly the same large share whatever the clip shows.

    A sink is among the highest twentieth of patches in at least four fifths of all clips, and its
    share varies little. It is tested against a patch that gets there by chance, in one clip of
    twenty.
    """
    _, _, width = evidence.grid
    n, n_patches = evidence.maps.shape
    if n < settings.min_clips or n_patches < 20:
        return []
    highest = max(1, n_patches // 20)
    threshold = np.partition(evidence.maps, n_patches - highest, axis=1)[:, -highest]
    among = (evidence.maps >= threshold[:, None]).sum(axis=0)
    p = stats.binom.sf(among - 1, n, highest / n_patches)
    q = adjusted(p)
    found = []
    for cell in np.flatnonzero((q <= settings.q) & (among >= 0.8 * n)):
        shares = evidence.maps[:, cell].astype(np.float64)
        times = shares.mean() * n_patches
        varies = shares.std() / shares.mean()
        if times < 3 or varies > 0.5:
            continue
        y, x = divmod(int(cell), width)
        seed = seed_of("attention_sink", y, x)
        low, high = bootstrap_interval(lambda v: mean_of(v) * n_patches, shares, seed=seed)
        found.append(
            Finding(
                kind="attention_sink",
                scope="dataset",
                subject=(f"row {y + 1}, column {x + 1}",),
                seen=f"The patch in row {y + 1}, column {x + 1} "
                f"({where_in_words(y, x, evidence.grid)}) gets {times:.1f} times an even share "
                f"in {among[cell] / n:.0%} of all clips, whatever they show.",
                check="Take it as a habit of the model, not as something in the clips: "
                "compare maps with the dataset's mean, not with zero.",
                effect=float(times),
                effect_name="share of the patch divided by an even share",
                low=low,
                high=high,
                p=float(p[cell]),
                q=float(q[cell]),
                n=n,
                strength=float(among[cell] / n * (1 - varies)),
                examples=evidence.examples(np.argsort(-shares, kind="stable")),
                method=evidence.method,
                class_specific=evidence.class_specific,
                place=Place(y=(y, y + 1), x=(x, x + 1)),
            )
        )
    return found


def off_object(evidence: Evidence, settings: AuditSettings) -> list[Finding]:
    """Find classes whose maps miss what `ground_truth.zarr` marks, if that was measured.

    Classes are compared with the others by (share - area) / (1 - area), with the marked region's
    share of the weight and its area as a share of the clip: 1 if all weight is on it, 0 if as
    much as its area gives, whatever that is. A large object can't get many times its area.
    """
    if not set(OF_MASKS) <= set(evidence.table):
        return []
    evidence = evidence.grouped()
    share, area = (evidence.score(name) for name in OF_MASKS)
    measured = np.isfinite(share) & (area > 0) & (area < 1)
    if measured.sum() < settings.min_clips:
        return []
    share, area, groups = share[measured], area[measured], evidence.groups[measured]
    excess = (share - area) / (1 - area)
    n_classes = len(evidence.class_names)
    size = np.bincount(groups, minlength=n_classes)
    auc, p = rank_tests(-excess, groups, n_classes)
    p = np.where(size >= settings.min_clips, p, np.nan)
    q = adjusted(p)
    found = []
    for index in np.flatnonzero((q <= settings.q) & (auc >= 0.75)):
        member = groups == index
        inside, outside = excess[member], excess[~member]
        # Skip a class whose maps are good enough, even if that of others is better.
        if inside.mean() > 0.5 * outside.mean() and inside.mean() > 0:
            continue
        name = evidence.class_names[int(index)]
        seed = seed_of("off_object", name)
        low, high = bootstrap_interval(mean_difference, inside, outside, seed=seed)
        rows = np.flatnonzero(measured)[member]
        found.append(
            Finding(
                kind="off_object",
                scope="class",
                subject=(name,),
                seen=f"In {name!r} the marked object or person covers {area[member].mean():.0%} of "
                f"the clip and gets {share[member].mean():.0%} of the weight; in other classes "
                f"it covers {area[~member].mean():.0%} and gets {share[~member].mean():.0%}.",
                check="Look at what has the weight instead in these clips.",
                effect=float(inside.mean() - outside.mean()),
                effect_name="mean (share - area) / (1 - area) minus that of other classes",
                low=low,
                high=high,
                p=float(p[index]),
                q=float(q[index]),
                n=len(inside),
                strength=float(2 * auc[index] - 1),
                examples=evidence.examples(rows[np.argsort(inside, kind="stable")]),
                method=evidence.method,
                class_specific=evidence.class_specific,
            )
        )
    return found


def centred_dataset(evidence: Evidence, settings: AuditSettings) -> list[Finding]:
    """Find out whether nearly all maps are a blob in the middle, for any class."""
    centred = evidence.score("center_agreement")
    n_patches = evidence.grid[1] * evidence.grid[2]
    uniform = np.sqrt(np.maximum(evidence.maps, 0) / n_patches).sum(axis=1)
    n = len(centred)
    if n < settings.min_clips:
        return []
    nearer = int((centred > uniform).sum())
    # Sign test: a map that knows nothing is nearer to either of the two equally often.
    p = float(special.bdtrc(nearer - 1, n, 0.5)) if nearer else 1.0
    if p > settings.q or centred.mean() < 0.95 or nearer < 0.9 * n:
        return []
    low, high = bootstrap_interval(mean_of, centred, seed=seed_of("centre_only"))
    return [
        Finding(
            kind="centre_only",
            scope="dataset",
            subject=(),
            seen=f"Nearly every map is a blob in the middle: agreement with a centred Gaussian is "
            f"{centred.mean():.2f} on average.",
            check="Check whether the maps say anything about single clips, for example by their "
            "lift over a centred Gaussian.",
            effect=float(centred.mean()),
            effect_name="mean agreement with a centred Gaussian",
            low=low,
            high=high,
            p=p,
            q=p,
            n=n,
            strength=float(max(0.0, 2 * centred.mean() - 1)),
            examples=evidence.examples(np.argsort(-centred, kind="stable")),
            method=evidence.method,
            class_specific=evidence.class_specific,
        )
    ]
