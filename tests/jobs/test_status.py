"""`jobs.status` on whole, broken-off and damaged runs."""

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.cli import run_job
from jobs.status import StatusConfig, status
from pipeline.store.opening import open_store
from pipeline.store.state import read_state
from tests.support.runs import objects

ROOT = Path(__file__).parents[2]


@pytest.fixture
def out(finished_run, tmp_path):
    return Path(shutil.copytree(finished_run.out, tmp_path / "run"))


@pytest.fixture
def run(capsys):
    def of(*argv):
        return run_job(StatusConfig, status, verb="status", argv=argv), *capsys.readouterr()

    return of


def test_a_finished_run_is_complete_and_names_every_failure(finished_run, run):
    exit_code, stdout, stderr = run(str(finished_run.out), "--json")
    assert (exit_code, stderr) == (0, "")
    state = json.loads(stdout)
    assert state["complete"] is True
    assert state["rows"] == {
        "total": 14,
        "done": 14,
        "pending": 0,
        "failed": 5,
        "by_status": {"ok": 9} | dict.fromkeys(finished_run.damaged.values(), 1),
    }
    assert state["shards"] == {"total": 4, "done": 4}
    for row, name in finished_run.damaged.items():
        example = state["failures"][name]
        assert (example["row"], example["video_id"]) == (row, finished_run.inputs.video_ids[row])
        assert example["message"]
    assert state["model"]["name"] == finished_run.inputs.model
    assert state["manifest"]["url"] == finished_run.inputs.manifest
    assert state["method"]["layers"] == [0, 1]
    assert state["sampling"]["n_samples"] == 3
    record = open_store(str(finished_run.out / "attributions.zarr")).record
    assert state["run"] == record.run_id(str(finished_run.out))


def test_shards_that_are_not_written_are_pending(out, run):
    for shard in (0, 3):
        (out / "attributions.zarr" / "status" / "c" / str(shard)).unlink()
    exit_code, stdout, _ = run(str(out), "--json")
    state = json.loads(stdout)
    assert exit_code == 0
    assert state["complete"] is False
    assert state["rows"]["pending"] == 6
    assert state["rows"]["done"] == 8
    assert state["shards"] == {"total": 4, "done": 2}
    # Rows 1, 3 and 13 failed, and are to be looked at anew.
    assert set(state["failures"]) == {"empty", "unreadable"}


def test_when_it_was_written_last_is_the_newest_commit(out):
    commits = (out / "attributions.zarr" / "status" / "c").iterdir()
    newest = max(path.stat().st_mtime for path in commits)
    written = read_state(str(out)).last_written
    assert written == datetime.fromtimestamp(newest, UTC)
    assert datetime.now(UTC) - written < timedelta(days=1)


def test_nothing_written_yet_is_no_error(out, run):
    shutil.rmtree(out / "attributions.zarr" / "status" / "c")
    exit_code, stdout, _ = run(str(out))
    assert exit_code == 0
    assert "0 of 14 done (0.0%), 14 pending, 0 failed" in stdout
    assert "never" in stdout


def test_people_read_the_same(finished_run, run):
    _, stdout, _ = run(str(finished_run.out))
    assert "14 of 14 done (100.0%), 0 pending, 5 failed" in stdout
    assert "4 of 4 done" in stdout
    assert finished_run.inputs.model in stdout
    for row, name in finished_run.damaged.items():
        assert f"{name:<12}        1  for example row {row}" in stdout


def cut_to_nothing(path):
    path.write_bytes(b"")


def overwrite(path):
    path.write_text("<Error><Code>SlowDown</Code></Error>")


@pytest.mark.parametrize("damage", [cut_to_nothing, overwrite])
@pytest.mark.parametrize("name", ["status/c/2", "status/zarr.json", "zarr.json"])
def test_a_damaged_object_is_named_on_one_line(out, run, name, damage):
    damaged = out / "attributions.zarr" / name
    damage(damaged)
    exit_code, stdout, stderr = run(str(out))
    assert (exit_code, stdout) == (2, "")
    assert stderr.count("\n") == 1
    assert stderr.startswith("status: error: ")
    assert str(damaged.parent if name == "zarr.json" else damaged) in stderr


def test_an_array_that_is_gone_is_named_on_one_line(out, run):
    shutil.rmtree(out / "attributions.zarr" / "status")
    exit_code, _, stderr = run(str(out))
    assert (exit_code, stderr.count("\n")) == (2, 1)
    assert str(out / "attributions.zarr" / "status" / "zarr.json") in stderr


def test_a_message_that_is_lost_is_named_on_one_line(out, run):
    cut_to_nothing(out / "attributions.zarr" / "message" / "c" / "0")
    exit_code, _, stderr = run(str(out))
    assert (exit_code, stderr.count("\n")) == (2, 1)
    assert "attributions.zarr/message: row 1 can't be read" in stderr


def test_a_folder_without_a_run_is_bad_input(tmp_path, run):
    exit_code, stdout, stderr = run(str(tmp_path))
    assert (exit_code, stdout) == (2, "")
    assert f"no store at {tmp_path}/attributions.zarr" in stderr


def test_reading_a_run_changes_nothing(finished_run, run):
    before = objects(finished_run.out)
    run(str(finished_run.out))
    assert objects(finished_run.out) == before


def test_the_command_loads_neither_torch_nor_ray(finished_run):
    code = (
        "import sys; from jobs.status import *; "
        f"exit_code = run_job(StatusConfig, status, verb='s', argv=[{str(finished_run.out)!r}]); "
        "assert exit_code == 0; "
        "print(sorted({'torch', 'ray', 'pandas', 'xarray', 'dask'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
