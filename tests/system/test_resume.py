"""Runs that were broken off: what is done again, what isn't, and that no one can tell after."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.errors import StorageError
from pipeline.execution.passes import execute
from pipeline.run.job import real_stages
from pipeline.status import Status
from pipeline.store.state import read_state
from tests.support.processes import HANG_S, kill, processes_of, wait_until
from tests.support.runs import (
    assert_same_columns,
    objects,
    pending_shards,
    prepared,
    stored_columns,
    write_inputs,
)

ROOT = Path(__file__).parents[2]


def shard_of(name):
    """Shard that an object's name belongs to: ``<array>/c/<shard>/0/...``."""
    return int(name.split("/")[2])


@pytest.fixture
def out(finished_run, tmp_path):
    return Path(shutil.copytree(finished_run.out, tmp_path / "run"))


def forget(out, shard):
    """Have a shard as if it had never been written."""
    for name in objects(out):
        if shard_of(name) == shard:
            (out / "attributions.zarr" / name).unlink()
    for folder in (out / "attributions.zarr").glob(f"*/c/{shard}"):
        shutil.rmtree(folder)


def test_a_resumed_run_computes_the_pending_shards_alone_and_gives_the_same_bits(finished_run, out):
    (out / "failures.parquet").unlink()
    before = objects(out)
    forget(out, 1)
    # The last shard, which is short, loses its commit mark alone.
    (out / "attributions.zarr" / "status" / "c" / "3").unlink()
    assert pending_shards(out) == [1, 3]

    summary = execute(prepared(finished_run.inputs.config(out)))

    after = objects(out)
    assert {name: content for name, (content, _) in after.items()} == {
        name: content for name, (content, _) in before.items()
    }
    rewritten = {shard_of(name) for name in before if after[name][1] != before[name][1]}
    assert rewritten == {1, 3}
    assert summary.seconds > 0
    assert summary.counts[Status.OK] == 9
    failures = pq.read_table(out / "failures.parquet")
    assert failures.equals(pq.read_table(finished_run.out / "failures.parquet"))


@pytest.mark.slow
def test_a_shard_that_can_not_be_written_stays_pending_until_it_can(finished_run, out, caplog):
    forget(out, 1)
    before = objects(out)
    # A file where the shard's folder would be: also root can't write below it.
    blocked = out / "attributions.zarr" / "spatial" / "c" / "1"
    blocked.write_bytes(b"")
    plan = prepared(finished_run.inputs.config(out))
    summary = execute(plan)
    assert summary.n_pending == 4
    assert str(blocked) in caplog.text
    assert pending_shards(out) == [1]
    assert pq.read_table(out / "failures.parquet").num_rows == 4

    blocked.unlink()
    execute(plan)
    assert_same_columns(stored_columns(out), stored_columns(finished_run.out))
    assert before.items() <= objects(out).items()


@dataclass(frozen=True)
class ClipsThatStayAway:
    """Loads clips, but for some that a storage fails for as long as it is tried."""

    load: Callable
    rows: Collection[int]

    def __call__(self, rows):
        if set(self.rows) & set(rows["row"].tolist()):
            raise StorageError("clips/five.mp4: its storage fails for it")
        return self.load(rows)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "left"), [((5, 9), [1, 2]), ((5,), [1]), ((1, 13), [0, 3])])
def test_clips_that_their_storage_always_fails_for_hold_up_their_shards_alone(
    finished_run, out, caplog, rows, left
):
    for shard in range(4):
        forget(out, shard)
    plan = prepared(finished_run.inputs.config(out))

    def stages_of(*arguments):
        stages = real_stages(*arguments)
        return replace(stages, load=ClipsThatStayAway(stages.load, rows))

    summary = execute(plan, stages_of=stages_of)
    assert summary.n_pending == sum(len(plan.layout.shard_rows(shard)) for shard in left)
    assert pending_shards(out) == left
    # Whichever of the faulty shards fails first breaks the pass off.
    firsts = "|".join(str(4 * shard) for shard in left)
    assert re.search(
        rf"rows ({firsts}) to \d+: clips/five.mp4: its storage fails for it\n", caplog.text
    )
    execute(plan)
    assert_same_columns(stored_columns(out), stored_columns(finished_run.out))


def start_job(inputs, out, ray_folder):
    flags = inputs.flags(out, "--rows-per-shard=2", "--local-cpus=2", "--local-object-store=200MB")
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.attribute", *flags],
        cwd=ROOT,
        env=environment | {"RAY_TMPDIR": ray_folder},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_a_run_whose_driver_was_killed_and_terminated_is_resumed_to_the_same_bits(
    local_ray, ray_folder, tmp_path
):
    inputs = write_inputs(tmp_path, 48, {7: "missing", 40: "truncated"})
    undisturbed = tmp_path / "undisturbed"
    execute(prepared(inputs.config(undisturbed, rows_per_shard=2)))

    out = tmp_path / "run"
    statuses = out / "attributions.zarr" / "status" / "c"
    job = start_job(inputs, out, ray_folder)
    try:
        wait_until(lambda: statuses.exists() and any(statuses.iterdir()), job, job.communicate)
        state = read_state(str(out))
        assert 0 < state.n_shards_done < 24
    finally:
        job.kill()
        job.communicate()
        kill(processes_of(ray_folder))
    left = pending_shards(out)
    assert 0 < len(left) < 24

    # Once more, and asked to stop this time.
    stopped = start_job(inputs, out, ray_folder)
    wait_until(lambda: len(pending_shards(out)) < len(left), stopped, stopped.communicate)
    stopped.send_signal(signal.SIGTERM)
    _, stderr = stopped.communicate(timeout=HANG_S)
    assert stopped.returncode == 143
    assert "Traceback" not in stderr
    assert stderr.endswith("\nattribute: terminated; what was finished is kept\n")
    assert 0 < len(pending_shards(out)) < len(left)

    resumed = start_job(inputs, out, ray_folder)
    stdout, stderr = resumed.communicate(timeout=HANG_S)
    assert resumed.returncode == 0, stderr
    assert "48 clips: 46 ok, 1 missing, 1 truncated" in stdout
    assert_same_columns(stored_columns(out), stored_columns(undisturbed))
    assert pq.read_table(out / "failures.parquet")["row"].to_pylist() == [7, 40]
