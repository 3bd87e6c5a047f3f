"""A node is lost while a run goes on, as a spot node that is called back: the run goes on."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pipeline.store.opening import Found, find_store
from pipeline.store.run_folder import store_url
from tests.support.job_cluster import job_cluster
from tests.support.noting_job import NOTES, noted, told_commits
from tests.support.nursery import parent_of
from tests.support.processes import HANG_S, command_of, processes_of, wait_until
from tests.support.runs import (
    assert_same_columns,
    n_done,
    plain_columns,
    prepared,
    stored_columns,
    write_inputs,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux alone has nurseries"),
]

ROOT = Path(__file__).parents[2]
N_CLIPS, ROWS_PER_SHARD = 160, 4
N_COMMITTED = 3
"""Shards that are committed at the least when the node goes: as long as no more are, not all of the
others can be decoded, see `pipeline.execution.backpressure`."""


@pytest.fixture(scope="module")
def cluster():
    # One is enough for a run, and two are lost.
    with job_cluster(n_workers=4, cpus_per_worker=1) as started:
        yield started


def raylet_of(pid):
    """Process of the node that another process is part of: its parent."""
    raylet = parent_of(pid)
    assert "raylet/raylet" in command_of(raylet)
    return raylet


def is_child(pid, parent):
    try:
        return parent_of(pid) == parent
    except OSError:
        return False


@pytest.mark.parametrize("title", ["ray::MapWorker", "ray::ReadManifestSource"])
def test_what_was_on_the_node_is_computed_again_elsewhere(cluster, tmp_path, one_thread, title):
    inputs = write_inputs(tmp_path, N_CLIPS, {7: "missing"})
    out, log = tmp_path / "run", tmp_path / "log"
    before = told_commits(cluster.folder)
    flags = inputs.flags(out, f"--rows-per-shard={ROWS_PER_SHARD}", "--log-format=json")
    environment = {"RAY_ADDRESS": cluster.gcs, "RAY_AUTH_MODE": "token", NOTES: str(tmp_path)}
    with log.open("w") as stream:
        job = subprocess.Popen(
            [sys.executable, "-m", "tests.support.noting_job", *flags],
            cwd=ROOT,
            env=cluster.environment | environment,
            stdout=stream,
            stderr=stream,
        )

    def of_title_when_due():
        # The run makes its store; until then there is none to read.
        due = (
            isinstance(find_store(store_url(str(out))), Found)
            and n_done(out) >= N_COMMITTED * ROWS_PER_SHARD
        )
        return due and [p for p in processes_of(cluster.folder) if title in command_of(p)]

    try:
        pid, *_ = wait_until(of_title_when_due, job, log.read_text, poll_s=0.01)
        raylet = raylet_of(pid)
        workers = [p for p in processes_of(cluster.folder) if is_child(p, raylet)]
        os.kill(raylet, signal.SIGKILL)
        assert n_done(out) < N_CLIPS
        assert job.wait(HANG_S) == 0, log.read_text()
    finally:
        job.kill()
        job.wait()

    assert_same_columns(stored_columns(out), plain_columns(prepared(inputs.config(tmp_path / "p"))))
    assert set((told_commits(cluster.folder) - before).values()) <= {1, 2}
    # A shard that was committed there, whose task hadn't answered, is written again.
    assert set((told_commits(cluster.folder, workers) - before).values()) == {1}
    counts = Counter(noted(tmp_path, "explained"))
    print(f"decoded {len(noted(tmp_path, 'decoded'))}, explained {counts.total()} of {N_CLIPS}")
    assert set(counts) == set(range(N_CLIPS))
