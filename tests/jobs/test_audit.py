"""`jobs.audit` on simulated runs: what it prints, keeps and refuses."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from jobs.audit import AuditConfig, audit_run
from jobs.cli import run_job
from pipeline.store.record import ModelIdentity
from tests.analysis.page.pages import data_of
from tests.analysis.simulated_runs import CLASS_NAMES, LOGO, simulated, without_false_alarm
from tests.analysis.stores import write_run

SEED = int(datetime.now(UTC).strftime("%Y%m%d"))


def audited(capsys, *argv):
    """Exit code, stdout and stderr of the job."""
    code = run_job(AuditConfig, audit_run, verb="audit", argv=[str(a) for a in argv])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def logo_run(tmp_path_factory):
    """A run of which one class has a logo."""
    layout, columns = without_false_alarm(SEED, ("logo",)).columns()
    return write_run(tmp_path_factory.mktemp("run"), layout, columns, class_names=CLASS_NAMES)


def test_findings_are_printed_ranked_with_clips_and_kept(capsys, logo_run):
    print("seed", SEED)
    code, stdout, stderr = audited(capsys, logo_run, "--most=1")
    assert code == 0
    assert "audit: 600 videos of 10 classes by staa-paper (which is blind to the class" in stdout
    assert "1. Logo or border, not tried (q " in stdout
    assert repr(CLASS_NAMES[LOGO]) in stdout
    assert "sim0" in stdout
    assert "audit: near duplicates" in stderr
    table = pd.read_parquet(Path(logo_run) / "findings.parquet")
    assert stdout.endswith(f"audit: {len(table)} findings in {logo_run}/findings.parquet\n")
    assert table["kind"].iloc[0] == "logo"
    assert json.loads((Path(logo_run) / "findings.json").read_text())["findings"][0]["n"] == 60


def test_thresholds_are_options(capsys, logo_run):
    code, stdout, _ = audited(capsys, logo_run, "--audit.min-clips=100")
    assert code == 0
    assert "Logo or border" not in stdout
    code, _, stderr = audited(capsys, logo_run, "--audit.q=2")
    assert code == 2
    assert "audit.q" in stderr
    assert stderr.count("\n") == 1


def test_what_is_no_run_is_one_line(capsys, tmp_path):
    code, stdout, stderr = audited(capsys, tmp_path / "nothing")
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert "nothing" in stderr


def test_a_page_of_two_runs_is_written_where_it_is_asked_for(capsys, logo_run, tmp_path):
    page = tmp_path / "page"
    layout, columns = simulated(SEED).columns()
    before = write_run(tmp_path / "before", layout, columns, class_names=CLASS_NAMES)
    code, stdout, _ = audited(capsys, logo_run, f"--report={page}", f"--beside={before}")
    assert code == 0
    assert stdout.endswith(f"audit: page in {page}/index.html\n")
    listed = data_of(page / "index.html", "findings")
    assert {"logo", "drift"} <= {one["kind"] for one in listed}
    assert data_of(page / "index.html", "overview")["audited"]
    assert data_of(page / "index.html", "other")["nShared"] == 600


def test_a_second_run_without_a_page_is_refused(capsys, logo_run):
    code, _, stderr = audited(capsys, logo_run, f"--beside={logo_run}")
    assert code == 2
    assert "beside: a second run is shown on the page, expected --report DIR" in stderr


def test_label_suspects_are_tried_by_a_second_models_run(capsys, logo_run, tmp_path):
    run = simulated(SEED, ("label_suspect",), apart=True)
    layout, columns = run.columns()
    first = write_run(tmp_path / "first", layout, columns, class_names=CLASS_NAMES)
    code, stdout, _ = audited(capsys, first, "--most=100")
    assert code == 0
    assert "Label suspect, not tried" in stdout

    # Another model that knows what is shown.
    true = columns["label"].copy()
    for row, index in run.planted.swapped.items():
        true[row] = index
    columns |= {"prediction": true, "probability": columns["probability"] * 0 + 0.9}
    another = ModelIdentity(weights="another", config={})
    second = write_run(tmp_path / "second", layout, columns, class_names=CLASS_NAMES, model=another)
    before = sorted(path.name for path in (tmp_path / "second").iterdir())
    code, stdout, _ = audited(capsys, first, "--most=100", f"--second-model={second}")
    assert code == 0
    assert "Label suspect, confirmed" in stdout
    assert "A second model says 'simulated " in stdout
    assert "Label suspect, not tried" not in stdout
    # Nothing is written there.
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == before
    assert {"confirmed"} <= set(pd.read_parquet(Path(first) / "findings.parquet")["proof_state"])


def test_a_second_run_of_the_same_weights_proves_nothing(capsys, logo_run, tmp_path):
    code, stdout, stderr = audited(capsys, logo_run, f"--second-model={logo_run}")
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert "second_model: " in stderr
    assert "a run of the same weights" in stderr
    code, stdout, stderr = audited(capsys, logo_run, f"--second-model={tmp_path / 'nothing'}")
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert "nothing" in stderr
