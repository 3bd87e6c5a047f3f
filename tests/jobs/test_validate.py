"""`jobs.validate`: what it says of stores, and the runs that it makes."""

from pathlib import Path

import pytest

from analysis import class_statistics, findings, open_run, scores
from jobs.cli import run_job
from jobs.validate import ValidateConfig, validate
from tests.analysis.stores import random_columns, small_layout, write_run
from tests.store.foreign_stores import foreign_columns, write_foreign
from tests.support.runs import tree


def validated(capsys, *argv):
    """Exit code, stdout and stderr of the job."""
    code = run_job(ValidateConfig, validate, verb="validate", argv=[str(a) for a in argv])
    return code, *capsys.readouterr()


def test_a_run_is_valid_by_its_folder_and_by_its_store(capsys, tmp_path):
    layout = small_layout(9)
    url = write_run(tmp_path / "run", layout, random_columns(layout))
    before = tree(Path(url))
    store = f"{url}/attributions.zarr"
    for given in (url, store):
        assert validated(capsys, given) == (0, f"validate: {store} keeps the convention\n", "")
    assert tree(Path(url)) == before


def test_a_store_of_another_tool_becomes_a_run_that_can_be_audited(capsys, tmp_path):
    store = write_foreign(tmp_path / "a.zarr", foreign_columns(60))
    run = tmp_path / "run"
    code, stdout, _ = validated(capsys, store, f"--out={run}")
    assert (code, stdout.splitlines()[1]) == (0, f"validate: run in {run}/attributions.zarr")
    ds = open_run(str(run))
    assert len(scores(str(run))) == 60
    statistics = class_statistics(ds, by="prediction").compute()
    assert int(statistics["n_clips"].sum()) == 60
    assert "kind" in findings(str(run))
    code, stdout, stderr = validated(capsys, store, f"--out={run}")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "out: a store is in" in stderr


def test_what_breaks_the_convention_is_told(capsys, tmp_path):
    columns = foreign_columns()
    columns["status"][1] = 99
    store = write_foreign(tmp_path / "a.zarr", columns)
    code, stdout, stderr = validated(capsys, store, f"--out={tmp_path / 'run'}")
    assert (code, stdout) == (
        1,
        "validate: row 1: status is 99, expected one of the codes 0 to 11\n",
    )
    assert stderr == f"validate: error: {store} breaks the convention in 1 ways\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["nothing", "notes.txt"])
def test_what_is_no_store_is_one_line(capsys, tmp_path, name):
    (tmp_path / "notes.txt").write_text("mine")
    code, stdout, stderr = validated(capsys, tmp_path / name)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert name in stderr
