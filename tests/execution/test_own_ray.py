"""A Ray of a run's own has the processes that work on the run, and those of Ray that these need."""

import subprocess
import sys

import pytest
import ray

from pipeline.execution.own_ray import REPLACEMENTS, FixedCluster, for_one_run

NOT_NEEDED = ("dashboard/dashboard.py", "monitor.py")
"""Parts of the command lines of the dashboard's server, and of both monitors."""
ACTORS = {"_StatsActor", "AutoscalingCoordinator", "AutoscalingRequester", "ActorLocationTracker"}

RUN = """
import sys
from pathlib import Path

import psutil
import ray
from ray.data import ActorPoolStrategy

from pipeline.execution.cluster import connected
from pipeline.run.config import AttributeConfig


class Add:
    def __call__(self, batch):
        return {"id": batch["id"] + 1}


config = AttributeConfig(manifest="m", model="m", out="o", local_object_store="100MB")
with connected(config):
    rows = ray.data.range(4).map_batches(Add, compute=ActorPoolStrategy(size=1)).take_all()
    print("rows", sorted(row["id"] for row in rows))
    for process in psutil.Process().children(recursive=True):
        try:
            print("process", " ".join(process.cmdline()))
        except psutil.Error:
            pass
"""


def test_what_is_replaced_is_there_in_the_ray_that_is_installed():
    for owner, name, _ in REPLACEMENTS:
        assert name in vars(owner), f"{owner.__name__}.{name}: see what starts its process now"


def test_everything_is_as_it_was_after_a_run_that_failed():
    def current():
        return [vars(owner)[name] for owner, name, _ in REPLACEMENTS]

    def fail():
        with for_one_run():
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

    with for_one_run([(Later, "start_monitor", print)]):
        assert not hasattr(Later, "start_monitor")
    assert not hasattr(Later, "start_monitor")


def test_an_execution_has_all_of_the_cluster(monkeypatch):
    there = {"CPU": 3.0, "memory": 5e9, "object_store_memory": 1e9, "node:__internal_head__": 1.0}
    monkeypatch.setattr(ray, "cluster_resources", lambda: there)
    total = FixedCluster().get_total_resources()
    assert (total.cpu, total.memory, total.object_store_memory) == (3, 5e9, 1e9)


@pytest.mark.slow
def test_no_process_serves_anything_else(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    script = tmp_path / "run.py"
    script.write_text(RUN)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=300
    )
    assert "rows [1, 2, 3, 4]" in done.stdout, done.stderr
    processes = [line for line in done.stdout.splitlines() if line.startswith("process")]
    assert any("raylet" in process for process in processes)
    unneeded = (*NOT_NEEDED, *ACTORS)
    assert [p for p in processes if any(part in p for part in unneeded)] == []
