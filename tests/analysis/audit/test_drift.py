"""Drift between two simulated runs over the same videos."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from scipy import stats

from analysis.audit.drift import COMPARED, compare_runs, drift
from analysis.audit.settings import AuditSettings
from pipeline.attribution.method import Method
from pipeline.errors import StoreError
from tests.analysis.simulated_runs import CLASS_NAMES, LOGO, simulated

SEED = int(datetime.now(UTC).strftime("%Y%m%d"))
SETTINGS = AuditSettings()


def test_the_same_model_twice_gives_nothing():
    first = simulated(SEED).evidence()
    assert drift(first, first, SETTINGS) == []
    rounded = replace(first, maps=first.maps.astype(np.float16).astype(np.float32))
    table = rounded.table.copy()
    names = ["entropy", "border_mass", "stillness", "movement", "label_probability"]
    table[names] *= 1 + np.random.default_rng(SEED).normal(0.001, 0.002, (len(table), len(names)))
    assert drift(first, replace(rounded, table=table), SETTINGS) == []


def test_a_logo_that_one_class_learned_is_found_with_its_class_and_place():
    print("seed", SEED)
    first, second = simulated(SEED).evidence(), simulated(SEED, ("logo",)).evidence()
    order = np.random.default_rng(SEED).permutation(len(second.table))[50:]
    turned = replace(
        second,
        table=second.table.iloc[order].reset_index(drop=True),
        maps=second.maps[order],
        when=second.when[order],
    )
    # Another class may be a false alarm, as one in twenty findings or so is.
    found = {finding.subject: finding for finding in drift(first, turned, SETTINGS)}
    finding = found[(CLASS_NAMES[LOGO],)]
    assert len(found) <= 3
    assert "row 1, column 8" in finding.seen
    assert 0 < finding.low <= finding.effect <= finding.high
    assert all(example.video_id.startswith("sim") for example in finding.examples)


def test_a_class_that_is_answered_worse_is_found():
    first = simulated(SEED).evidence()
    table = first.table.copy()
    table.loc[table["label_index"] == 7, "label_probability"] *= 0.5
    (finding,) = drift(first, replace(first, table=table), SETTINGS)
    assert finding.subject == (CLASS_NAMES[7],)
    assert "label_probability goes from" in finding.seen


def test_runs_without_a_common_video_or_of_other_classes_are_refused():
    first = simulated(SEED, clips_per_class=10).evidence()
    renamed = first.table.assign(video_id=[f"other{row}" for row in range(len(first.table))])
    with pytest.raises(StoreError, match="no video id in common"):
        drift(first, replace(first, table=renamed), SETTINGS)
    with pytest.raises(StoreError, match="different classes"):
        drift(first, replace(first, class_names=CLASS_NAMES[::-1]), SETTINGS)


def test_runs_without_labels_are_compared_by_what_was_predicted():
    first, second = simulated(SEED).evidence(), simulated(SEED, ("logo",)).evidence()
    first, second = (
        replace(one, table=one.table.assign(label_index=-1)) for one in (first, second)
    )
    subjects = {finding.subject for finding in drift(first, second, SETTINGS)}
    assert (CLASS_NAMES[LOGO],) in subjects
    labelled = simulated(SEED).evidence()
    assert drift(labelled, replace(first), SETTINGS) == []


def of_classes(evidence, keep):
    """The rows for which `keep` holds, by label and place within the class."""
    label = evidence.label
    place = np.array([int((label[:row] == label[row]).sum()) for row in range(len(label))])
    rows = np.flatnonzero(keep(label, place))
    return replace(
        evidence,
        table=evidence.table.iloc[rows].reset_index(drop=True),
        maps=evidence.maps[rows],
        when=evidence.when[rows],
    )


def with_noise(evidence, seed, size=0.2):
    """The same model's run as another precision or crop might give it: maps differ a little."""
    rng = np.random.default_rng(seed)
    maps = evidence.maps * rng.lognormal(0, size, evidence.maps.shape).astype(np.float32)
    return replace(evidence, maps=maps / maps.sum(axis=1, keepdims=True))


def with_patch(evidence, index, patch, seed):
    """A run in which a class's maps have more on one patch."""
    maps, member = evidence.maps.copy(), evidence.label == index
    maps[member, patch] += np.random.default_rng(seed).uniform(0.1, 0.3, member.sum())
    return replace(evidence, maps=maps / maps.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("clips", [10, 12])
def test_a_place_that_one_class_learned_is_found_with_as_few_clips_as_are_tested(clips):
    print("seed", SEED)
    first = simulated(SEED, clips_per_class=clips).evidence()
    # A false alarm, which one pair in twenty or so has, isn't the subject.
    noisy = (with_noise(first, SEED + offset) for offset in range(1, 50))
    second = next(run for run in noisy if drift(first, run, SETTINGS) == [])
    (finding,) = drift(first, with_patch(second, 4, 9, SEED), SETTINGS)
    assert finding.subject == (CLASS_NAMES[4],)
    assert "row 2, column 2" in finding.seen
    assert 2.0 ** (1 - clips) <= finding.p <= 4 * 2.0 ** (1 - clips)
    assert finding.q <= SETTINGS.q
    assert finding == drift(first, with_patch(second, 4, 9, SEED), SETTINGS)[0]


@pytest.mark.parametrize("clips", [10, 12])
def test_noise_alone_is_a_finding_as_seldom_as_is_asked_for(clips):
    print("seed", SEED)
    n_pairs = 40
    n_alarms = 0
    for offset in range(n_pairs):
        first = simulated(SEED + offset, clips_per_class=clips).evidence()
        n_alarms += drift(first, with_noise(first, SEED + offset), SETTINGS) != []
    assert stats.binom.sf(n_alarms - 1, n_pairs, SETTINGS.q) > 1e-4


def test_what_is_paired_and_tested_is_counted_and_the_rest_has_its_reason():
    first = simulated(SEED, clips_per_class=12).evidence()
    second = of_classes(first, lambda label, place: (label != 2) & ((label != 5) | (place < 7)))
    short = of_classes(first, lambda label, place: (label != 7) | (place < 4))
    compared = compare_runs(short, of_classes(second, lambda label, place: label != 8), SETTINGS)
    assert compared.findings == []
    assert compared.untested == {
        CLASS_NAMES[2]: "absent from the second run",
        CLASS_NAMES[5]: "too few shared videos",
        CLASS_NAMES[7]: "too few videos in the first run",
        CLASS_NAMES[8]: "absent from the second run",
    }
    assert (compared.n_videos, compared.n_paired) == (6 * 12 + 7 + 4, 8)
    assert set(compared.tested) == set(CLASS_NAMES) - set(compared.untested)
    assert compared.lost == (CLASS_NAMES[2], CLASS_NAMES[5], CLASS_NAMES[8])
    assert compare_runs(second, first, SETTINGS).untested == {
        CLASS_NAMES[2]: "absent from the first run",
        CLASS_NAMES[5]: "too few videos in the first run",
    }


def test_a_class_is_tested_only_with_videos_enough_for_the_wanted_q():
    first = simulated(SEED, clips_per_class=12).evidence()
    assert len(compare_runs(first, first, SETTINGS).tested) == 10
    strict = compare_runs(first, first, AuditSettings(q=1e-4))
    assert (strict.tested, strict.least_videos) == ((), 15)
    assert set(strict.untested.values()) == {"too few videos in the first run"}
    loose = compare_runs(first, first, AuditSettings(min_clips=3))
    assert (loose.least_videos, loose.least_alone, loose.few) == (6, 9, ())
    nine = of_classes(first, lambda label, place: (label != 1) | (place < 8))
    assert compare_runs(nine, first, AuditSettings(min_clips=3)).few == (CLASS_NAMES[1],)


def test_a_class_that_is_answered_wrongly_more_often_is_found_by_mcnemar():
    first = simulated(SEED).evidence()
    table = first.table.copy()
    member = np.flatnonzero((table["label_index"] == 6) & (table["prediction_index"] == 6))
    table.loc[member[:12], "prediction_index"] = 7
    (finding,) = drift(first, replace(first, table=table), SETTINGS)
    assert finding.subject == (CLASS_NAMES[6],)
    assert "the share of right answers goes from" in finding.seen
    assert finding.p == pytest.approx(stats.binomtest(0, 12).pvalue)
    assert finding.effect == pytest.approx(-12 / 60)
    assert {example.row for example in finding.examples} <= set(member[:12].tolist())


def test_without_labels_a_class_of_other_answers_is_found_and_a_few_are_let_pass():
    first = simulated(SEED).evidence()
    first = replace(first, table=first.table.assign(label_index=-1, label_probability=np.nan))
    assert drift(first, first, SETTINGS) == []
    member = np.flatnonzero(first.prediction == 3)
    for n_changed, subjects in ((2, []), (20, [(CLASS_NAMES[3],)])):
        table = first.table.copy()
        table.loc[member[:n_changed], "prediction_index"] = 9
        found = drift(first, replace(first, table=table), SETTINGS)
        assert [finding.subject for finding in found] == subjects
    assert "of the videos are answered otherwise" in found[0].seen
    assert found[0].effect == pytest.approx(20 / len(member))


@pytest.mark.parametrize("change", [{"method": "evidence"}, {"class_specific": True}])
def test_attributions_of_different_methods_are_refused_and_their_answers_still_compare(change):
    first = simulated(SEED).evidence()
    other = with_patch(replace(first, **change), 4, 9, SEED)
    with pytest.raises(StoreError) as error:
        compare_runs(first, other, SETTINGS)
    assert "'staa' (of no class)" in str(error.value)
    assert str(change.get("method", "of a class")) in str(error.value)
    assert drift(first, other, SETTINGS) == []
    table = other.table.copy()
    table.loc[table["label_index"] == 7, "label_probability"] *= 0.5
    (finding,) = drift(first, replace(other, table=table), SETTINGS)
    assert finding.subject == (CLASS_NAMES[7],)


def test_first_and_last_steps_are_of_t_where_one_run_alone_has_stored_importance():
    first = simulated(SEED).evidence()
    importance = np.random.default_rng(SEED).dirichlet(np.full(8, 3.0), len(first.table))
    importance[:, 0] += 0.5
    importance = (importance / importance.sum(axis=1, keepdims=True)).astype(np.float32)
    ends = {"first_frame_mass": importance[:, 0], "last_frame_mass": importance[:, -1]}
    stored = replace(first, importance=importance, table=first.table.assign(**ends))
    for pair in ((first, stored), (stored, first)):
        compared = compare_runs(*pair, SETTINGS)
        assert compared.findings == []
        assert any("first_frame_mass is of T" in note for note in compared.notes)
    # Where both have it, it is what is compared.
    table = stored.table.copy()
    table.loc[table["label_index"] == 5, "first_frame_mass"] -= 0.3
    both = compare_runs(stored, replace(stored, table=table), SETTINGS)
    assert [finding.subject for finding in both.findings] == [(CLASS_NAMES[5],)]
    assert both.notes == ()


@pytest.mark.parametrize(
    ("name", "of_other", "told"),
    [
        ("staa", "insertion", "first_frame_mass is of T"),
        ("libragrad", "insertion", "first_frame_mass is of T"),
        ("evidence", "insertion", "first_frame_mass is left out"),
        ("evidence", None, "first_frame_mass is left out"),
    ],
)
def test_importance_of_two_kinds_is_not_compared(name, of_other, told):
    """Nor is T in its place, where that says when evidence was read."""
    run = simulated(SEED).evidence()
    options = Method(name=name, frame_importance="gradient")
    first = replace(run, options=options, importance=run.when)
    when = np.roll(run.when, 3, axis=1)
    ends = {"first_frame_mass": when[:, 0], "last_frame_mass": when[:, -1]}
    second = replace(
        run,
        options=options.model_copy(update={"frame_importance": of_other}),
        importance=None if of_other is None else when,
        when=when if name == "evidence" else run.when,
        table=run.table.assign(**ends),
    )
    compared = compare_runs(first, second, SETTINGS)
    assert compared.findings == []
    assert any(told in note for note in compared.notes)


def test_first_and_last_steps_of_other_lengths_are_left_out():
    first = simulated(SEED).evidence()
    table = first.table.assign(first_frame_mass=first.table["first_frame_mass"] / 2)
    longer = replace(first, table=table, grid=(16, *first.grid[1:]))
    compared = compare_runs(first, longer, SETTINGS)
    assert compared.findings == []
    assert "first_frame_mass is left out" in compared.notes[0]
    assert "first_frame_mass" in COMPARED
