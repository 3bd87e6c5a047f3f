"""Localisation on Ray that was broken off: the same command goes on, and no one can tell after."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zarr

from jobs.cli import run_job
from jobs.evaluate import EvaluateConfig, evaluate
from pipeline.store.ground_truth import Truth, write_ground_truth
from pipeline.store.opening import open_store
from pipeline.store.run_folder import store_url
from pipeline.store.schema import StoreLayout
from tests.analysis.stores import random_columns, write_run
from tests.support.processes import HANG_S, kill, processes_of, wait_until

ROOT = Path(__file__).parents[2]
N_SHARDS, ROWS = 16, 2
LAYOUT = StoreLayout(N_SHARDS * ROWS, ROWS, n_frames=8, n_times=8, height=7, width=7, n_ranks=2)
JOB = """
import sys
from functools import partial
from jobs.cli import run_job
from jobs.evaluate import EvaluateConfig, evaluate
# However little work there is, it is done on Ray.
job = partial(evaluate, worth_ray_s=0)
sys.exit(run_job(EvaluateConfig, job, verb="evaluate", keeps=True, apart=lambda config: True))
"""


def written(folder):
    """A run of random attributions, and the truth of a box in each clip, of some unknown times."""
    rng = np.random.default_rng(20261130)
    columns = random_columns(LAYOUT, 20261130)
    run = write_run(folder / "run", LAYOUT, columns)
    grid = (LAYOUT.n_times, LAYOUT.height, LAYOUT.width)
    covered = np.zeros((LAYOUT.n_rows, *grid), np.float32)
    for clip in covered:
        top, left = rng.integers(0, 4, 2)
        clip[:, top : top + 4, left : left + 4] = 1
    known = rng.random((LAYOUT.n_rows, grid[0])) < 0.7
    blocks = [(np.arange(LAYOUT.n_rows), "person", Truth(covered, known))]
    truth = str(folder / "truth.zarr")
    write_ground_truth(truth, ("person",), columns["video_id"], grid, blocks, {})
    return run, f"--ground-truth={truth}"


def start_job(argv, script, ray_folder):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, script, *argv, "--local-cpus=2"],
        env=environment | {"RAY_TMPDIR": ray_folder, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def n_done(run):
    """Shards whose mark is there; one that is being written has another name."""
    marks = Path(run, "metrics.partial.zarr", "done", "c")
    return sum(path.name.isdecimal() for path in marks.iterdir()) if marks.exists() else 0


@contextmanager
def withheld(run, shards):
    """The attributions of some shards can't be read meanwhile: who opens one waits.

    So these aren't done, however fast the machine is or however late the job is stopped.
    """
    store = open_store(store_url(run))
    paths = [Path(store.object_url("spatial", shard)) for shard in shards]
    kept = [path.rename(path.with_suffix(".kept")) for path in paths]
    for path in paths:
        os.mkfifo(path)
    try:
        yield
    finally:
        for path, whole in zip(paths, kept, strict=True):
            whole.replace(path)


def metrics_of(run):
    group = zarr.open_group(f"{run}/metrics.zarr", mode="r")
    return {name: group[name][:] for name in group.array_keys()}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_an_evaluation_that_was_killed_and_terminated_goes_on_to_the_same_bits(
    ray_folder, tmp_path, capsys
):
    run, truth = written(tmp_path)
    argv, script = [run, truth], tmp_path / "job.py"
    script.write_text(JOB)

    with withheld(run, range(4, N_SHARDS)):
        killed = start_job(argv, script, ray_folder)
        try:
            wait_until(lambda: n_done(run) >= 2, killed, killed.communicate)
        finally:
            os.killpg(killed.pid, signal.SIGKILL)
            killed.communicate()
            kill(processes_of(ray_folder))
    done = n_done(run)
    assert 2 <= done <= 4
    assert not Path(run, "metrics.zarr").exists()

    # Once more, and asked to stop this time.
    with withheld(run, range(10, N_SHARDS)):
        stopped = start_job(argv, script, ray_folder)
        try:
            wait_until(lambda: n_done(run) > done, stopped, stopped.communicate)
            stopped.send_signal(signal.SIGTERM)
            _, stderr = stopped.communicate(timeout=HANG_S)
        finally:
            kill(processes_of(ray_folder))
    assert stopped.returncode == 143
    assert "Traceback" not in stderr
    assert stderr.endswith("\nevaluate: terminated; what was finished is kept\n")
    assert done < n_done(run) <= 10
    assert not Path(run, "metrics.zarr").exists()

    resumed = start_job(argv, script, ray_folder)
    try:
        stdout, stderr = resumed.communicate(timeout=HANG_S)
    finally:
        kill(processes_of(ray_folder))
    assert resumed.returncode == 0, stderr
    assert not Path(run, "metrics.partial.zarr").exists()
    found = metrics_of(run)

    assert run_job(EvaluateConfig, evaluate, verb="evaluate", argv=[*argv, "--serial"]) == 0
    assert capsys.readouterr().out == stdout
    expected = metrics_of(run)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
