"""`jobs.aggregate` on a run that `jobs.attribute` made: what it writes, prints and refuses."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from analysis import open_run, open_statistics
from jobs.aggregate import AggregateConfig, aggregate
from jobs.cli import run_job
from pipeline.status import Status
from pipeline.store.verify import REMEDY
from pipeline.text import LINE_LENGTH
from tests.support.checkpoints import CLASS_NAMES


def run(capsys, *argv):
    """Exit code, stdout and stderr of the job."""
    exit_code = run_job(AggregateConfig, aggregate, verb="aggregate", argv=[str(a) for a in argv])
    return exit_code, *capsys.readouterr()


@pytest.fixture
def out(finished_run, tmp_path):
    return Path(shutil.copytree(finished_run.out, tmp_path / "run"))


def counts_of(out, column):
    """Ok clips by class index, counted from the run itself."""
    ds = open_run(str(out))[[column, "status"]].compute()
    classes = ds[column].values[(ds["status"] == Status.OK).values]
    return np.bincount(classes[classes >= 0], minlength=len(CLASS_NAMES)).tolist()


def test_statistics_and_page_are_written_and_named(capsys, out):
    exit_code, stdout, stderr = run(capsys, out)
    assert exit_code == 0
    assert "warning" not in stderr
    n_clips = counts_of(out, "label")
    printed = (
        f"aggregate: {sum(n_clips)} clips by label; statistics in {out}/statistics.zarr\n"
        f"aggregate: report in {out}/report/index.html\n"
    )
    assert stdout.endswith(printed)
    statistics = open_statistics(str(out))
    assert statistics.attrs["by"] == "label"
    assert statistics["n_clips"].values.tolist() == n_clips
    assert sum(n_clips) > 0
    assert "<html" in (out / "report" / "index.html").read_text()
    assert list((out / "report" / "images").glob("clip-*.webp"))


def test_the_table_has_a_line_for_each_class_with_clips_be_it_failed_ones(
    capsys, finished_run, out
):
    labels = finished_run.inputs.labels
    failed = [labels[row] for row in finished_run.damaged if labels[row] >= 0]
    n_clips = counts_of(out, "label")
    only_failed = [index for index in failed if not n_clips[index]]
    assert only_failed

    _, stdout, _ = run(capsys, out, "--no-report")
    for index, name in enumerate(CLASS_NAMES):
        line = next((line for line in stdout.splitlines() if line.startswith(f"{name} ")), None)
        if not n_clips[index] and index not in failed:
            assert line is None
            continue
        values = line.split()
        assert values[1:3] == [str(n_clips[index]), str(failed.count(index))]
        assert (values[3:] == ["-", "-", "-"]) == (index in only_failed)
    assert not re.search(r"\bnan\b|NaN|<NA>", stdout, re.IGNORECASE)


def test_the_page_may_be_left_out(capsys, out):
    exit_code, stdout, _ = run(capsys, out, "--no-report")
    assert exit_code == 0
    assert f"statistics in {out}/statistics.zarr" in stdout
    assert "report" not in stdout
    assert open_statistics(str(out)).attrs["by"] == "label"
    assert not (out / "report").exists()


def test_clips_may_be_grouped_by_what_was_predicted(capsys, out):
    exit_code, stdout, _ = run(capsys, out, "--by=prediction", "--no-report")
    assert exit_code == 0
    assert "aggregate: 9 clips by prediction" in stdout
    statistics = open_statistics(str(out), "prediction")
    assert statistics.attrs["by"] == "prediction"
    assert statistics["n_clips"].values.tolist() == counts_of(out, "prediction")


def test_running_it_again_replaces_what_it_wrote(capsys, out):
    run(capsys, out, "--by=prediction")
    exit_code, _, _ = run(capsys, out, "--by=label")
    assert exit_code == 0
    assert open_statistics(str(out)).attrs["by"] == "label"


def test_pending_clips_are_said_to_be_left_out(capsys, out):
    (out / "attributions.zarr" / "status" / "c" / "2").unlink()
    exit_code, stdout, stderr = run(capsys, out, "--by=prediction", "--no-report")
    assert exit_code == 0
    assert "4 of 14 clips are still pending" in stderr
    n_clips = sum(counts_of(out, "prediction"))
    assert f"aggregate: {n_clips} clips by prediction" in stdout
    assert n_clips < 9


def without_a_store(out):
    shutil.rmtree(out / "attributions.zarr")


def without_a_folder(out):
    shutil.rmtree(out)


def without_an_ok_clip(out):
    shutil.rmtree(out / "attributions.zarr" / "status" / "c")


@pytest.mark.parametrize("damage", [without_a_store, without_a_folder, without_an_ok_clip])
def test_where_there_is_nothing_to_aggregate_one_line_says_so_and_nothing_is_written(
    capsys, out, damage
):
    damage(out)
    exit_code, stdout, stderr = run(capsys, out)
    assert exit_code == 2
    assert stdout == ""
    assert stderr.startswith("aggregate: error: ")
    assert stderr.count("\n") == 1
    assert str(out) in stderr
    assert not (out / "statistics.zarr").exists()
    assert not (out / "report").exists()


@pytest.mark.parametrize("argv", [(), ("run", "stray"), ("run", "--by=colour")])
def test_a_bad_command_line_is_one_line_and_exit_code_2(capsys, argv):
    exit_code, stdout, stderr = run(capsys, *argv)
    assert (exit_code, stdout, stderr.count("\n")) == (2, "", 1)


def test_an_attribution_that_was_lost_is_told_and_the_former_statistics_stay(capsys, out, tmp_path):
    out = Path(shutil.copytree(out, tmp_path / ("deep" * 10) / ("deeper" * 10) / "run"))
    assert run(capsys, out, "--no-report")[0] == 0
    before = open_statistics(str(out))
    shutil.rmtree(out / "attributions.zarr" / "spatial" / "c" / "0")
    exit_code, _, stderr = run(capsys, out)
    assert exit_code == 2
    (line,) = stderr.splitlines()
    assert len(line) <= LINE_LENGTH
    # Of a long path the middle of the line goes, and never its end.
    assert line.startswith(f"aggregate: error: {out}"[:100])
    assert line.endswith(f" have no attribution; {REMEDY}")
    assert open_statistics(str(out)).identical(before)


def test_grouping_by_labels_that_no_clip_has_is_refused(capsys, out):
    group = zarr.open_group(out / "attributions.zarr", mode="r+")
    group["label"][:] = -1
    exit_code, _, stderr = run(capsys, out, "--by=label")
    assert exit_code == 2
    assert "by: 'label', but no clip" in stderr
    assert not (out / "statistics.zarr").exists()


@pytest.mark.parametrize("name", ["status", "label", "spatial"])
def test_a_damaged_object_is_named_on_one_line(capsys, out, name):
    folder = out / "attributions.zarr" / name / "c" / "1"
    path = next((item for item in folder.rglob("*") if item.is_file()), folder)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    exit_code, _, stderr = run(capsys, out)
    assert exit_code == 2
    assert str(path.relative_to(out)) in stderr
    assert "jobs.verify" in stderr
    assert len(stderr.splitlines()) == 1
