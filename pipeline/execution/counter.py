"""The run's tally as an actor, and the channel to it from the processes of a run."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.execution.metrics import TIMED, RunMetrics
from pipeline.run.tally import Channel, Commit, Fault, Progress, Report, Stage, Tally

_GRACE_S = 10.0
"""For a model to finish its batch and send its metrics, before it is killed."""
_KILL_S = 60.0
"""Only a guard: a killed process is gone at once."""
_REPORT_S = 1.0
"""Between two reports of a process: a run of thousands tells of each clip within two seconds."""


class TallyActor(Tally):
    """The run's tally as a Ray actor.

    It is the one place that knows each shard once and lives as long as the run. So it also keeps
    the metrics' counts, which would be lost with the processes of write tasks.
    """

    def __init__(self, rows_per_shard: int, metrics: RunMetrics, n_pending: int) -> None:
        super().__init__(rows_per_shard)
        self._metrics = metrics
        self._n_pending = n_pending
        self._models: list[ray.actor.ActorHandle] = []
        metrics.set_pending(n_pending)

    def commit(self, commit: Commit) -> bool:
        """Take down a shard; False if it is known already."""
        if is_new := super().commit(commit):
            self._metrics.count_shard(commit.counts, commit.n_bytes)
            self._metrics.set_pending(self._n_pending - self.progress().committed)
        return is_new

    def hold_model_in(self, actor: ray.actor.ActorHandle) -> None:
        """Take down who holds a model."""
        self._models.append(actor)
        self.hold_model()

    def release_models(self) -> list[ray.actor.ActorHandle]:
        """Give those who hold a model, and forget them."""
        models, self._models = self._models, []
        return models


@dataclass(frozen=True)
class ActorChannel(Channel):
    """The way to a `TallyActor`; small, and sent to every process of a run.

    Only what is stored counts: no process fails because the actor that it reports to is lost.
    """

    actor: ray.actor.ActorHandle
    metrics: RunMetrics

    def report(self, report: Report) -> None:
        """Tell what was done, together with what is done in the same second."""
        _reporter(self.actor).add(report)

    def at_work(self) -> AbstractContextManager[None]:
        """While open, the actor hears every second that this process is at work."""
        return _reporter(self.actor).at_work()

    def timed(self, stage: str) -> AbstractContextManager[None]:
        """While open, measure the time of a step or of a part of it."""
        return self.metrics.seconds_of(stage) if stage in TIMED else nullcontext()

    def commit(self, commit: Commit) -> None:
        """Tell of a shard that was committed, and wait until it was heard."""
        with suppress(RayError):
            ray.get(self.actor.commit.remote(commit))

    def fault(self, fault: Fault) -> None:
        """Tell what a step failed on, and wait until it was heard."""
        with suppress(RayError):
            ray.get(self.actor.fault.remote(fault))

    def holds_model(self) -> None:
        """Tell that this process, an actor, holds a model until the pass ends."""
        with suppress(RayError):
            ray.get(self.actor.hold_model_in.remote(ray.get_runtime_context().current_actor))

    def end_pass(self) -> tuple[Fault, ...]:
        """End the pass's models, and give its faults; none if the actor is lost.

        When this returns, the models are gone. Ray Data only drops its handles to them, so the next
        pass's models would start while these still run, and few CPUs would all be taken by models.
        """
        try:
            _end(ray.get(self.actor.release_models.remote()))
            faults: tuple[Fault, ...] = ray.get(self.actor.end_pass.remote())
        except RayError:
            return ()
        return faults

    def progress(self) -> Progress | None:
        """Say how far the run is; None if the actor is lost."""
        try:
            progress: Progress = ray.get(self.actor.progress.remote())
        except RayError:
            return None
        return progress


@contextmanager
def tally_channel(run: str, *, rows_per_shard: int, n_pending: int) -> Iterator[ActorChannel]:
    """While open, there is an actor that counts; gives the channel to it.

    Parameters
    ----------
    run
        Short name of the run, for its metrics.
    """
    metrics = RunMetrics(run)
    # Beside the driver: other nodes may be taken away while the run goes on.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "scheduling_strategy": here}
    actor = ray.remote(TallyActor).options(**options).remote(rows_per_shard, metrics, n_pending)
    try:
        yield ActorChannel(actor, metrics)
    finally:
        # It sends its metrics before it ends.
        actor.__ray_terminate__.remote()


def _end(actors: list[ray.actor.ActorHandle]) -> None:
    """End actors, and wait until they are gone."""
    for actor in actors:
        actor.__ray_terminate__.options(max_task_retries=0).remote()
    # An actor that is ending never answers; that there will be no answer is known once it is gone.
    answers = {actor.__ray_ready__.options(max_task_retries=0).remote(): actor for actor in actors}
    left = _unanswered([*answers], _GRACE_S)
    for answer in left:
        ray.kill(answers[answer])
    _unanswered(left, _KILL_S)


def _unanswered(answers: list[ray.ObjectRef], timeout_s: float) -> list[ray.ObjectRef]:
    if not answers:
        return []
    _, left = ray.wait(answers, num_returns=len(answers), timeout=timeout_s)
    return list(left)


class _Reporter:
    """Gathers what this process has to report, and sends it once a second.

    A thread sends it, so that the process isn't taken for dead during a step of minutes.
    """

    def __init__(self, actor: ray.actor.ActorHandle) -> None:
        self._actor = actor
        self._lock = threading.Condition()
        self._n_steps = 0
        self._is_empty = True
        self._decoded: list[int] = []
        self._explained: list[int] = []
        self._seconds: Counter[Stage] = Counter()
        threading.Thread(target=self._send_for_ever, name="reporter", daemon=True).start()

    def add(self, report: Report) -> None:
        with self._lock:
            self._decoded.extend(report.decoded)
            self._explained.extend(report.explained)
            self._seconds.update(report.seconds)
            self._is_empty = False
            self._lock.notify()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with self._lock:
            self._n_steps += 1
            self._lock.notify()
        try:
            yield
        finally:
            with self._lock:
                self._n_steps -= 1

    def _send_for_ever(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._n_steps or not self._is_empty)
                report = Report(tuple(self._decoded), tuple(self._explained), dict(self._seconds))
                self._decoded.clear()
                self._explained.clear()
                self._seconds.clear()
                self._is_empty = True
            # A report may get lost, so nobody waits for an answer.
            with suppress(RayError):
                self._actor.report.remote(report)
            time.sleep(_REPORT_S)


@lru_cache(maxsize=1)
def _reporter(actor: ray.actor.ActorHandle) -> _Reporter:
    """Return this process's reporter to an actor."""
    return _Reporter(actor)
