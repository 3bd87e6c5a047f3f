"""Classes of which a still would do, from simulated answers of a model."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from analysis.audit.audit import audit
from analysis.audit.finding import Proof
from analysis.audit.interventions import plan_interventions, prove
from analysis.audit.settings import AuditSettings
from analysis.audit.stills import still_candidates, stills
from tests.analysis.simulated_runs import ALL, CLASS_NAMES, simulated

SEED = int(datetime.now(UTC).strftime("%Y%m%d"))
SETTINGS = AuditSettings()
FIRST, SECOND = CLASS_NAMES[:2]


@pytest.fixture(scope="module")
def tried():
    """Candidates of a run in which nothing is found, and the plan to try them."""
    print("seed", SEED)
    evidence = simulated(SEED).evidence()
    candidates = still_candidates(evidence, [], SETTINGS)
    return evidence, candidates, plan_interventions(candidates, evidence)


def answered(tried, kept, known=0.8, noise=0.02, seed=SEED):
    """Findings where frozen clips keep such shares of the probability, by class; else a third."""
    _, candidates, plan = tried
    rng = np.random.default_rng(seed)
    name = plan["finding"].str.removeprefix("static:")
    share = np.where(plan["arm"] == "named", name.map(kept).fillna(0.33).to_numpy(float), 1.0)
    outcomes = plan.assign(probability=known * share + rng.normal(0, noise, len(plan)))
    return stills(prove(candidates, outcomes), outcomes, SETTINGS)


def n_right(evidence):
    """Clips of each class that the model gets right, and all of them, by the class's name."""
    sizes = np.bincount(evidence.label, minlength=len(CLASS_NAMES))
    right = np.bincount(
        evidence.label[evidence.prediction == evidence.label], minlength=len(CLASS_NAMES)
    )
    return {name: (int(n), int(of)) for name, n, of in zip(CLASS_NAMES, right, sizes, strict=True)}


def test_each_class_is_tried_except_those_whose_map_is_still_small_and_unknown_ones():
    evidence = simulated(SEED, ALL).evidence()
    found = audit(evidence)
    still = {finding.subject[0] for finding in found if finding.kind == "static"}
    assert still
    known = {name for name, (right, size) in n_right(evidence).items() if 2 * right >= size}
    candidates = still_candidates(evidence, found, SETTINGS)
    assert {candidate.subject[0] for candidate in candidates} == known - still
    mistaken = evidence.table["prediction_index"].where(evidence.label != 0, 1)
    evidence = replace(evidence, table=evidence.table.assign(prediction_index=mistaken))
    candidates = still_candidates(evidence, found, SETTINGS)
    assert {candidate.subject[0] for candidate in candidates} == known - still - {FIRST}
    few = AuditSettings(min_clips=len(evidence.table))
    assert still_candidates(evidence, found, few) == []


def test_a_class_that_keeps_its_probability_is_found_and_no_other(tried):
    (finding,) = answered(tried, {FIRST: 1.0})
    assert (finding.key, finding.proof.state) == (f"static:{FIRST}", "confirmed")
    assert "keep 1" in finding.seen or "keep 9" in finding.seen
    assert finding.low < finding.effect < finding.high
    assert finding.q < SETTINGS.q


def test_clips_that_the_model_gets_wrong_are_not_tried(tried):
    """Of a swapped label a still keeps nothing, whatever gives the class away."""
    evidence, candidates, plan = tried
    assert candidates
    answer = evidence.table.set_index("row")["prediction_index"]
    assert (plan["row"].map(answer) == plan["target"]).all()
    right = n_right(evidence)
    for candidate in candidates:
        videos = plan.loc[plan["finding"] == candidate.key, "video_id"]
        assert videos.nunique() == min(right[candidate.subject[0]][0], 20)
    # The clips are drawn: neither those of which the model is surest, nor the first ones.
    again = plan_interventions(candidates, evidence)
    assert again.equals(plan)
    first = plan[plan["finding"] == candidates[0].key]["row"].unique()
    assert list(first) != sorted(first)


def test_a_class_that_the_model_does_not_know_says_nothing(tried):
    assert answered(tried, {FIRST: 1.0}, known=0.3) == []


def test_nine_tenths_themselves_are_not_enough(tried):
    """At the limit of what counts, at most one class in twenty or so passes."""
    n_found = sum(
        len(answered(tried, dict.fromkeys([FIRST, SECOND], 0.9), noise=0.1, seed=SEED + trial))
        for trial in range(20)
    )
    assert n_found <= 6


def test_where_most_classes_need_no_movement_the_dataset_is_told_once(tried):
    (finding,) = answered(tried, dict.fromkeys(CLASS_NAMES[:-1], 1.0))
    n_classes = len(CLASS_NAMES)
    assert (finding.scope, finding.subject) == ("dataset", ())
    assert finding.seen.startswith(f"In {n_classes - 1} of {n_classes} classes")
    assert finding.proof.state == "confirmed"
    assert finding.proof.n_clips == 20 * (n_classes - 1)


def test_answers_that_are_all_the_same_have_an_answer(tried):
    (finding,) = answered(tried, {FIRST: 1.0}, noise=0)
    assert finding.p == pytest.approx(0.5**20)
    assert finding.effect == pytest.approx(0)
    assert answered(tried, {FIRST: 0.9}, noise=0) == []


def test_classes_that_a_map_pointed_to_count_among_all(tried):
    _, candidates, plan = tried
    # Two of the candidates pass, and three classes were confirmed by their maps: most of all.
    n_classes = len(CLASS_NAMES)
    known = [replace(one, proof=Proof("confirmed")) for one in candidates[: n_classes // 2]]
    left = candidates[n_classes // 2 :]
    kept = plan["finding"].isin([one.key for one in left[:2]])
    named = plan["arm"] == "named"
    outcomes = plan.assign(probability=np.where(named & ~kept, 0.2, 0.8))
    (finding,) = stills(prove(left, outcomes), outcomes, SETTINGS, known)
    assert finding.scope == "dataset"
    assert finding.seen.startswith(f"In {len(known) + 2} of {n_classes} classes")
    assert len(stills(prove(left, outcomes), outcomes, SETTINGS)) == 2


def test_a_class_with_too_few_clips_left_is_not_tested(tried):
    _, candidates, plan = tried
    few = plan[plan["finding"] == f"static:{FIRST}"]
    few = few[few["video_id"].isin(few["video_id"].unique()[:3])].assign(probability=0.8)
    assert stills(prove(candidates[:1], few), few, SETTINGS) == []


def test_clips_that_were_lost_leave_the_others(tried):
    _, candidates, plan = tried
    outcomes = plan.assign(probability=0.8)
    outcomes = outcomes[outcomes["finding"] != f"static:{FIRST}"]
    found = stills(prove(candidates, outcomes), outcomes, SETTINGS)
    assert len(found) == 1
    assert stills([], outcomes, SETTINGS) == []
