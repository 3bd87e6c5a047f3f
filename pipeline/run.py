"""A planned run carried out on Ray, to a complete store.

Ray Data reads batches of manifest rows, decodes them in CPU tasks, explains them in a pool of
actors that hold the model, cuts the rows into shards in order, and writes each shard once.
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
_N_WRITERS = 4
"""Shards that are written at once. Writing waits for the storage most of the time, and so asks for
no CPU: what it asked for, Ray Data would set aside and keep from decoding."""


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
    """Go on where a pass was broken off, by a storage that failed for example, while it helps."""
    while len(shards):
        try:
            return _attribute(plan, shards, pool, stages)
        except RayError as error:
            left = pending_shards(open_store(plan.store_url))
            reason = str(error).strip().splitlines()[-1]
            _LOGGER.warning("%d of %d shards are left: %s", len(left), len(shards), reason)
            if len(left) == len(shards):
                _LOGGER.debug("the pass got nowhere", exc_info=error)
                return
            shards = left


def _attribute(plan: Plan, shards: NDArray[np.int64], pool: ModelPool, stages: Stages) -> None:
    config = plan.config
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    # A block is a batch, however large: one cut in two would reach the model in two.
    context.target_max_block_size = None
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # It warns that its progress bars are off; ours is shown in their place.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    batches = list(_batches(plan.layout, shards, config.batch_size))
    n_done = plan.layout.n_rows - sum(len(rows) for rows in batches)
    with shown_progress(plan.layout.n_rows, n_done) as counter:
        (
            ray.data.read_datasource(
                ManifestSource(plan.manifest, batches),
                override_num_blocks=len(batches),
            )
            .map_batches(stages.load, batch_size=None, num_cpus=1)
            .map_batches(
                stages.attribute,
                fn_constructor_kwargs=dict(stages.attribute_arguments),
                batch_size=None,
                compute=ActorPoolStrategy(size=pool.n_models),
                num_cpus=config.cpus_per_model,
                num_gpus=1 if pool.device == "cuda" else 0,
                # It also keeps Ray from fusing the loading into the actors, which it does for
                # operators that ask for the same.
                memory=stages.attribute_bytes,
            )
            .write_datasink(
                ShardSink(plan.store_url, config.rows_per_shard, counter),
                ray_remote_args={"num_cpus": 0},
                concurrency=_N_WRITERS,
            )
        )


def _batches(layout: StoreLayout, shards: NDArray[np.int64], batch_size: int) -> Iterator[range]:
    for shard in shards:
        rows = layout.shard_rows(int(shard))
        for start in range(rows.start, rows.stop, batch_size):
            yield range(start, min(start + batch_size, rows.stop))
