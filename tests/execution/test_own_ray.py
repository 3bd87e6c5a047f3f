"""A Ray of a run's own has the processes that work on the run, and those of Ray that these need."""

import subprocess
import sys

import pytest
import ray

from pipeline.execution.own_execution import OF_EXECUTION, FixedCluster
from pipeline.execution.own_ray import OF_NODE, replaced

REPLACEMENTS = (*OF_NODE, *OF_EXECUTION)
NOT_NEEDED = ("dashboard/dashboard.py", "monitor.py")
"""Parts of the command lines of the dashboard's server, and of both monitors."""
ACTORS = {"_StatsActor", "AutoscalingCoordinator", "AutoscalingRequester", "ActorLocationTracker"}

RUN = """
import sys
import time

import psutil
import ray
from ray.data import ActorPoolStrategy

from pipeline.execution.cluster import begun, connected, machine_to_start
from pipeline.run.config import AttributeConfig


class Add:
    def __call__(self, batch):
        return {"id": batch["id"] + 1}


def commands():
    for process in psutil.Process().children(recursive=True):
        try:
            yield " ".join(process.cmdline())
        except psutil.Error:
            pass


config = AttributeConfig(manifest="m", model="m", out="o", local_object_store="100MB", local_cpus=2)
print("starts", machine_to_start(config).cpus)
with begun(config):
    # Each is the last thing that a worker does to get ready; the test's own guard ends the wait.
    while sum("decoder_process" in command for command in commands()) < 2:
        time.sleep(0.1)
    print("is to have", machine_to_start(config).cpus)
    with connected(config) as pool:
        print("pool", pool.n_models, pool.may_grow)
        rows = ray.data.range(4).map_batches(Add, compute=ActorPoolStrategy(size=1)).take_all()
        print("rows", sorted(row["id"] for row in rows))
        for command in commands():
            print("process", command)
    print("goes on", ray.is_initialized())
print("goes on", ray.is_initialized())
"""


def test_what_is_replaced_is_there_in_the_ray_that_is_installed():
    for owner, name, _ in REPLACEMENTS:
        assert name in vars(owner), f"{owner.__name__}.{name}: see what starts its process now"


def test_everything_is_as_it_was_after_a_run_that_failed():
    def current():
        return [vars(owner)[name] for owner, name, _ in REPLACEMENTS]

    def fail():
        with replaced(REPLACEMENTS):
            during.extend(current())
            raise ZeroDivisionError

    before, during = current(), []
    with pytest.raises(ZeroDivisionError):
        fail()
    assert during == [replacement for _, _, replacement in REPLACEMENTS]
    assert current() == before


def test_what_a_later_ray_lacks_is_passed_over():
    class Later:
        pass

    with replaced([(Later, "start_monitor", print)]):
        assert not hasattr(Later, "start_monitor")
    assert not hasattr(Later, "start_monitor")


def test_an_execution_has_all_of_the_cluster(monkeypatch):
    there = {"CPU": 3.0, "memory": 5e9, "object_store_memory": 1e9, "node:__internal_head__": 1.0}
    monkeypatch.setattr(ray, "cluster_resources", lambda: there)
    total = FixedCluster().get_total_resources()
    assert (total.cpu, total.memory, total.object_store_memory) == (3, 5e9, 1e9)


@pytest.mark.slow
def test_it_is_there_before_the_run_and_no_process_serves_anything_else(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    script = tmp_path / "run.py"
    script.write_text(RUN)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=300
    )
    lines = done.stdout.splitlines()
    assert "rows [1, 2, 3, 4]" in lines, done.stderr
    assert [line for line in lines if not line.startswith(("rows", "process"))] == [
        *("starts 2", "is to have 2", "pool 2 False"),
        *("goes on True", "goes on False"),
    ]
    processes = [line for line in lines if line.startswith("process")]
    assert any("raylet" in process for process in processes)
    unneeded = (*NOT_NEEDED, *ACTORS)
    assert [p for p in processes if any(part in p for part in unneeded)] == []
