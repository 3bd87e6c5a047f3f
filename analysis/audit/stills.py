"""Classes for which a still would do, found by asking the model instead of reading a map.

A background or an object that is there in every frame may give a class away while the map is no
stiller than in other classes. So `jobs.audit --verify` also tries each class that no map points
to, on clips that the model gets right: one frame is repeated for the whole clip, and the class's
probability is compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.audit.evidence import Evidence, seed_of
from analysis.audit.finding import Finding, Proof
from analysis.audit.interventions import STILL_SHARE, means_by_arm
from analysis.audit.settings import AuditSettings
from analysis.audit.significance import adjusted, bootstrap_interval, mean_of

_LEAST_KNOWN = 0.5
"""Share of a class's clips that the model gets right, and mean probability of the class in those
that are tried, below which the model doesn't know it, and nothing can be said about what it
needs."""
_MOST_NAMED = 5
"""Classes that are findings of their own even where they are most of all."""
_CHECK = (
    "Look at single frames of these clips: a background, an object or a caption may give the class "
    "away."
)
_EFFECT = "change of the class's probability when one frame is repeated"


@dataclass(frozen=True)
class _Tried:
    """A candidate, and its clips' probabilities, (clips,) each."""

    finding: Finding
    none: NDArray[np.float64]
    frozen: NDArray[np.float64]
    shuffled: NDArray[np.float64]


def still_candidates(
    evidence: Evidence, found: Sequence[Finding], settings: AuditSettings
) -> list[Finding]:
    """Give a static finding to try for each class without one that the model knows.

    A class needs enough videos, of which the model gets half or more right. `stills` keeps those
    that hold.
    """
    size = np.bincount(evidence.groups[evidence.groups >= 0], minlength=len(evidence.class_names))
    known = {finding.subject[0] for finding in found if finding.kind == "static"}
    candidates = []
    for index in np.flatnonzero(size >= settings.min_clips).tolist():
        name = str(evidence.class_names[index])
        if name in known:
            continue
        rows = np.flatnonzero(evidence.groups == index)
        if (evidence.prediction[rows] == index).mean() < _LEAST_KNOWN:
            continue
        candidates.append(
            Finding(
                kind="static",
                scope="class",
                subject=(name,),
                seen="",
                check=_CHECK,
                effect=0.0,
                effect_name=_EFFECT,
                low=np.nan,
                high=np.nan,
                p=1.0,
                q=1.0,
                n=len(rows),
                strength=0.0,
                examples=evidence.examples(rows),
                method=evidence.method,
                class_specific=evidence.class_specific,
            )
        )
    return candidates


def stills(
    candidates: Sequence[Finding],
    outcomes: pd.DataFrame,
    settings: AuditSettings,
    by_map: Sequence[Finding] = (),
) -> list[Finding]:
    """Keep the candidates that repeated frames confirm.

    A class is tested if the model knows it. The p is that of a sign test, one-sided, for: most
    videos keep nine tenths of the probability. It is exact, where a t test isn't: a video keeps all
    of it or loses nearly all. How much is kept in the mean is what confirms a finding; q is over
    all classes that are tested. Where most classes need no movement, and these are more than five,
    that is one finding about the dataset.

    Parameters
    ----------
    candidates
        Findings of `still_candidates`, with their proofs.
    outcomes
        As in `analysis.audit.interventions.prove`.
    by_map
        Static findings about classes that a map pointed to, with their proofs: they count among
        the classes, and are kept as they are.
    """
    by_key = {str(key): part for key, part in outcomes.groupby("finding")}
    tried = [
        _tried(finding, by_key[finding.key]) for finding in candidates if finding.key in by_key
    ]
    states = ("confirmed", "not confirmed")
    tested = [
        one
        for one in tried
        if one.finding.proof.state in states and one.none.mean() >= _LEAST_KNOWN
    ]
    p = np.array([_p(one) for one in tested])
    q = adjusted(p)
    passed = [
        (one, float(p[place]), float(q[place]))
        for place, one in enumerate(tested)
        if one.finding.proof.state == "confirmed" and q[place] <= settings.q
    ]
    n_still = len(passed) + sum(finding.proof.state == "confirmed" for finding in by_map)
    n_tested = len(tested) + sum(finding.proof.state in states for finding in by_map)
    if passed and n_still > _MOST_NAMED and 2 * n_still > n_tested:
        return [_of_dataset(passed, n_still, n_tested)]
    return [_of_class(*one) for one in passed]


def _tried(finding: Finding, outcomes: pd.DataFrame) -> _Tried:
    means = means_by_arm(outcomes)
    none, frozen, shuffled = (
        means[arm].to_numpy(np.float64) for arm in ("none", "named", "random")
    )
    return _Tried(finding, none, frozen, shuffled)


def _p(tried: _Tried) -> float:
    n_kept = int((tried.frozen > STILL_SHARE * tried.none).sum())
    return float(stats.binomtest(n_kept, len(tried.none), 0.5, alternative="greater").pvalue)


def _of_class(tried: _Tried, p: float, q: float) -> Finding:
    finding, name = tried.finding, tried.finding.subject[0]
    effect, low, high = _change(tried.frozen - tried.none, name)
    return replace(
        finding,
        seen=f"Clips of {name!r} that the model gets right keep {_share(_kept(tried))} of the "
        "class's probability when one frame is repeated: it needs no movement to tell them.",
        p=p,
        q=q,
        effect=effect,
        low=low,
        high=high,
        # Half of what a map may show: that points to where the cue is, too.
        strength=min(_kept(tried), 1.0) / 2,
    )


def _of_dataset(
    passed: Sequence[tuple[_Tried, float, float]], n_still: int, n_tested: int
) -> Finding:
    first = passed[0][0].finding
    all_tried = [one for one, _, _ in passed]
    none = np.concatenate([one.none for one in all_tried])
    frozen = np.concatenate([one.frozen for one in all_tried])
    names = ", ".join(repr(one.finding.subject[0]) for one in all_tried[:5])
    more = ", ..." if len(all_tried) > 5 else ""
    shuffled = np.concatenate([one.shuffled for one in all_tried])
    _, beyond_low, beyond_high = _change(frozen - shuffled, "beyond")
    effect, low, high = _change(frozen - none, "dataset")
    return replace(
        first,
        scope="dataset",
        subject=(),
        seen=f"In {n_still} of {n_tested} classes that the model knows, clips that it gets right "
        f"keep {_share(frozen.mean() / none.mean())} of the probability when one frame is "
        f"repeated: {names}{more}.",
        check="Check whether this dataset asks for movement at all, before the model's answers are "
        "taken for an understanding of actions.",
        p=max(p for _, p, _ in passed),
        q=max(q for _, _, q in passed),
        n=sum(one.finding.n for one in all_tried),
        effect=effect,
        low=low,
        high=high,
        strength=n_still / n_tested / 2,
        examples=tuple(one.finding.examples[0] for one in all_tried[:5]),
        proof=Proof(
            state="confirmed",
            change=effect,
            low=beyond_low,
            high=beyond_high,
            random_change=float((shuffled - none).mean()),
            n_clips=len(none),
        ),
    )


def _change(change: NDArray[np.float64], name: str) -> tuple[float, float, float]:
    """Mean of a change, and its 95 % interval."""
    low, high = bootstrap_interval(mean_of, change, seed=seed_of("still", name))
    return float(change.mean()), low, high


def _share(kept: float) -> str:
    return f"{min(kept, 1):.0%}"


def _kept(tried: _Tried) -> float:
    return float(tried.frozen.mean() / tried.none.mean())
