"""How much of a run is in flight: frames between decoding and the models, columns before writing.

Frames are the heavy thing: a clip of 8 frames of 224 x 224 pixels is 1.2 MB, what is stored of it
3.4 KB. Decoded frames lie in Ray's object store until a model has explained them. So a *task*
decodes some whole batches of one shard, `clips_per_task`, and the tasks between the start of their
decoding and the end of their explanation are counted and bounded::

    frames in flight = tasks in flight x clips per task x bytes per clip <= a quarter of the store

That holds whether decoding or the models are slower. Behind the models, the columns of whole shards
wait to be written: as many shards as are written at once, and one more. A store that stalls thus
stops the models, the models stop the decoding, and nothing is spilled to disk.

`InFlight` is also the watchdog, and starts more models where the models bound the run, since Ray
Data keeps asking it whether another task may start.
"""

import time
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray.core.generated.gcs_pb2 import ActorTableData
from ray.data import DataContext

# Ray Data's own policies bound bytes by operator, and hold back CPUs for operators that need none.
# The interface is internal to Ray, but the only one there is; `execute` fails where it is gone.
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)
from ray.exceptions import RayError

from pipeline.execution.counter import ActorChannel
from pipeline.run.resources import FRAMES_SHARE, MIN_TASKS, ModelPool

_WATCH_S = 5.0
"""Between two looks at who is at work."""
_WAIT_S = 1.0
"""Between two looks at models that are starting."""
_UNHEARD = 6
"""Once the tally is lost nobody hears who is at work. An execution may then go for this many times
``stall_s`` without a task that ends."""
_BUSY_S = 5.0
"""Time for which frames must have waited for every model before one more is started. What was
decoded while the first was being loaded waits for it, too, however fast it is."""
_UNWRITTEN_S = 10.0
"""Time for which more columns must have waited than there are writers before twice as many may
write. The process of the first writer is started in less."""


# Ray's types aren't followed, here as elsewhere: its classes are `Any`.
class StalledError(RayError):  # type: ignore[misc]
    """Nothing was in flight for too long, though there was something to do."""


class InFlight(BackpressurePolicy):  # type: ignore[misc]
    """Bounds what is between decoding and models, and between models and the storage, by counts.

    Takes the place of Ray Data's own policies in an execution of three operators: one that decodes,
    one that explains, and one that writes.

    Parameters
    ----------
    task_bytes
        Frames of one task.
    tasks_per_shard
        Tasks whose columns make a shard.
    channel
        To the tally, which hears of everyone who is at work.
    stall_s
        Time after which an execution that nobody works on is broken off.
    """

    def __init__(
        self,
        task_bytes: int,
        tasks_per_shard: int,
        pool: ModelPool,
        channel: ActorChannel,
        stall_s: float,
        data_context: DataContext,
        topology: Any,
        resource_manager: Any,
    ) -> None:
        super().__init__(data_context, topology, resource_manager)
        # In front of them are the inputs.
        _, self._load, self._attribute, self._write = topology
        self._task_bytes = task_bytes
        self._pool = pool
        self._channel, self._stall_s = channel, stall_s
        self._watched_at_s = time.monotonic()
        self._unfed_at_s = self._watched_at_s
        self._n_writers, self._written_at_s = 1, self._watched_at_s
        self._n_ended, self._ended_at_s = 0, self._watched_at_s
        # What is gathered isn't counted: as many tasks of each shard that is being written.
        self._max_unwritten = 2 * pool.n_models + pool.n_writers + tasks_per_shard

    def can_add_input(self, op: Any) -> bool:
        """Whether an operator may start another task."""
        self._watch()
        self._add_writers()
        if op is self._load:
            self._add_a_model()
            if op.metrics.num_tasks_running and not self._leaves_a_cpu():
                return False
            explained = self._attribute.metrics.num_tasks_finished
            if op.metrics.num_tasks_submitted - explained < self._max_tasks():
                return True
            self._wait_for_a_model()
            return False
        if op is self._attribute:
            self._check_models()
            return not self._is_held_up()
        if op is self._write:
            return bool(op.metrics.num_tasks_running < self._n_writers)
        return True

    def _leaves_a_cpu(self) -> bool:
        """Whether a CPU is free of decoding while the first model is being loaded.

        The first shard is there sooner then: loading is a core's work for seconds, and what is
        decoded beyond a shard meanwhile waits for it.
        """
        if self._attribute.get_actor_info().running:
            return True
        n_cpus = int(self._resource_manager.get_global_limits().cpu)
        return bool(self._load.metrics.num_tasks_running < n_cpus - 1)

    def _add_a_model(self) -> None:
        """Start another model if frames have waited for all models that are running.

        Ray Data's own scaling would start all of them while the first is being loaded.
        """
        (models,) = self._attribute.get_autoscaling_actor_pools()
        n_waiting = (
            self._load.metrics.num_tasks_finished - self._attribute.metrics.num_tasks_finished
        )
        is_fed = models.num_running_actors() and n_waiting > models.current_size()
        now_s = time.monotonic()
        if not is_fed or models.num_pending_actors() or self._is_held_up():
            self._unfed_at_s = now_s
        elif now_s - self._unfed_at_s > _BUSY_S and models.current_size() < self._pool.n_models:
            size = models.current_size() + 1
            models._config = replace(
                models._config, min_size=size, max_size=size, initial_size=size
            )
            self._unfed_at_s = now_s

    def _add_writers(self) -> None:
        """Let one write for each model at first, and more where columns wait for long.

        Most writes only hand over their columns, which is done at once, and Ray starts a process,
        which takes seconds of CPU, for each that doesn't find a free one.
        """
        (models,) = self._attribute.get_autoscaling_actor_pools()
        self._n_writers = max(self._n_writers, models.num_running_actors())
        explained = self._attribute.metrics.num_tasks_finished
        n_waiting, now_s = explained - self._write.metrics.num_tasks_submitted, time.monotonic()
        if n_waiting <= self._n_writers:
            self._written_at_s = now_s
        elif now_s - self._written_at_s > _UNWRITTEN_S:
            self._n_writers = min(2 * self._n_writers, self._pool.n_writers)
            self._written_at_s = now_s

    def _is_held_up(self) -> bool:
        """Whether the models wait for the storage."""
        written = self._write.metrics.num_task_inputs_processed
        return bool(self._attribute.metrics.num_tasks_submitted - written >= self._max_unwritten)

    def _watch(self) -> None:
        """Break off an execution that nobody works on: Ray Data would wait for ever."""
        now_s = time.monotonic()
        if now_s - self._watched_at_s < _WATCH_S:
            return
        self._watched_at_s = now_s
        progress = self._channel.progress()
        if progress is None:
            silent_s, limit_s = self._unmoved_s(now_s), _UNHEARD * self._stall_s
        else:
            silent_s, limit_s = progress.silent_s, self._stall_s
        if silent_s > limit_s:
            free = ray.available_resources()
            raise StalledError(
                f"nobody has worked on the run for {silent_s:.0f} s: of "
                f"{ray.cluster_resources().get('CPU', 0):g} CPUs {free.get('CPU', 0):g} are free"
            )

    def _unmoved_s(self, now_s: float) -> float:
        """Time for which no task has ended, s."""
        operators = (self._load, self._attribute, self._write)
        n_ended = sum(operator.metrics.num_tasks_finished for operator in operators)
        if n_ended != self._n_ended:
            self._n_ended, self._ended_at_s = n_ended, now_s
        return now_s - self._ended_at_s

    def _wait_for_a_model(self) -> None:
        """Hold the execution until a model is there, if there is none yet.

        Ray Data takes an execution without running tasks to be stuck, and starts a task whatever
        its policies say, so decoding would go on for as long as the models are being loaded.
        """
        if not self._attribute.get_actor_info().running:
            starting = [task.get_waitable() for task in self._attribute.get_active_tasks()]
            while starting and not ray.wait(starting, num_returns=1, timeout=_WAIT_S)[0]:
                self._watch()
            self._unfed_at_s = time.monotonic()

    def _check_models(self) -> None:
        """Fail if a model died while it had nothing to do and won't be started again.

        Ray Data notices that a model is gone only by the tasks that fail with it. Without such a
        task it believes that the model is there, and waits for it.
        """
        (pool,) = self._attribute.get_autoscaling_actor_pools()
        for actor, state in pool._running_actors.items():
            if not state.num_tasks_in_flight and actor._get_local_state() == ActorTableData.DEAD:
                raise RayError("the process of a model died, and those started in its place, too")

    def _max_tasks(self) -> int:
        """Tasks whose frames may be in flight on the cluster as large as it is now."""
        limits = self._resource_manager.get_global_limits()
        # For each CPU one task that is decoded and one that waits, so that no CPU is ever idle.
        n_useful = 2 * int(limits.cpu) + 2 * self._pool.n_models
        return max(MIN_TASKS, min(n_useful, int(limits.object_store_memory) // self._task_bytes))


def bound_in_flight(
    context: DataContext,
    *,
    task_bytes: int,
    tasks_per_shard: int,
    pool: ModelPool,
    channel: ActorChannel,
    stall_s: float,
) -> None:
    """Have executions of a context bounded by `InFlight`, and by nothing else."""
    context.op_resource_reservation_enabled = False
    context.override_object_store_memory_limit_fraction = FRAMES_SHARE
    context.set_config(
        ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
        [partial(InFlight, task_bytes, tasks_per_shard, pool, channel, stall_s)],
    )
