"""Processes of a run are killed at random moments: what must be computed again, and what is stored.

A seed draws the moments: so many shards were committed, and a little later; and which process of
a kind is killed. Seeds are drawn from the date (UTC), so that each day tries other moments. A trial
prints its seed, and ``STAA_CHAOS_SEED`` repeats it.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.execution.passes import execute
from pipeline.models.attributor import Attributor
from pipeline.run.job import Limits, real_stages
from pipeline.run.serial import execute_serially
from pipeline.store.shards import write_shard
from tests.support.noting_job import NOTES, note, noted, told_commits
from tests.support.processes import HANG_S, command_of, kill_as, processes_of, wait_until
from tests.support.runs import (
    assert_same_columns,
    objects,
    prepared,
    run_attribute,
    stored_columns,
    write_inputs,
)

ROOT = Path(__file__).parents[2]
N_CLIPS = 96
DAMAGED = {7: "missing", 40: "truncated"}
ROWS_PER_SHARD = 4
N_SHARDS = N_CLIPS // ROWS_PER_SHARD
CPUS = 2
CLIPS_PER_TASK = ROWS_PER_SHARD
"""Frames of a whole shard are less than what `pipeline.execution.backpressure` makes a task of."""
N_WRITERS = 4
MAX_IN_FLIGHT = CLIPS_PER_TASK * ((2 * CPUS + 2) + (2 + N_WRITERS + 1) + 1)
"""Clips that `pipeline.execution.backpressure` lets be decoded or explained, and wait
to be written, with one model: of ``N_CLIPS`` a part. While a model is started again and nothing
runs, Ray Data starts a task beyond that, whatever its policies say."""


def committed(out):
    """Shards whose commit mark is there."""
    marks = (out / "attributions.zarr" / "status" / "c").glob("[0-9]*")
    return {int(mark.name) for mark in marks if mark.name.isdigit()}


def is_agent(pid):
    """Whether a process is one of a node's agents, which go on for a minute without their Ray."""
    command = command_of(pid)
    return any(name in command for name in ("Agent", "agent.py", "agent/main.py"))


@dataclass(frozen=True)
class Victim:
    """A kind of process, and what may be done again when one of it is gone."""

    title: str
    """Part of the process's title or command line."""
    decoded_again: int = 0
    """Clips at most, if the run goes on by itself."""
    explained_again: int = 0
    untold: int = 0
    """Shards at most that were committed by a process that couldn't log it any more."""
    ends_run: bool = False
    latest: int = N_SHARDS // 2
    """Shards that are committed at most when it is killed: there must be something left to do."""


VICTIMS = {
    # While a quarter is committed, not all of the others can be decoded, see `MAX_IN_FLIGHT`.
    "decode worker": Victim(
        "ray::ReadManifestSource", decoded_again=CLIPS_PER_TASK, latest=N_SHARDS // 4
    ),
    "decoder": Victim("-m pipeline.clips.decoder_process"),
    "model": Victim("ray::MapWorker", explained_again=CLIPS_PER_TASK),
    "writer": Victim("ray::Write", untold=1),
    "progress": Victim("ray::TallyActor"),
    "raylet": Victim("raylet/raylet", untold=N_WRITERS, ends_run=True),
    "driver": Victim("-m tests.support.noting_job", untold=N_WRITERS, ends_run=True),
}
TRIALS = range(int(os.environ.get("STAA_CHAOS_TRIALS", "1")))
"""In each, one of each kind is killed; with several, each has another seed."""


def seed_of(trial):
    """Seed of a trial: another one on each day, and for each trial."""
    if given := os.environ.get("STAA_CHAOS_SEED"):
        return int(given)
    return datetime.now(UTC).date().toordinal() * 2 + trial


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Inputs, and the folder of their run, which is the same without Ray."""
    folder = tmp_path_factory.mktemp("undisturbed")
    inputs = write_inputs(folder, N_CLIPS, DAMAGED)
    execute_serially(prepared(inputs.config(folder / "run", rows_per_shard=ROWS_PER_SHARD)))
    return inputs, folder / "run"


@dataclass(frozen=True)
class Trial:
    """One run's folders."""

    out: Path
    notes: Path
    ray_folder: str

    def start(self, inputs):
        flags = inputs.flags(
            self.out,
            f"--rows-per-shard={ROWS_PER_SHARD}",
            f"--local-cpus={CPUS}",
            "--local-object-store=200MB",
            "--log-format=json",
        )
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        with (self.notes / "output").open("a") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.support.noting_job", *flags],
                cwd=ROOT,
                env=environment | {"RAY_TMPDIR": self.ray_folder, NOTES: str(self.notes)},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def output(self):
        return (self.notes / "output").read_text()

    def wait_for(self, condition, job):
        """Wait for what a job does while it runs."""
        wait_until(condition, job, self.output, poll_s=0.005)

    def kill_one(self, title, chance):
        """Kill one of the processes of a title, if there is one."""
        pids = [pid for pid in processes_of(self.ray_folder) if title in command_of(pid)]
        return bool(pids) and kill_as(title, chance.choice(pids))

    def wait_for_the_end(self, job):
        """Wait for a job and its Ray's workers, which follow their driver by themselves."""
        exit_code = job.wait(HANG_S)
        deadline = time.monotonic() + HANG_S
        while left := [pid for pid in processes_of(self.ray_folder) if not is_agent(pid)]:
            assert time.monotonic() < deadline, [command_of(pid) for pid in left]
            time.sleep(0.02)
        return exit_code

    def again(self, what):
        """Clips that were computed more than once, and how often too much."""
        counts = Counter(noted(self.notes, what))
        assert set(counts) == set(range(N_CLIPS))
        return {row: count - 1 for row, count in counts.items() if count > 1}


def kills(chance):
    """Draw after how many committed shards, and how much later, one of each kind is killed."""
    drawn = [(chance.randint(0, VICTIMS[kind].latest), kind) for kind in VICTIMS]
    return [(n, chance.uniform(0, 0.1), kind) for n, kind in sorted(drawn)]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("trial_number", TRIALS)
def test_killed_processes_cost_at_most_what_was_in_flight(
    trial_number, undisturbed, ray_folder, tmp_path
):
    inputs, expected = undisturbed
    seed = seed_of(trial_number)
    chance = random.Random(seed)
    print(f"STAA_CHAOS_SEED={seed}")
    trial = Trial(tmp_path / "run", tmp_path / "notes", ray_folder)
    trial.notes.mkdir()
    in_flight, deaths, earlier = Counter(), Counter(), Counter()

    job = trial.start(inputs)
    for n_committed, delay_s, kind in kills(chance):
        victim = VICTIMS[kind]
        print(f"a {kind} dies {delay_s:.3f} s after {n_committed} shards")
        trial.wait_for(lambda n=n_committed: len(committed(trial.out)) >= n, job)
        time.sleep(delay_s)
        trial.wait_for(lambda title=victim.title: trial.kill_one(title, chance), job)
        deaths[kind] += 1
        if not victim.ends_run:
            continue
        assert trial.wait_for_the_end(job) != 0
        done = committed(trial.out)
        assert n_committed <= len(done) < N_SHARDS
        # What this job began, not what was in flight when an earlier one died.
        decoded = Counter(noted(trial.notes, "decoded"))
        lost = {row for row in decoded - earlier if row // ROWS_PER_SHARD not in done}
        earlier = decoded
        print(f"{len(done)} shards are done, {len(lost)} clips were in flight")
        assert len(lost) <= MAX_IN_FLIGHT < N_CLIPS
        in_flight.update(lost)
        kept = {
            name: content
            for name, content in objects(trial.out).items()
            if int(name.split("/")[2]) in done
        }
        job = trial.start(inputs)
    exit_code = trial.wait_for_the_end(job)
    print(trial.output())
    assert exit_code == 0

    victims = VICTIMS.values()
    assert kept.items() <= objects(trial.out).items()
    for what in ("decoded", "explained"):
        again = Counter(trial.again(what))
        print(f"{what} again: {again.total()}")
        # Once for each death in which it was in flight.
        beyond = again - in_flight
        assert beyond.total() <= sum(getattr(victim, f"{what}_again") for victim in victims)

    assert_same_columns(stored_columns(trial.out), stored_columns(expected))
    failures = pq.read_table(trial.out / "failures.parquet")
    assert failures.equals(pq.read_table(expected / "failures.parquet"))
    commits = told_commits(trial.ray_folder)
    untold = set(range(N_SHARDS)) - commits.keys()
    print(f"untold commits: {len(untold)}")
    assert set(commits.values()) == {1}
    assert len(untold) <= sum(victim.untold for victim in victims)


DEADLY_ROW = 5
"""In the second shard."""


@dataclass(frozen=True)
class Death:
    """Kills the process that calls it, once some shards are committed."""

    notes: Path
    out: Path
    shards: frozenset[int]

    def __call__(self):
        self.wait_for_shards()
        note(self.notes, "deaths", [os.getpid()])
        os.kill(os.getpid(), signal.SIGKILL)

    def count(self):
        return len(noted(self.notes, "deaths"))

    def wait_for_shards(self):
        self.wait_for(lambda: committed(self.out) >= self.shards)

    def wait_for(self, condition):
        deadline = time.monotonic() + HANG_S
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)


class DeadlyLoader:
    def __init__(self, loader, death):
        self._loader, self._death = loader, death

    def __call__(self, rows):
        if DEADLY_ROW in rows["row"]:
            self._death()
        return self._loader(rows)


class LateLoader(DeadlyLoader):
    """Has nothing for the models, behind the first shard, until the first pass's have died."""

    def __call__(self, rows):
        if rows["row"][-1] >= ROWS_PER_SHARD:
            self._death.wait_for(lambda: self._death.count() >= 2)
        return self._loader(rows)


class PatientLoader(DeadlyLoader):
    """Has nothing for the models, behind the first shard, until that one is committed.

    Ray Data lets an actor take its tasks in any order.
    """

    def __call__(self, rows):
        if DEADLY_ROW in rows["row"]:
            self._death.wait_for_shards()
        return self._loader(rows)


class DeadlyAttributor(Attributor):
    def __init__(self, death, **arguments):
        super().__init__(**arguments)
        self._death = death

    def __call__(self, batch):
        if DEADLY_ROW in batch["row"]:
            self._death()
        return super().__call__(batch)


class DeadOnStart(Attributor):
    def __init__(self, death, **arguments):
        death()


class DeadWhenIdle(Attributor):
    def __init__(self, death, **arguments):
        super().__init__(**arguments)
        threading.Thread(target=death, daemon=True).start()


@dataclass(frozen=True)
class DeadlyWrite:
    death: Death

    def __call__(self, group, columns, rows, **known):
        if DEADLY_ROW in rows:
            self.death()
        return write_shard(group, columns, rows, **known)


LOADERS = {"loading": DeadlyLoader, "model": PatientLoader, "idle model": LateLoader}
MODELS = {"model": DeadlyAttributor, "starting model": DeadOnStart, "idle model": DeadWhenIdle}


def deadly_stages(what, death, plan, device, channel):
    stages = real_stages(plan, device, channel)
    if what == "writing":
        stages = replace(stages, write=DeadlyWrite(death))
    if what in LOADERS:
        stages = replace(stages, load=LOADERS[what](stages.load, death))
    if what in MODELS:
        arguments = {**stages.attribute_arguments, "death": death}
        stages = replace(stages, attribute=MODELS[what], attribute_arguments=arguments)
    return stages


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "first"),
    [
        ("loading", {0}),
        ("model", {0}),
        ("starting model", set()),
        ("idle model", {0}),
        ("writing", {0, 2, 3}),
    ],
)
def test_a_process_that_dies_each_time_ends_the_run(finished_run, tmp_path, capsys, what, first):
    """Shards of ``first`` are committed before it dies; others may be, and its own never is."""
    out = tmp_path / "run"
    death = Death(tmp_path, out, frozenset(first))

    stages_of = partial(deadly_stages, what, death)
    once = partial(execute, stages_of=stages_of, limits=Limits(retries=1))
    assert run_attribute(finished_run.inputs.flags(out), once) == 1

    said = capsys.readouterr().err
    print(said)
    done = committed(out)
    assert first <= done <= {0, 2, 3}
    # Passes that commit some of these shards, and one that gets nowhere.
    n_passes = said.count(" shards are left: ")
    assert (2 if first else 1) <= n_passes <= 1 + len(done)
    assert death.count() == 2 * n_passes
    left = set(range(4)) - done
    assert f"{len(left)} of {len(left)} shards are left: " in said
    assert ("the process of a model died, and those started in its place" in said) == (
        what == "idle model"
    )
    # The last shard is a short one.
    n_pending = sum(2 if shard == 3 else 4 for shard in left)
    last = said.splitlines()[-1]
    assert last.startswith(f"attribute: error: {n_pending} rows are pending, since a pass was")
    assert last.endswith("; what was finished is kept, and the same command goes on")
