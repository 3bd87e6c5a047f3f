"""What is in flight stays bounded, whichever of decoding, model and storage is the slowest.

Loader, model and sink are stand-ins whose turns are controlled by counts of files, not by time;
plan, source, graph, store and Ray are the real ones.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address
from ray.data import DataContext

from pipeline.clips.columns import Columns
from pipeline.errors import ConfigError
from pipeline.execution.backpressure import InFlight, StalledError
from pipeline.execution.passes import execute
from pipeline.run.config import AttributeConfig
from pipeline.run.plan import plan_run
from pipeline.run.resources import (
    FRAMES_SHARE,
    Machine,
    ModelPool,
)
from pipeline.run.steps import Stages
from pipeline.store.opening import open_store
from pipeline.store.shards import write_shard
from tests.benchmarks.orchestration import write_stand_in_manifest
from tests.benchmarks.stand_ins import StandInAttributor, StandInLoader
from tests.support.checkpoints import save_timesformer
from tests.support.runs import prepared

HANG_S = 120
"""Only a guard: what takes this long is stuck."""
N_ROWS = 160
BATCH_SIZE = 4
CLIP_BYTES = 8 * 224 * 224 * 3


def test_frames_that_no_object_store_would_hold_are_refused_before_a_store_is_made(tmp_path):
    write_stand_in_manifest(tmp_path / "m.parquet", 3)
    model = save_timesformer(tmp_path / "model", image_size=224, patch_size=32, num_frames=8)
    config = AttributeConfig(
        manifest=str(tmp_path / "m.parquet"),
        model=str(model),
        out=str(tmp_path / "run"),
        batch_size=64,
        local_object_store="100MB",
    )
    refused = (
        r"batch_size: 3 batches of 64 clips of 1.2 MB are 231 MB of frames, more than 25% of an "
        r"object store of 100 MB; choose a batch_size of 6 at most, or .* of 925 MB or more"
    )
    with pytest.raises(ConfigError, match=refused):
        plan_run(config, machine=Machine(cpus=2, gpus=0))
    assert not (tmp_path / "run").exists()


@dataclass(frozen=True)
class Counts:
    """Counts of tasks by kind, as files that every process sees."""

    folder: Path

    def add(self, kind: str, row: int) -> None:
        (self.folder / f"{kind}-{row}").touch()

    def of(self, kind: str) -> int:
        return sum(1 for _ in self.folder.glob(f"{kind}-*"))

    def note_in_flight(self, kind: str, begun: str, ended: str, row: int) -> None:
        """Note how many had begun and not ended; never more than there are, as it is read."""
        n_begun = self.of(begun)
        (self.folder / f"{kind}={n_begun - self.of(ended)}-{row}").touch()

    def most_in_flight(self, kind: str) -> int:
        found = self.folder.glob(f"{kind}=*")
        return max(int(path.name.split("=")[1].split("-")[0]) for path in found)

    def wait_for(self, kind: str, n: int) -> None:
        deadline = time.monotonic() + HANG_S
        while self.of(kind) < n:
            assert time.monotonic() < deadline, f"{self.of(kind)} of {n} {kind}"
            time.sleep(0.02)


@dataclass(frozen=True)
class CountedStandInLoader:
    counts: Counts
    seconds: float
    """Time that a task takes, asleep. To wait for the tasks before it could be for ever: Ray starts
    tasks in an order of its own."""

    def __call__(self, rows: Columns) -> Columns:
        row = int(rows["row"][0])
        self.counts.add("loaded", row)
        self.counts.note_in_flight("frames", "loaded", "explained", row)
        return StandInLoader(n_frames=8, frame_pixels=224, seconds=self.seconds)(rows)


class CountedStandInAttributor(StandInAttributor):
    def __init__(self, layout, counts: Counts, wait_for_loaded: int) -> None:
        super().__init__(layout)
        self._counts = counts
        self._wait_for_loaded = wait_for_loaded

    def __call__(self, batch: Columns) -> Columns:
        row = int(batch["row"][0])
        self._counts.add("begun", row)
        self._counts.note_in_flight("columns", "begun", "written", row)
        self._counts.wait_for("loaded", self._wait_for_loaded)
        if self._wait_for_loaded and not (self._counts.folder / "bytes").exists():
            # The first batch, whichever: nothing was freed yet, so this is all that was decoded.
            used = object_store().object_store_bytes_used
            (self._counts.folder / "bytes").write_text(str(used))
        columns = super().__call__(batch)
        self._counts.add("explained", row)
        return columns


@dataclass(frozen=True)
class StallingWrite:
    """A store that stalls: takes no shard until so many tasks were explained."""

    counts: Counts
    wait_for_explained: int

    def __call__(self, group, columns, rows, **known):
        self.counts.wait_for("explained", self.wait_for_explained)
        written = write_shard(group, columns, rows, **known)
        # A task is a batch.
        for row in rows[::BATCH_SIZE].tolist():
            self.counts.add("written", row)
        return written


def object_store():
    """What Ray's object store holds, and what it has spilled to disk so far, as Ray counts it."""
    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    return get_memory_info_reply(state).store_stats


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backpressure")
    write_stand_in_manifest(folder / "m.parquet", N_ROWS)
    model = save_timesformer(folder / "model", image_size=224, patch_size=32, num_frames=8)
    return {"manifest": str(folder / "m.parquet"), "model": str(model)}


@pytest.mark.slow
@pytest.mark.parametrize("slowest", ["model", "decoding", "store"])
def test_frames_and_columns_in_flight_are_bounded_and_nothing_is_spilled(
    slowest, inputs, local_ray, tmp_path
):
    plan, counts = planned(inputs, tmp_path, n_models=1)
    store_bytes = ray.cluster_resources()["object_store_memory"]
    task_bytes = BATCH_SIZE * CLIP_BYTES
    assert plan.checkpoint.geometry.clip_bytes == CLIP_BYTES
    # A quarter of the store holds fewer tasks than all that 8 CPUs and a model could use.
    most_frames = int(FRAMES_SHARE * store_bytes) // task_bytes
    assert most_frames < 2 * 8 + 2
    # A shard is two tasks; four shards are written and one waits, and the model has two.
    most_columns = 2 + 2 * (4 + 1)
    assert 2 * FRAMES_SHARE * store_bytes < N_ROWS * CLIP_BYTES
    before = object_store()

    def stages_of(plan, device, channel):
        return Stages(
            load=CountedStandInLoader(counts, seconds=0.5 if slowest == "decoding" else 0),
            attribute=CountedStandInAttributor,
            attribute_arguments={
                "layout": plan.layout,
                "counts": counts,
                "wait_for_loaded": most_frames if slowest == "model" else 0,
            },
            attribute_bytes=500_000_000,
            write=StallingWrite(counts, most_columns if slowest == "store" else 0),
        )

    summary = execute(plan, stages_of=stages_of)

    assert summary.n_pending == 0
    n_tasks = N_ROWS // BATCH_SIZE
    assert [counts.of(kind) for kind in ("loaded", "explained", "written")] == [n_tasks] * 3
    assert counts.most_in_flight("frames") <= most_frames
    # A task that is held up leaves the others of its shard behind, for each of 8 CPUs at the most.
    assert counts.most_in_flight("columns") <= most_columns + 8
    if slowest == "model":
        assert counts.most_in_flight("frames") == most_frames
        used = int((counts.folder / "bytes").read_text()) - before.object_store_bytes_used
        # Blocks hold a little beside their frames.
        assert used <= 1.01 * most_frames * task_bytes
    if slowest == "store":
        assert counts.most_in_flight("columns") >= most_columns
    assert object_store().spilled_bytes_total == before.spilled_bytes_total
    np.testing.assert_array_equal(np.unique(plan_rows(plan)), np.arange(N_ROWS))


@dataclass(frozen=True)
class HangingLoader:
    """Loads a clip of the first shard for as long as other shards are missing from the store."""

    counts: Counts

    def __call__(self, rows: Columns) -> Columns:
        if 0 in rows["row"]:
            self.counts.wait_for("written", (N_ROWS - 8) // BATCH_SIZE)
        return StandInLoader(n_frames=8, frame_pixels=224)(rows)


@pytest.mark.slow
def test_a_clip_that_hangs_holds_up_its_own_shard_alone(inputs, local_ray, tmp_path):
    plan, counts = planned(inputs, tmp_path, n_models=1)

    def stages_of(plan, device, channel):
        return Stages(
            load=HangingLoader(counts),
            attribute=StandInAttributor,
            attribute_arguments={"layout": plan.layout},
            attribute_bytes=500_000_000,
            write=StallingWrite(counts, 0),
        )

    assert execute(plan, stages_of=stages_of).n_pending == 0
    np.testing.assert_array_equal(plan_rows(plan), np.arange(N_ROWS))


class AttributorThatWaitsForAnother(StandInAttributor):
    """Explains nothing until there is another one in another process."""

    def __init__(self, layout, counts: Counts) -> None:
        super().__init__(layout)
        self._counts = counts
        counts.add("model", os.getpid())

    def __call__(self, batch: Columns) -> Columns:
        self._counts.wait_for("model", 2)
        return super().__call__(batch)


@pytest.mark.slow
def test_another_model_is_started_where_frames_wait_for_the_first(inputs, local_ray, tmp_path):
    plan, counts = planned(inputs, tmp_path)

    def stages_of(plan, device, channel):
        return Stages(
            load=StandInLoader(n_frames=8, frame_pixels=224),
            attribute=AttributorThatWaitsForAnother,
            attribute_arguments={"layout": plan.layout, "counts": counts},
            attribute_bytes=500_000_000,
        )

    assert execute(plan, stages_of=stages_of).n_pending == 0
    assert 2 <= counts.of("model") <= 8


def planned(inputs, tmp_path, **options):
    """A prepared run of small shards, and what counts its steps."""
    sizes = {"batch_size": BATCH_SIZE, "rows_per_shard": 8}
    counts = Counts(tmp_path / "counts")
    counts.folder.mkdir()
    return prepared(
        AttributeConfig(**inputs, out=str(tmp_path / "run"), **sizes, **options)
    ), counts


def plan_rows(plan):
    """Rows that have their commit mark."""
    return np.flatnonzero(open_store(plan.store_url).array("status")[:])


class Lost:
    """A channel to a tally that is gone."""

    def progress(self):
        return None


def test_a_run_whose_tally_is_lost_is_ended_too_once_no_task_ends_any_more(local_ray, monkeypatch):
    metrics = [SimpleNamespace(metrics=SimpleNamespace(num_tasks_finished=0)) for _ in range(4)]
    pool = ModelPool("cpu", 1, 1)
    bound = InFlight(1, 1, pool, Lost(), 1.5, DataContext.get_current(), metrics, None)
    now_s = time.monotonic()
    for later_s, n_ended in ((6, 1), (12, 2), (18, 2)):
        metrics[1].metrics.num_tasks_finished = n_ended
        monkeypatch.setattr(time, "monotonic", lambda at=now_s + later_s: at)
        bound._watch()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + 24)
    with pytest.raises(StalledError, match="nobody has worked on the run for 12 s"):
        bound._watch()


class Clock:
    """Time as a test sets it."""

    def __init__(self, monkeypatch):
        self.now_s = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)


def operators(n_running=1):
    """Inputs and three operators, as `InFlight` sees them, with models that are running."""
    models = SimpleNamespace(
        num_running_actors=lambda: n_running,
        num_pending_actors=lambda: 0,
        current_size=lambda: models._config.max_size,
        _config=PoolSizes(n_running, n_running, n_running),
    )
    return models, [
        SimpleNamespace(
            metrics=SimpleNamespace(
                num_tasks_finished=0,
                num_tasks_running=0,
                num_tasks_submitted=0,
                num_task_inputs_processed=0,
            ),
            get_autoscaling_actor_pools=lambda: [models],
            get_actor_info=lambda: SimpleNamespace(running=0),
            get_active_tasks=list,
        )
        for _ in range(4)
    ]


@dataclass(frozen=True)
class PoolSizes:
    min_size: int
    max_size: int
    initial_size: int


def test_writers_are_as_many_as_models_at_first_and_double_while_columns_wait(monkeypatch):
    clock = Clock(monkeypatch)
    _, topology = operators(n_running=2)
    _, _, explained, writes = (operator.metrics for operator in topology)
    pool = ModelPool("cpu", 5, 1)
    bound = InFlight(1, 1, pool, Lost(), 300, DataContext.get_current(), topology, None)

    def n_writers(later_s, n_waiting):
        """Writes that run, of which some have ended meanwhile."""
        clock.now_s += later_s
        bound._watched_at_s = clock.now_s
        writes.num_tasks_running = 0
        explained.num_tasks_finished = writes.num_tasks_submitted + n_waiting
        while bound.can_add_input(topology[3]):
            writes.num_tasks_running += 1
        return writes.num_tasks_running

    # Few wait, or for a short time.
    assert [n_writers(*each) for each in ((0, 9), (9, 9), (9, 2), (9, 9), (9, 2))] == [2] * 5
    # Each look finds a free writer, and still more wait than there are.
    assert [n_writers(6, 9) for _ in range(7)] == [2, 4, 4, 5, 5, 5, 5]


def test_what_waited_for_a_models_loading_starts_no_other_at_once(monkeypatch):
    clock = Clock(monkeypatch)
    models, topology = operators()
    topology[1].metrics.num_tasks_finished = 6
    pool = ModelPool("cpu", 2, 1)
    bound = InFlight(1, 1, pool, Lost(), 300, DataContext.get_current(), topology, None)
    clock.now_s += 60  # The first model is loaded.
    bound._wait_for_a_model()
    for later_s, expected in ((0, 1), (4, 1), (2, 2)):
        clock.now_s += later_s
        bound._add_a_model()
        assert models.current_size() == expected


@pytest.mark.parametrize(("n_cpus", "n_at_first"), [(1, 1), (2, 1), (8, 7)])
def test_a_cpu_is_left_to_the_first_model_while_it_is_loaded(n_cpus, n_at_first):
    _, topology = operators()
    decoding, explaining = topology[1], topology[2]
    limits = SimpleNamespace(cpu=n_cpus, object_store_memory=1_000)
    resources = SimpleNamespace(get_global_limits=lambda: limits)
    pool = ModelPool("cpu", 1, 1)
    bound = InFlight(1, 1, pool, Lost(), 300, DataContext.get_current(), topology, resources)

    def n_decoding():
        """Tasks that are started, of which none ends."""
        while bound.can_add_input(decoding):
            decoding.metrics.num_tasks_running += 1
            decoding.metrics.num_tasks_submitted += 1
        return decoding.metrics.num_tasks_running

    assert n_decoding() == n_at_first
    explaining.get_actor_info = lambda: SimpleNamespace(running=1)
    assert n_decoding() == 2 * n_cpus + 2 * pool.n_models
