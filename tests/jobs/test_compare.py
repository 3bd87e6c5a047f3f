"""`jobs.compare` on simulated runs: a gate for continuous integration."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from jobs.cli import run_job
from jobs.compare import CompareConfig, compare
from pipeline.status import Status
from tests.analysis.simulated_runs import CLASS_NAMES, LOGO, simulated
from tests.analysis.stores import random_columns, write_run

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
    code, stdout, stderr = compared(capsys, before, before, "--fail-on=any")
    assert (code, stderr) == (0, "")
    assert "compare: 600 videos of 10 classes paired; 10 classes tested, 0 not\n" in stdout
    out = tmp_path / "drift.json"
    code, stdout, _ = compared(capsys, before, after, "--fail-on=any", f"--out={out}")
    assert code == 1
    assert f"1 classes differ between {before} and {after}" in stdout
    document = json.loads(out.read_text())
    assert document["findings"][0]["subject"] == [CLASS_NAMES[LOGO]]
    assert document["compared"]["tested"] == list(CLASS_NAMES)
    assert document["compared"]["untested"] == {}
    assert compared(capsys, before, after)[0] == 0


def test_a_gate_where_nothing_could_be_tested_is_no_success(capsys, runs, tmp_path):
    before, _ = runs
    out = tmp_path / "drift.json"
    options = ("--audit.min-clips=61", f"--out={out}")
    code, stdout, stderr = compared(capsys, before, before, "--fail-on=any", *options)
    assert code == 1
    assert stderr == (
        "compare: error: fail_on=any: no class could be tested, expected one with 61 shared videos "
        "or more\n"
    )
    assert "600 videos of 10 classes paired; 0 classes tested, 10 not" in stdout
    assert "not tested, too few videos in the first run, 61 needed: 10 ('simulated 0', " in stdout
    assert len(json.loads(out.read_text())["compared"]["untested"]) == 10
    assert compared(capsys, before, before, *options)[0] == 0


def test_a_gate_fails_where_the_second_run_lacks_a_class_or_most_of_its_videos(
    capsys, runs, tmp_path
):
    layout, columns = simulated(SEED).columns()
    status = columns["status"].copy()
    status[columns["label"] == 3] = Status.MISSING
    status[np.flatnonzero(columns["label"] == 4)[5:]] = Status.MISSING
    columns = random_columns(layout, n_classes=10, **{**columns, "status": status})
    partly = write_run(tmp_path / "partly", layout, columns, class_names=CLASS_NAMES)
    code, stdout, stderr = compared(capsys, runs[0], partly, "--fail-on=any")
    assert code == 1
    assert stderr == (
        "compare: error: fail_on=any: classes of the first run lack videos in the second: "
        "2 ('simulated 3', 'simulated 4')\n"
    )
    assert "485 videos of 9 classes paired; 8 classes tested, 2 not" in stdout
    assert "not tested, absent from the second run: 1 ('simulated 3')" in stdout
    assert "not tested, too few shared videos, 10 needed: 1 ('simulated 4')" in stdout
    assert compared(capsys, runs[0], partly)[0] == 0
    # A class that the first run itself has too few videos of is only told.
    code, stdout, stderr = compared(capsys, partly, partly, "--fail-on=any")
    assert (code, stderr) == (0, "")
    assert "not tested, too few videos in the first run, 10 needed: 1 ('simulated 4')" in stdout


def test_runs_of_different_methods_are_one_line_and_their_answers_still_compare(
    capsys, runs, tmp_path
):
    layout, columns = simulated(SEED, ("logo",)).columns()
    other = write_run(
        tmp_path / "other",
        layout,
        columns,
        class_names=CLASS_NAMES,
        method={"name": "evidence"},
    )
    code, stdout, stderr = compared(capsys, runs[0], other)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert "different methods" in stderr
    assert "answers_only" in stderr
    _, stdout, stderr = compared(capsys, runs[0], other, "--answers-only")
    assert stderr == ""
    assert "only answers are compared" in stdout


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"clamp": "parts"}, "clamp='sum' and 'evidence' (of a class) with clamp='parts'"),
        ({"layers": [0]}, "layers=(0, 1) and 'evidence' (of a class) with layers=(0,)"),
        ({"store_layers": True}, None),
    ],
)
def test_one_method_with_other_options_is_another_unless_they_only_store_more(
    capsys, tmp_path, option, said
):
    layout, columns = simulated(SEED, ("logo",)).columns()
    plain = {"name": "evidence", "layers": [0, 1], "clamp": "sum", "step_back": False}
    pair = [
        write_run(
            tmp_path / name, layout, columns, class_names=CLASS_NAMES, method={**plain, **options}
        )
        for name, options in (("one", {}), ("other", option))
    ]
    code, _, stderr = compared(capsys, *pair)
    assert code == (0 if said is None else 2)
    assert said is None or said in stderr


def test_what_is_no_run_is_one_line(capsys, runs, tmp_path):
    for pair in ((tmp_path / "nothing", runs[0]), (runs[0], tmp_path / "nothing")):
        code, stdout, stderr = compared(capsys, *pair)
        assert (code, stdout, stderr.count("\n")) == (2, "", 1)
        assert "nothing" in stderr
