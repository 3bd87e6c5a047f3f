"""Other maps of clips that were misclassified, within a class."""

from dataclasses import replace

import numpy as np

from analysis.audit.settings import AuditSettings
from analysis.audit.wrong import other_when_wrong
from tests.analysis.simulated_runs import CLASS_NAMES, WRONG

SETTINGS = AuditSettings()


def test_a_class_that_looks_at_the_border_when_it_is_wrong_is_found(planted):
    _, evidence = planted
    (found,) = other_when_wrong(evidence, SETTINGS)
    assert found.subject == (CLASS_NAMES[WRONG],)
    member = evidence.label == WRONG
    wrong = member & (evidence.prediction != WRONG)
    assert f"the {wrong.sum()} misclassified clips have more " in found.seen
    assert found.n == member.sum()
    assert {example.row for example in found.examples} <= set(np.flatnonzero(wrong).tolist())
    assert found.low <= found.effect <= found.high


def test_the_clean_twin_has_none(clean):
    assert not other_when_wrong(clean, SETTINGS)


def test_a_class_with_too_few_wrong_clips_is_not_tested(planted):
    _, evidence = planted
    n_wrong = ((evidence.label == WRONG) & (evidence.prediction != WRONG)).sum()
    assert not other_when_wrong(evidence, AuditSettings(min_clips=int(n_wrong) + 1))


def test_what_the_model_gets_right_by_luck_is_no_finding(clean, day_seed):
    """Labels that have nothing to do with the clips, which an answer goes with."""
    n = len(clean.table)
    label = np.random.default_rng(day_seed).permutation(np.arange(n) % 2)
    answer = np.arange(n) * 2 // n
    border = clean.score("border_mass") + 0.3 * answer
    table = clean.table.assign(label_index=label, prediction_index=answer, border_mass=border)
    assert not other_when_wrong(replace(clean, table=table), SETTINGS)
    # With labels that the model knows, the same difference is one.
    known = np.where(np.random.default_rng(day_seed).random(n) < 0.75, answer, 1 - answer)
    found = other_when_wrong(replace(clean, table=table.assign(label_index=known)), SETTINGS)
    assert {finding.subject for finding in found} == {(name,) for name in CLASS_NAMES[:2]}
