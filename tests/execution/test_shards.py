"""A function of each shard on Ray, against the same in turn; what it raises; processes that die."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pytest
import ray

from jobs.cli import run_job
from jobs.evaluate import EvaluateConfig, evaluate
from pipeline.errors import ClusterError, StoreError
from pipeline.evaluation.evaluate import evaluate_run
from pipeline.execution.shards import each_on_ray
from pipeline.store.ground_truth import open_ground_truth
from tests.analysis.stores import write_run
from tests.evaluation.test_evaluate import LAYOUT as EVALUATED
from tests.evaluation.test_evaluate import columns_of, dataset, metrics_of
from tests.support.processes import until

__all__ = ["dataset"]  # A fixture.


@dataclass(frozen=True)
class Squares:
    """Squares of shards; what is to go wrong with some is said by files in a folder."""

    folder: Path

    def __call__(self, shard: int) -> int:
        (self.folder / f"begun-{shard}-{os.getpid()}-{time.monotonic_ns()}").touch()
        dies = self.folder / f"dies-{shard}"
        if dies.exists():
            dies.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if (self.folder / f"refuses-{shard}").exists():
            raise StoreError(f"shard {shard} has lost objects")
        if (self.folder / f"fails-{shard}").exists():
            raise ZeroDivisionError
        while shard and (self.folder / "waits").exists():
            time.sleep(0.05)  # The task has to be running when it is cancelled.
        return shard**2

    def n_begun(self) -> int:
        return sum(1 for _ in self.folder.glob("begun-*"))


def test_each_shard_is_given_once_though_processes_die(local_ray, tmp_path):
    (tmp_path / "dies-3").touch()
    shards = [*range(1, 40)]
    found = list(each_on_ray(Squares(tmp_path), shards))
    assert sorted(found) == [(shard, shard**2) for shard in shards]
    assert Squares(tmp_path).n_begun() > len(shards)
    assert list(each_on_ray(Squares(tmp_path), [])) == []


def test_what_the_function_raises_is_raised_here(local_ray, tmp_path):
    (tmp_path / "refuses-2").touch()
    with pytest.raises(StoreError, match="shard 2 has lost objects"):
        list(each_on_ray(Squares(tmp_path), [1, 2]))
    (tmp_path / "fails-1").touch()
    with pytest.raises(ZeroDivisionError):
        list(each_on_ray(Squares(tmp_path), [1]))


def test_what_dies_again_and_again_is_one_line(local_ray, tmp_path):
    with pytest.raises(ClusterError) as failed:
        list(each_on_ray(AlwaysDies(), [1]))
    assert "\n" not in str(failed.value)


class AlwaysDies:
    def __call__(self, shard: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return shard


def test_nothing_goes_on_once_nobody_asks(local_ray, tmp_path):
    waits = tmp_path / "waits"
    waits.touch()
    squares = Squares(tmp_path)
    try:
        with closing(each_on_ray(squares, range(1000))) as each:
            assert next(each) == (0, 0)
            # Ray may lose the cancelling of a task whose process is still being started.
            n_cpus = ray.cluster_resources()["CPU"]
            until(lambda: squares.n_begun() >= 1 + n_cpus, seconds=60)
        # Tasks that wait are cancelled, and give their CPUs back.
        until(lambda: ray.available_resources().get("CPU", 0) == n_cpus, seconds=60)
        assert squares.n_begun() <= n_cpus + 3
    finally:
        # What ignores SIGINT, as all that a shell starts behind `&` does, isn't cancelled:
        # it must not keep the CPUs from other tests.
        waits.unlink()


def test_values_of_a_run_are_those_that_are_computed_in_turn(local_ray, dataset, tmp_path):
    url, clips = dataset
    columns, truth = columns_of(clips), open_ground_truth(url)
    runs = [write_run(tmp_path / name, EVALUATED, columns) for name in ("in_turn", "on_ray")]
    assert EVALUATED.n_shards > 1
    in_turn = evaluate_run(runs[0], truth, n_transported=2)
    on_ray = evaluate_run(runs[1], truth, n_transported=2, compute=each_on_ray)
    assert repr(in_turn) == repr(on_ray)
    one, other = map(metrics_of, runs)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name][:], other[name][:])


@pytest.mark.parametrize("is_shared", [True, False])
def test_the_job_prints_the_same_on_ray(
    local_ray, dataset, tmp_path, monkeypatch, capsys, is_shared
):
    url, clips = dataset
    write_run(tmp_path / "run", EVALUATED, columns_of(clips))
    if not is_shared:
        # Other processes don't read this one's memory.
        fsspec.filesystem("memory").put(url, f"/{tmp_path.name}", recursive=True)
        url = f"memory://{tmp_path.name}"
    # Ray's workers have another working folder.
    monkeypatch.chdir(tmp_path)
    told = []
    for flags in (["--serial"], []):
        argv = ["run", f"--ground-truth={url}", *flags]
        job = partial(evaluate, worth_ray_s=0)
        assert run_job(EvaluateConfig, job, verb="evaluate", argv=argv) == 0
        told.append(capsys.readouterr())
    assert told[0].out == told[1].out
    assert "3/3" in told[1].err
    assert ("computing in this process" in told[1].err) is not is_shared


def test_a_clip_without_ground_truth_is_named(local_ray, dataset, tmp_path):
    url, clips = dataset
    columns = columns_of(clips)
    columns["video_id"][4] = "unheard-of"
    run = write_run(tmp_path / "run", EVALUATED, columns)
    with pytest.raises(StoreError, match="'unheard-of'"):
        evaluate_run(run, open_ground_truth(url), compute=each_on_ray)
    assert not (tmp_path / "run" / "metrics.zarr").exists()


def test_processes_that_die_are_not_told_among_what_a_job_prints(ray_folder, tmp_path):
    """The Ray is the test's own, since the session's belongs to all tests."""
    (tmp_path / "dies-2").touch()
    code = (
        "from pathlib import Path\n"
        "from pipeline.execution.cluster import ray_there\n"
        "from pipeline.execution.shards import each_on_ray\n"
        "from tests.execution.test_shards import Squares\n"
        "import logging, threading\n"
        "told, logger = threading.Event(), logging.getLogger('pipeline.execution.own_ray')\n"
        "logger.setLevel(logging.INFO)\n"
        "logger.addFilter(lambda record: told.set() or True)\n"
        "with ray_there(2, 80_000_000):\n"
        f"    print(sorted(each_on_ray(Squares(Path({str(tmp_path)!r})), [1, 2, 3])))\n"
        "    print(told.wait(60))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_TMPDIR": ray_folder}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout == "[(1, 1), (2, 4), (3, 9)]\nTrue\n"
