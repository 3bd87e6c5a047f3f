"""An audit finds what was planted in simulated runs, and nothing in their clean twins."""

import json
from collections import Counter
from datetime import UTC, datetime

import pytest
from scipy import stats

from analysis.audit.audit import audit, audit_run, findings, read_findings
from analysis.audit.settings import AuditSettings
from pipeline.errors import StoreError
from tests.analysis.simulated_runs import ALL, CLASS_NAMES, IN_CLASS, simulated
from tests.analysis.stores import write_run

SEED = int(datetime.now(UTC).strftime("%Y%m%d"))
N_PLANTED, N_TWINS = 3, 12
"""The study of more seeds: ``python -m tests.analysis.study_of_audit``."""
_MOST = 5
"""Twins with a finding of a kind."""


@pytest.fixture(scope="module")
def planted():
    print("seeds from", SEED)
    runs = [simulated(SEED + offset, ALL) for offset in range(N_PLANTED)]
    return [(run, audit(run.evidence())) for run in runs]


def of_kind(found, kind):
    return [finding for finding in found if finding.kind == kind]


@pytest.mark.parametrize(("kind", "index"), IN_CLASS.items())
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


@pytest.mark.parametrize("permuted", [False, True])
def test_clean_twins_have_next_to_no_findings(permuted):
    print("seeds from", SEED)
    runs_with = Counter()
    for offset in range(N_TWINS):
        found = audit(simulated(SEED + offset, permuted=permuted).evidence())
        runs_with.update({finding.kind for finding in found})
    # 2 of 20 by the contract: more than these come on one day in a thousand.
    assert stats.binom.sf(_MOST, N_TWINS, 2 / 20) < 1e-3
    assert all(count <= _MOST for count in runs_with.values()), runs_with


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
    with pytest.raises(StoreError, match="its coverage isn't that of the run now"):
        read_findings(url)
