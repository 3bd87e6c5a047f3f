"""`jobs.audit` and `jobs.compare` on simulated runs: what they print, keep and refuse."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from jobs.audit import AuditConfig, audit_run
from jobs.cli import run_job
from jobs.compare import CompareConfig, compare
from tests.analysis.simulated_runs import CLASS_NAMES, LOGO, simulated
from tests.analysis.stores import write_run

SEED = int(datetime.now(UTC).strftime("%Y%m%d"))


def audited(capsys, *argv):
    """Exit code, stdout and stderr of the job."""
    code = run_job(AuditConfig, audit_run, verb="audit", argv=[str(a) for a in argv])
    return code, *capsys.readouterr()


def compared(capsys, *argv):
    code = run_job(CompareConfig, compare, verb="compare", argv=[str(a) for a in argv])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of one dataset before and after one class got a logo."""
    folder = tmp_path_factory.mktemp("runs")
    urls = []
    for name, kinds in (("before", ()), ("after", ("logo",))):
        layout, columns = simulated(SEED, kinds).columns()
        urls.append(write_run(folder / name, layout, columns, class_names=CLASS_NAMES))
    return urls


def test_findings_are_printed_ranked_with_clips_and_kept(capsys, runs):
    print("seed", SEED)
    code, stdout, stderr = audited(capsys, runs[1], "--most=1")
    assert code == 0
    assert "audit: 600 videos of 10 classes by staa-paper (which is blind to the class" in stdout
    assert "1. Logo or border, not tried (q " in stdout
    assert repr(CLASS_NAMES[LOGO]) in stdout
    assert "sim0" in stdout
    assert "audit: near duplicates" in stderr
    table = pd.read_parquet(Path(runs[1]) / "findings.parquet")
    assert stdout.endswith(f"audit: {len(table)} findings in {runs[1]}/findings.parquet\n")
    assert table["kind"].iloc[0] == "logo"
    assert json.loads((Path(runs[1]) / "findings.json").read_text())["findings"][0]["n"] == 60


def test_thresholds_are_options(capsys, runs):
    code, stdout, _ = audited(capsys, runs[1], "--audit.min-clips=100")
    assert code == 0
    assert "Logo or border" not in stdout
    code, _, stderr = audited(capsys, runs[1], "--audit.q=2")
    assert code == 2
    assert "audit.q" in stderr
    assert stderr.count("\n") == 1


def test_drift_is_a_gate_for_continuous_integration(capsys, runs, tmp_path):
    before, after = runs
    assert compared(capsys, before, before, "--fail-on=any")[0] == 0
    out = tmp_path / "drift.json"
    code, stdout, _ = compared(capsys, before, after, "--fail-on=any", f"--out={out}")
    assert code == 1
    assert f"1 classes differ between {before} and {after}" in stdout
    assert json.loads(out.read_text())[0]["subject"] == [CLASS_NAMES[LOGO]]
    assert compared(capsys, before, after)[0] == 0


def test_what_is_no_run_is_one_line(capsys, tmp_path):
    for code, stdout, stderr in (
        audited(capsys, tmp_path / "nothing"),
        compared(capsys, tmp_path / "nothing", tmp_path / "nothing"),
    ):
        assert (code, stdout, stderr.count("\n")) == (2, "", 1)
        assert "nothing" in stderr
