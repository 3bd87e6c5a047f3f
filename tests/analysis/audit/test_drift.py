"""Drift between two simulated runs over the same videos."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from analysis.audit.drift import drift
from analysis.audit.settings import AuditSettings
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
    (finding,) = drift(first, turned, SETTINGS)
    assert finding.subject == (CLASS_NAMES[LOGO],)
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
