"""`jobs.compare` on simulated runs: a gate for continuous integration."""

import json
from datetime import UTC, datetime

import pytest

from jobs.cli import run_job
from jobs.compare import CompareConfig, compare
from tests.analysis.simulated_runs import CLASS_NAMES, LOGO, simulated
from tests.analysis.stores import write_run

SEED = int(datetime.now(UTC).strftime("%Y%m%d"))


def compared(capsys, *argv):
    """Exit code, stdout and stderr of the job."""
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


def test_drift_is_a_gate_for_continuous_integration(capsys, runs, tmp_path):
    print("seed", SEED)
    before, after = runs
    assert compared(capsys, before, before, "--fail-on=any")[0] == 0
    out = tmp_path / "drift.json"
    code, stdout, _ = compared(capsys, before, after, "--fail-on=any", f"--out={out}")
    assert code == 1
    assert f"1 classes differ between {before} and {after}" in stdout
    assert json.loads(out.read_text())[0]["subject"] == [CLASS_NAMES[LOGO]]
    assert compared(capsys, before, after)[0] == 0


def test_what_is_no_run_is_one_line(capsys, runs, tmp_path):
    for pair in ((tmp_path / "nothing", runs[0]), (runs[0], tmp_path / "nothing")):
        code, stdout, stderr = compared(capsys, *pair)
        assert (code, stdout, stderr.count("\n")) == (2, "", 1)
        assert "nothing" in stderr
