"""Whatever ends a run on Ray, the last line is the product's, and the same command goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import HANG_S, command_of, kill, listening, processes_of, wait_until
from tests.support.runs import (
    assert_same_columns,
    pending_shards,
    plain_columns,
    prepared,
    stored_columns,
    write_inputs,
)
from tests.system.test_resume import start_job

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc"),
]

N_CLIPS = 160


def of_title(ray_folder, title):
    """Processes of a job whose program, or whose command line, ends so."""
    return [
        pid
        for pid in processes_of(ray_folder)
        if command_of(pid).partition(" ")[0].endswith(title) or title in command_of(pid)
    ]


@pytest.mark.parametrize("title", ["gcs/gcs_server", "raylet/raylet"])
def test_a_part_of_ray_that_is_killed_is_told_on_the_last_line(
    ray_folder, tmp_path, one_thread, title
):
    inputs = write_inputs(tmp_path, N_CLIPS)
    out = tmp_path / "run"
    statuses = out / "attributions.zarr" / "status" / "c"
    job = start_job(inputs, out, ray_folder)
    try:
        wait_until(lambda: statuses.exists() and any(statuses.iterdir()), job, job.communicate)
        kill(of_title(ray_folder, title))
        _, stderr = job.communicate(timeout=HANG_S)
    finally:
        job.kill()
        job.communicate()
    print(stderr)
    assert job.returncode == 1
    lines = stderr.splitlines()
    assert lines[-1].startswith("attribute: error: ")
    assert lines[-1].endswith("what was finished is kept, and the same command goes on")
    assert "Traceback" not in stderr
    assert 0 < len(pending_shards(out)) < N_CLIPS // 2
    kill(processes_of(ray_folder))

    resumed = start_job(inputs, out, ray_folder)
    stdout, stderr = resumed.communicate(timeout=HANG_S)
    assert resumed.returncode == 0, stderr
    assert f"{N_CLIPS} clips: {N_CLIPS} ok" in stdout
    assert " clips/s, bounded by " in stdout
    expected = plain_columns(prepared(inputs.config(tmp_path / "plain")))
    assert_same_columns(stored_columns(out), expected)


def test_two_drivers_on_one_run_are_told_apart(ray_folder, tmp_path):
    inputs = write_inputs(tmp_path, N_CLIPS)
    out = tmp_path / "run"
    first = start_job(inputs, out, ray_folder)
    try:
        wait_until((out / "lease.json").exists, first, first.communicate)
        second = start_job(inputs, out, ray_folder)
        _, stderr = second.communicate(timeout=HANG_S)
        assert second.returncode == 2
        assert len(stderr.splitlines()) <= 2  # It says for what it waits.
        assert "is working on this run, and renews its lease" in stderr.splitlines()[-1]
        first.send_signal(signal.SIGTERM)
        _, stderr = first.communicate(timeout=HANG_S)
        assert stderr.endswith("attribute: terminated; what was finished is kept\n")
    finally:
        first.kill()
        first.communicate()
    assert not (out / "lease.json").exists()


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def test_a_local_ray_listens_on_loopback_alone(ray_folder, tmp_path):
    inputs = write_inputs(tmp_path, N_CLIPS)
    out = tmp_path / "run"
    statuses = out / "attributions.zarr" / "status" / "c"
    job = start_job(inputs, out, ray_folder)
    try:
        wait_until(lambda: statuses.exists() and any(statuses.iterdir()), job, job.communicate)
        addresses = listening(processes_of(ray_folder))
        assert addresses
        assert addresses <= LOOPBACK
    finally:
        job.kill()
        job.communicate()


def test_a_relative_target_on_a_cluster_is_bad_input(tmp_path, ray_folder):
    inputs = write_inputs(tmp_path, 1)
    done = subprocess.run(
        [sys.executable, "-m", "jobs.attribute", *inputs.flags("runs/here")],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"RAY_ADDRESS": "127.0.0.1:9", "RAY_TMPDIR": ray_folder},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("attribute: error: out: 'runs/here' is a relative path, which on")
    assert done.stderr.count("\n") == 1
