"""`jobs.export`: what it writes where, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr

from analysis import score_run
from jobs.cli import run_job
from jobs.export import ExportConfig, export
from tests.analysis.stores import random_columns, small_layout, write_run
from tests.support.runs import tree


def exported(capsys, *argv):
    """Exit code, stdout and stderr of the job."""
    code = run_job(ExportConfig, export, verb="export", argv=[str(a) for a in argv])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    layout = small_layout(12)
    url = write_run(folder / "run", layout, random_columns(layout))
    score_run(url)
    return url


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_scores_are_written_in_the_form_that_the_name_says(capsys, url, tmp_path, form):
    before = tree(Path(url))
    out = tmp_path / f"table.{form}"
    told = exported(capsys, url, f"--out={out}", "--rows=0,4:7", "--where=row > 0")
    assert told == (0, f"export: 3 rows of scores in {out}\n", "")
    read = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}[form](out)
    assert read["row"].tolist() == [4, 5, 6]
    assert tree(Path(url)) == before


def test_clips_are_written_as_arrays(capsys, url, tmp_path):
    told = exported(capsys, url, "--what=clips", f"--out={tmp_path / 'a.npz'}", "--rows=3")
    assert told[:2] == (0, f"export: 1 clips in {tmp_path / 'a.npz'}\n")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as read:
        assert read["row"].tolist() == [3]
    assert exported(capsys, url, "--what=clips", f"--out={tmp_path / 'a.zarr'}")[0] == 0
    assert zarr.open_group(tmp_path / "a.zarr", mode="r")["spatial"].shape == (12, 2, 3, 5)


def test_what_is_there_is_replaced_only_if_that_is_asked_for(capsys, url, tmp_path):
    out = tmp_path / "table.json"
    out.write_text("mine")
    code, stdout, stderr = exported(capsys, url, f"--out={out}")
    assert (code, stdout) == (2, "")
    assert stderr == (
        f"export: error: out: {out} is there already: choose another name, or give --overwrite\n"
    )
    assert out.read_text() == "mine"
    assert exported(capsys, url, f"--out={out}", "--overwrite")[0] == 0
    assert len(json.loads(out.read_text())) == 12
    folder = tmp_path / "folder.zarr"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    code, _, stderr = exported(capsys, url, "--what=clips", f"--out={folder}", "--overwrite")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "is a folder with something in it" in stderr
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--out=a.xyz"], "the end of out=a.xyz says none of parquet, csv, json"),
        (["--out=a.csv", "--what=clips"], "says none of npz, zarr"),
        (["--out=a.csv", "--format=npz"], "format: npz with what=scores: expected parquet or csv"),
        (["--out=a", "--what=fiftyone", "--format=json"], "expected no --format"),
        (["--out=a.csv", "--what=findings", "--rows=1"], "rows: findings have none"),
        (["--out=a.csv", "--what=findings"], "jobs.audit makes them"),
        (["--out=a.csv", "--rows=1-3"], "'1-3': expected rows such as 0,5,10:20"),
        (["--out=a.csv", "--rows=12"], "has no row 12: expected 0 to 11"),
        (["--out=a.csv", "--where=enropy > 1"], "where: 'enropy > 1' can't be used"),
        (["--out=a", "--what=fiftyone"], "what: FiftyOne needs the run's clips, and"),
        (["--out=nowhere://a.csv"], "out: can't write nowhere://a.csv"),
    ],
)
def test_what_can_not_be_done_is_one_line(capsys, url, tmp_path, monkeypatch, argv, said):
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = exported(capsys, url, *argv)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1), stderr
    assert said in stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_run_is_one_line(capsys, tmp_path):
    code, stdout, stderr = exported(capsys, tmp_path / "nothing", f"--out={tmp_path / 'a.csv'}")
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert "nothing" in stderr
