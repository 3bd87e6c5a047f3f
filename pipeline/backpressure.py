"""How much of a run is in flight: frames between decoding and the models, columns before writing.

Frames are the heavy thing: a clip of 8 frames of 224 x 224 pixels is 1.2 MB, what is stored of it
3.4 KB. Decoded frames lie in Ray's object store until a model has explained them. So a *task*
decodes some whole batches of one shard, `clips_per_task`, and the tasks between the start of their
decoding and the end of their explanation are counted and bounded::

    frames in flight = tasks in flight x clips per task x bytes per clip <= a quarter of the store

That holds whichever is slower. Behind the models the columns of whole shards wait to be written: as
many as are written at once and one more. A store that stalls thereby stops the models, these stop
the decoding, and nothing is spilled to disk.
"""

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

from pipeline.config import AttributeConfig
from pipeline.errors import ConfigError

FRAMES_SHARE = 0.25
"""Share of the object store that frames in flight may take."""
TASK_BYTES = 32_000_000
"""Frames of one task, if they fit: so many that what Ray does for a task is small beside them."""
MIN_TASKS = 3
"""Frames of so many tasks are held at the least: one is decoded, one waits, one is explained."""
_MIN_WRITERS = 4


def clips_per_task(
    config: AttributeConfig, *, clip_bytes: int, cpus: float, n_models: int, store_bytes: int
) -> int:
    """Clips that a task decodes: whole batches of one shard.

    As many as give `TASK_BYTES`, but fewer where the object store would not hold one task for each
    CPU and two for each model.

    Parameters
    ----------
    clip_bytes
        Of a clip's frames as the model takes them, uint8.
    store_bytes
        Of Ray's object store, over all nodes.

    Raises
    ------
    ConfigError
        If the frames of `MIN_TASKS` batches don't fit into `FRAMES_SHARE` of the object store.
    """
    budget = int(store_bytes * FRAMES_SHARE)
    batch_bytes = config.batch_size * clip_bytes
    if MIN_TASKS * batch_bytes > budget:
        raise ConfigError(
            f"batch_size: {MIN_TASKS} batches of {config.batch_size} clips of "
            f"{clip_bytes / 1e6:.1f} MB are {MIN_TASKS * batch_bytes / 1e6:.0f} MB of frames, more "
            f"than {FRAMES_SHARE:.0%} of an object store of {store_bytes / 1e6:.0f} MB; choose a "
            f"batch_size of {budget // MIN_TASKS // clip_bytes} at most, or an object store "
            f"(local_object_store) of {MIN_TASKS * batch_bytes / FRAMES_SHARE / 1e6:.0f} MB or more"
        )
    n_wanted = max(MIN_TASKS, int(cpus) + 2 * n_models)
    n_batches = max(1, min(TASK_BYTES, budget // n_wanted) // batch_bytes)
    batches_per_shard = config.rows_per_shard // config.batch_size
    # The tasks of a shard are about equal.
    n_tasks = -(-batches_per_shard // n_batches)
    return -(-batches_per_shard // n_tasks) * config.batch_size


def check_columns(
    config: AttributeConfig, *, row_bytes: int, n_models: int, store_bytes: int
) -> None:
    """Refuse shards of which those behind the models don't fit beside the frames.

    Parameters
    ----------
    row_bytes
        Of what is stored of a clip, see `StoreLayout.row_bytes`.

    Raises
    ------
    ConfigError
        If they are more than another `FRAMES_SHARE` of the object store.
    """
    n_shards = max(_MIN_WRITERS, n_models) + 1
    n_bytes = n_shards * config.rows_per_shard * row_bytes
    if n_bytes > store_bytes * FRAMES_SHARE:
        fitting = int(store_bytes * FRAMES_SHARE) // (n_shards * row_bytes)
        raise ConfigError(
            f"rows_per_shard: {n_shards} shards of {config.rows_per_shard} rows of "
            f"{row_bytes / 1e6:.2f} MB are {n_bytes / 1e6:.0f} MB behind the models, more than "
            f"{FRAMES_SHARE:.0%} of an object store of {store_bytes / 1e6:.0f} MB; choose "
            f"rows_per_shard of {fitting} at most, fewer layers or no heads, or an object store "
            f"(local_object_store) of {n_bytes / FRAMES_SHARE / 1e6:.0f} MB or more"
        )


def fit_into_store(
    config: AttributeConfig,
    *,
    clip_bytes: int,
    row_bytes: int,
    cpus: float,
    n_models: int,
    store_bytes: int,
) -> int:
    """Clips that a task decodes, of a run whose frames and columns fit into the object store.

    Raises
    ------
    ConfigError
        As `clips_per_task` and `check_columns` say.
    """
    n_clips = clips_per_task(
        config, clip_bytes=clip_bytes, cpus=cpus, n_models=n_models, store_bytes=store_bytes
    )
    check_columns(config, row_bytes=row_bytes, n_models=n_models, store_bytes=store_bytes)
    return n_clips


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
    """

    def __init__(
        self,
        task_bytes: int,
        tasks_per_shard: int,
        n_models: int,
        data_context: DataContext,
        topology: Any,
        resource_manager: Any,
    ) -> None:
        super().__init__(data_context, topology, resource_manager)
        # In front of them are the inputs.
        _, self._load, self._attribute, self._write = topology
        self._task_bytes = task_bytes
        self._n_models = n_models
        self._n_writers = max(_MIN_WRITERS, n_models)
        self._max_unwritten = 2 * n_models + tasks_per_shard * (self._n_writers + 1)

    def can_add_input(self, op: Any) -> bool:
        """Whether an operator may start another task."""
        if op is self._load:
            explained = self._attribute.metrics.num_tasks_finished
            if op.metrics.num_tasks_submitted - explained < self._max_tasks():
                return True
            self._wait_for_a_model()
            return False
        if op is self._attribute:
            self._check_models()
            written = self._write.metrics.num_task_inputs_processed
            return bool(op.metrics.num_tasks_submitted - written < self._max_unwritten)
        if op is self._write:
            return bool(op.metrics.num_tasks_running < self._n_writers)
        return True

    def _wait_for_a_model(self) -> None:
        """Hold the execution until a model is there, if there is none yet.

        Ray Data takes an execution without running tasks for stuck, and starts one whatever its
        policies say: decoding would go on all the while that the models are loaded.
        """
        if not self._attribute.get_actor_info().running:
            starting = [task.get_waitable() for task in self._attribute.get_active_tasks()]
            if starting:
                ray.wait(starting, num_returns=1)

    def _check_models(self) -> None:
        """Fail if a model died while it had nothing to do, and isn't started again any more.

        Ray Data tells of a model that is gone by the tasks that go with it; else it takes it for
        one that is there, and waits for it.
        """
        (pool,) = self._attribute.get_autoscaling_actor_pools()
        for actor, state in pool._running_actors.items():
            if not state.num_tasks_in_flight and actor._get_local_state() == ActorTableData.DEAD:
                raise RayError("the process of a model died, and those started in its place, too")

    def _max_tasks(self) -> int:
        """Tasks whose frames may be in flight on the cluster as it is now; it may grow."""
        limits = self._resource_manager.get_global_limits()
        # One that is decoded and one that waits for each CPU, so that none is ever idle.
        n_useful = 2 * int(limits.cpu) + 2 * self._n_models
        return max(MIN_TASKS, min(n_useful, int(limits.object_store_memory) // self._task_bytes))


def bound_in_flight(
    context: DataContext, *, task_bytes: int, tasks_per_shard: int, n_models: int
) -> None:
    """Have executions of a context bounded by `InFlight`, and by nothing else."""
    context.op_resource_reservation_enabled = False
    context.override_object_store_memory_limit_fraction = FRAMES_SHARE
    context.set_config(
        ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
        [partial(InFlight, task_bytes, tasks_per_shard, n_models)],
    )
