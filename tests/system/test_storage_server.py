"""The S3 server is killed in the middle of a run: back after 20 s, and never, nothing is lost."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.run.serial import execute_serially
from pipeline.status import Status
from pipeline.storage.retries import PATIENCE_VARIABLE
from tests.support.object_storage import BUCKET, OWNER, SeaweedServer, environment, filesystem_at
from tests.support.processes import HANG_S, wait_until
from tests.support.runs import assert_same_columns, prepared, stored_columns, write_inputs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
ROOT = Path(__file__).parents[2]
N_CLIPS = 60
OUT = f"s3://{BUCKET}/runs/killed"
AWAY_S = 20


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("server"), N_CLIPS, {5: "missing"})


@pytest.fixture(scope="module")
def expected(inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    execute_serially(prepared(inputs.config(out)))
    return stored_columns(out)


@pytest.fixture
def server(tmp_path):
    server = SeaweedServer(tmp_path)
    server.start()
    yield server
    server.kill()


def start_job(inputs, server, patience_s):
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.attribute", *inputs.flags(OUT, "--serial")],
        cwd=ROOT,
        env=os.environ | OWNER.environment(server.endpoint) | {PATIENCE_VARIABLE: str(patience_s)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_behind_some_commits(server, job):
    filesystem = filesystem_at(server.endpoint)

    def some():
        filesystem.invalidate_cache()
        folder = f"{OUT.removeprefix('s3://')}/attributions.zarr/status/c"
        return filesystem.exists(folder) and len(filesystem.ls(folder)) >= 2

    wait_until(some, job, job.communicate)
    server.kill()


def assert_as_expected(server, expected, monkeypatch):
    with environment(monkeypatch, OWNER.environment(server.endpoint)):
        assert_same_columns(stored_columns(OUT), expected)


def test_a_server_that_comes_back_is_waited_for(inputs, expected, server, monkeypatch):
    job = start_job(inputs, server, 120)
    try:
        kill_behind_some_commits(server, job)
        time.sleep(AWAY_S)
        assert job.poll() is None
        server.start()
        stdout, stderr = job.communicate(timeout=HANG_S)
    finally:
        job.kill()
        job.communicate()
    assert job.returncode == 0, stderr
    assert "Traceback" not in stderr
    assert f"{N_CLIPS} clips: {N_CLIPS - 1} ok, 1 missing" in stdout
    assert_as_expected(server, expected, monkeypatch)


def test_a_server_that_never_comes_back_ends_the_run_with_our_line(
    inputs, expected, server, monkeypatch
):
    job = start_job(inputs, server, 5)
    try:
        kill_behind_some_commits(server, job)
        _, stderr = job.communicate(timeout=HANG_S)
    finally:
        job.kill()
        job.communicate()
    assert job.returncode == 1, stderr
    assert "Traceback" not in stderr
    last = stderr.splitlines()[-1]
    assert last.startswith("attribute: error: ")
    assert last.endswith("what was finished is kept, and the same command goes on")

    server.start()
    with environment(monkeypatch, OWNER.environment(server.endpoint)):
        status = stored_columns(OUT)["status"]
    assert 0 < (status == Status.PENDING).sum() < N_CLIPS
    # The lease of the first is left behind; its process is gone.
    again = start_job(inputs, server, 60)
    _, stderr = again.communicate(timeout=HANG_S)
    assert again.returncode == 0, stderr
    assert_as_expected(server, expected, monkeypatch)
