"""Other maps when wrong: within a class, misclassified clips against the rest."""

import numpy as np

from analysis.audit.evidence import Evidence, seed_of
from analysis.audit.finding import Finding
from analysis.audit.settings import AuditSettings
from analysis.audit.significance import adjusted, bootstrap_interval, mean_difference, rank_tests
from analysis.clip_scores import SCORES

COMPARED = {
    "entropy": "spread of the weight over the clip",
    "border_mass": "weight at the frame's border",
    "center_mass": "weight in the middle of the frame",
    "first_frame_mass": "weight in the first time step",
    "last_frame_mass": "weight in the last time step",
    "movement": "change of the map over time",
    "dataset_agreement": "agreement with the mean map of all clips",
    "class_agreement": "agreement with the mean map of the class",
}
"""Scores that are compared, and what a clip with a higher score has more of."""

_LEAST_KNOWN = 2.0
"""How many times as often a class is predicted of its clips as of others, if the model knows it."""


def other_when_wrong(evidence: Evidence, settings: AuditSettings) -> list[Finding]:
    """Find classes whose misclassified clips have other maps than the rest.

    A class is tested in eight scores, in both directions; its p is the smallest, times their
    number. The model has to know the class: to predict it at least twice as often of its clips as
    of others. Else what it gets right is luck, and merely looks like the class.
    """
    label, prediction, is_wrong = evidence.label, evidence.prediction, evidence.wrong
    names = [name for name in COMPARED if name in evidence.table]
    found, p_values, best = [], [], []
    classes = []
    for index in np.unique(label[label >= 0]):
        rows = np.flatnonzero(label == index)
        wrong = is_wrong[rows]
        if min(wrong.sum(), (~wrong).sum()) < settings.min_clips:
            continue
        others = prediction[(label >= 0) & (label != index)]
        of_others = (others == index).mean() if len(others) else 0.0
        if (~wrong).mean() < _LEAST_KNOWN * of_others:
            continue
        tested = []
        for name in names:
            values = evidence.score(name)[rows]
            if not np.isfinite(values).all():
                continue
            auc, p_more = rank_tests(values, wrong.astype(np.int64), 2)
            tested.append((2 * min(p_more[1], p_more[0]), name, auc[1]))
        if not tested:
            continue
        least, name, auc_of = min(tested)
        classes.append(int(index))
        p_values.append(min(least * len(tested), 1.0))
        best.append((name, auc_of))
    q = adjusted(np.array(p_values, np.float64))
    for at, index in enumerate(classes):
        name, auc_of = best[at]
        if not q[at] <= settings.q or abs(2 * auc_of - 1) < 0.3:
            continue
        rows = np.flatnonzero(label == index)
        wrong = is_wrong[rows]
        values = evidence.score(name)[rows]
        class_name = evidence.class_names[index]
        seed = seed_of("other_when_wrong", class_name, name)
        low, high = bootstrap_interval(mean_difference, values[wrong], values[~wrong], seed=seed)
        more = auc_of > 0.5
        order = np.argsort(-values[wrong] if more else values[wrong], kind="stable")
        found.append(
            Finding(
                kind="other_when_wrong",
                scope="class",
                subject=(class_name,),
                seen=f"In {class_name!r} the {int(wrong.sum())} misclassified clips have "
                f"{'more' if more else 'less'} {COMPARED[name]} than those classified right "
                f"({name} {values[wrong].mean():.2f} against {values[~wrong].mean():.2f}).",
                check="Compare wrong and right clips of this class: what the model misses or is "
                "drawn to may be what they need.",
                effect=float(values[wrong].mean() - values[~wrong].mean()),
                effect_name=f"mean {name} of wrong clips minus that of right ones",
                low=low,
                high=high,
                p=float(p_values[at]),
                q=float(q[at]),
                n=len(rows),
                strength=float(abs(2 * auc_of - 1)),
                examples=evidence.examples(rows[wrong][order]),
                method=evidence.method,
                class_specific=evidence.class_specific,
            )
        )
    assert set(names) <= {*SCORES, "dataset_agreement", "class_agreement"}
    return found
