"""A planned run carried out on Ray, to a complete store.

Ray Data decodes batches of manifest rows in CPU tasks, explains them in a pool of actors that hold
the model, gathers the rows into shards in order, and writes each shard once.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from pipeline.attributor import Attributor
from pipeline.backpressure import bound_in_flight, clips_per_task
from pipeline.cluster import ModelPool, connected
from pipeline.load import ClipLoader, Columns
from pipeline.plan import Plan
from pipeline.progress import shown_progress
from pipeline.sink import ShardSink
from pipeline.source import ManifestSource
from pipeline.store import StoreLayout, open_store, pending_shards
from pipeline.summary import RunSummary, summarise, write_failures

_LOGGER = logging.getLogger(__name__)
_PROCESS_BYTES = 1_000_000_000
"""Memory of a process that has loaded torch, with room for the frames of a batch."""


_BATCHES_PER_PASS = 100_000
"""Ray Data plans the tasks of a pass at once and keeps something of each, about 10 KB in the
driver, until the pass ends. Each pass starts the models anew."""


@dataclass(frozen=True)
class Stages:
    """What is done to a batch: first in a task, then in an actor that holds the model."""

    load: Callable[[Columns], Columns]
    """Manifest rows to frames, as `ClipLoader`."""
    attribute: type
    """Class of the actors, whose calls take what ``load`` gives to columns, as `Attributor`."""
    attribute_arguments: Mapping[str, Any]
    """Keyword arguments of ``attribute``."""
    attribute_bytes: int
    """Memory of an actor's process, reserved."""


def real_stages(plan: Plan, pool: ModelPool) -> Stages:
    """Decode and attribute, as the plan says."""
    config, checkpoint = plan.config, plan.checkpoint
    return Stages(
        load=ClipLoader(
            root=plan.manifest.root,
            sampling=plan.sampling,
            preprocessing=checkpoint.preprocessing,
            input_size=checkpoint.geometry.input_size,
            class_of_label=plan.class_of_label,
        ),
        attribute=Attributor,
        attribute_arguments={
            "checkpoint": checkpoint,
            "method": config.method,
            "device": pool.device,
            "precision": config.precision,
            "n_threads": max(1, int(config.cpus_per_model)),
            "n_ranks": plan.layout.n_ranks,
        },
        # For the weights, as read and as loaded.
        attribute_bytes=_PROCESS_BYTES + 2 * checkpoint.weights_bytes,
    )


def execute(
    plan: Plan, *, stages_of: Callable[[Plan, ModelPool], Stages] = real_stages
) -> RunSummary:
    """Attribute every shard that is pending, and say what became of every row.

    Starts Ray on this machine unless ``RAY_ADDRESS`` names a cluster, as it does in a Ray job.

    Parameters
    ----------
    stages_of
        Gives the stages of a plan; benchmarks bring stand-ins.
    """
    shards = pending_shards(open_store(plan.store_url))
    seconds = 0.0
    if len(shards):
        started = time.monotonic()
        with connected(plan.config) as pool:
            _attribute_in_passes(plan, shards, pool, stages_of(plan, pool))
        seconds = time.monotonic() - started
    group: Any = open_store(plan.store_url)
    status = group["status"][:]
    write_failures(plan.config.out, group, status, plan.manifest)
    return summarise(status, seconds=seconds)


def _attribute_in_passes(
    plan: Plan, shards: NDArray[np.int64], pool: ModelPool, stages: Stages
) -> None:
    """Go on where a pass ended, or was broken off, by a storage that failed for example."""
    config, layout = plan.config, plan.layout
    shards_per_pass = max(1, _BATCHES_PER_PASS * config.batch_size // config.rows_per_shard)
    n_pending = sum(len(layout.shard_rows(int(shard))) for shard in shards)
    with shown_progress(layout.n_rows, layout.n_rows - n_pending) as counter:
        while len(shards):
            try:
                _attribute(plan, shards[:shards_per_pass], pool, stages, counter)
                shards = shards[shards_per_pass:]
            except RayError as error:
                left = pending_shards(open_store(plan.store_url))
                reason = str(error).strip().splitlines()[-1]
                _LOGGER.warning("%d of %d shards are left: %s", len(left), len(shards), reason)
                if len(left) == len(shards):
                    _LOGGER.debug("the pass got nowhere", exc_info=error)
                    return
                shards = left


def _attribute(
    plan: Plan,
    shards: NDArray[np.int64],
    pool: ModelPool,
    stages: Stages,
    counter: ray.actor.ActorHandle,
) -> None:
    config = plan.config
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    # A task gives one block, however large: batches would not be what they are if it were cut.
    context.target_max_block_size = None
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # It warns that its progress bars are off; ours is shown in their place.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    resources = ray.cluster_resources()
    clip_bytes = plan.clip_bytes
    n_clips = clips_per_task(
        config,
        clip_bytes=clip_bytes,
        cpus=resources.get("CPU", 1),
        n_models=pool.n_models,
        store_bytes=int(resources["object_store_memory"]),
    )
    bound_in_flight(
        context,
        task_bytes=n_clips * clip_bytes,
        tasks_per_shard=-(-config.rows_per_shard // n_clips),
        n_models=pool.n_models,
    )
    tasks = list(_tasks(plan.layout, shards, n_clips))
    with DataContext.current(context):
        (
            ray.data.read_datasource(
                ManifestSource(plan.manifest, tasks), override_num_blocks=len(tasks)
            )
            .map_batches(stages.load, batch_size=None, num_cpus=1)
            .map_batches(
                stages.attribute,
                fn_constructor_kwargs=dict(stages.attribute_arguments),
                batch_size=config.batch_size,
                compute=ActorPoolStrategy(size=pool.n_models),
                num_cpus=config.cpus_per_model,
                num_gpus=1 if pool.device == "cuda" else 0,
                # It also keeps Ray from fusing the loading into the actors, which it does for
                # operators that ask for the same.
                memory=stages.attribute_bytes,
            )
            .write_datasink(
                ShardSink(plan.store_url, config.rows_per_shard, counter),
                # A write waits for the storage most of the time; the CPUs are for decoding.
                ray_remote_args={"num_cpus": 0},
            )
        )


def _tasks(layout: StoreLayout, shards: NDArray[np.int64], n_clips: int) -> Iterator[range]:
    """Cut shards into the rows of tasks, which are whole batches and lie inside one shard."""
    for shard in shards:
        rows = layout.shard_rows(int(shard))
        for start in range(rows.start, rows.stop, n_clips):
            yield range(start, min(start + n_clips, rows.stop))
