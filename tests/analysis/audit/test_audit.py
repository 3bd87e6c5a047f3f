"""An audit finds what was planted in simulated runs, and nothing in their clean twins."""

import json
from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest

from analysis.audit.audit import audit, audit_run, findings, read_findings
from analysis.audit.evidence import per_video, read_evidence
from analysis.audit.finding import Finding, kinds
from analysis.audit.settings import AuditSettings
from pipeline.errors import StoreError
from tests.analysis.simulated_runs import (
    ALL,
    CLASS_NAMES,
    FLASH,
    LOGO,
    LOGO_PLACE,
    STATIC,
    TWO,
    WRONG,
    simulated,
)
from tests.analysis.stores import write_run

SEED = int(datetime.now(UTC).strftime("%Y%m%d"))
N_PLANTED, N_TWINS = 3, 6
"""The study of more seeds: ``python -m tests.analysis.study_of_audit``."""


@pytest.fixture(scope="module")
def planted():
    print("seeds from", SEED)
    runs = [simulated(SEED + offset, ALL) for offset in range(N_PLANTED)]
    return [(run, audit(run.evidence())) for run in runs]


def of_kind(found, kind):
    return [finding for finding in found if finding.kind == kind]


@pytest.mark.parametrize(
    ("kind", "index"),
    [
        ("logo", LOGO),
        ("static", STATIC),
        ("first_last_frames", FLASH),
        ("strategies", TWO),
        ("other_when_wrong", WRONG),
    ],
)
def test_what_is_planted_in_a_class_is_found_with_the_class(planted, kind, index):
    for _, found in planted:
        assert (CLASS_NAMES[index],) in [f.subject for f in of_kind(found, kind)]
        (finding,) = [f for f in of_kind(found, kind) if f.subject == (CLASS_NAMES[index],)]
        assert finding.q <= 0.05
        assert finding.n == pytest.approx(60, abs=6)
        assert CLASS_NAMES[index] in finding.seen
        assert finding.seen.endswith(".")
        assert finding.check.endswith(".")
        assert not finding.low > finding.effect
        assert not finding.high < finding.effect
        assert finding.method == "staa"
        assert not finding.class_specific


def test_a_logo_is_found_where_it_is_and_a_flash_when(planted):
    for _, found in planted:
        (logo,) = [f for f in of_kind(found, "logo") if f.subject == (CLASS_NAMES[LOGO],)]
        y, x = LOGO_PLACE
        assert logo.place.y[0] <= y < logo.place.y[1]
        assert logo.place.x[0] <= x < logo.place.x[1]
        assert "top right" in logo.seen
        (flash,) = of_kind(found, "first_last_frames")
        assert flash.place.time == (0, 1)


def test_near_duplicates_are_found_all_and_none_else(planted):
    for run, found in planted:
        pairs = {tuple(sorted(f.subject)) for f in of_kind(found, "near_duplicate")}
        assert pairs == {(f"sim{min(p):05d}", f"sim{max(p):05d}") for p in run.planted.duplicates}
        assert all(
            "one in 'train' and one in" in f.seen or "one in 'val'" in f.seen
            for f in of_kind(found, "near_duplicate")
        )


def test_suspects_are_mostly_swapped_labels_and_name_the_true_class(planted):
    hits = total = 0
    for run, found in planted:
        for suspect in of_kind(found, "label_suspect"):
            row = int(suspect.subject[0].removeprefix("sim"))
            total += 1
            hits += suspect.subject[2] == CLASS_NAMES[run.planted.swapped.get(row, -1)] and (
                row in run.planted.swapped
            )
    # Classes that overlap leave few to be told by their attention; those that are should be right.
    assert total
    assert hits >= 0.75 * total


def test_clips_unlike_their_class_are_those_that_were_planted(planted):
    hits = total = 0
    for run, found in planted:
        rows = [int(f.subject[0].removeprefix("sim")) for f in of_kind(found, "unlike_class")]
        total += len(rows)
        hits += len(set(rows) & {*run.planted.odd, *run.planted.swapped})
    assert hits >= 0.75 * total
    assert hits


@pytest.mark.parametrize("permuted", [False, True])
def test_clean_twins_have_next_to_no_findings(permuted):
    print("seeds from", SEED)
    runs_with = Counter()
    for offset in range(N_TWINS):
        found = audit(simulated(SEED + offset, permuted=permuted).evidence())
        runs_with.update({finding.kind for finding in found})
    # 2 of 20 by the contract; among 6, 2 of a kind come in 3 % of cases if each has 5 %.
    assert all(count <= 2 for count in runs_with.values()), runs_with


def test_a_store_is_audited_and_the_findings_kept(tmp_path):
    run = simulated(SEED, ("logo", "near_duplicate"))
    layout, columns = run.columns()
    url = write_run(tmp_path / "run", layout, columns, class_names=CLASS_NAMES)
    found = audit_run(url)
    assert {"logo", "near_duplicate"} <= {finding.kind for finding in found}
    # Without its manifest, which splits a clip is in isn't known, and the order is another.
    assert {f.key for f in found} == {f.key for f in audit(run.evidence())}
    assert read_findings(url) == found or all(
        json.dumps(a.to_json()) == json.dumps(b.to_json())
        for a, b in zip(read_findings(url), found, strict=True)
    )
    table = findings(url)
    assert table["key"].tolist() == [finding.key for finding in found]
    document = json.loads((tmp_path / "run" / "findings.json").read_text())
    assert document["settings"] == AuditSettings().model_dump()
    document["coverage"] += 1
    (tmp_path / "run" / "findings.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match="its coverage isn't that of the run as it is now"):
        read_findings(url)


def test_a_finding_survives_json():
    found = audit(simulated(SEED, ("logo",)).evidence())
    for finding in found:
        again = Finding.from_json(json.loads(json.dumps(finding.to_json())))
        assert json.dumps(again.to_json()) == json.dumps(finding.to_json())
        assert finding.kind in kinds()


def test_views_of_a_video_count_once():
    run = simulated(SEED, ("logo",), clips_per_class=20)
    evidence = run.evidence()
    twice = np.repeat(np.arange(len(evidence.table)), 2)
    doubled = type(evidence)(
        **{
            **vars(evidence),
            "table": evidence.table.iloc[twice].reset_index(drop=True),
            "maps": evidence.maps[twice],
            "when": evidence.when[twice],
        }
    )
    back = per_video(doubled)
    assert len(back.table) == len(evidence.table)
    np.testing.assert_allclose(back.maps, evidence.maps, rtol=1e-6)
    assert [f.key for f in audit(back)] == [f.key for f in audit(evidence)]


def test_a_run_without_an_ok_clip_is_refused(tmp_path):
    layout, columns = simulated(SEED, clips_per_class=10).columns()
    url = write_run(
        tmp_path / "run",
        layout,
        columns,
        class_names=CLASS_NAMES,
        pending_shards=tuple(range(layout.n_shards)),
    )
    with pytest.raises(StoreError, match="no clip is ok, so there is nothing to audit"):
        read_evidence(url)
