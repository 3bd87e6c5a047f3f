"""A planned run carried out on Ray, to a complete store.

Ray Data reads batches of manifest rows, decodes them in CPU tasks, explains them in a pool of
actors that hold the model, cuts the rows into shards in order, and writes each shard once.
"""

import logging
import time
from collections.abc import Iterator

import numpy as np
import ray
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from pipeline.attributor import Attributor
from pipeline.cluster import ModelPool, connected
from pipeline.credentials import without_credentials
from pipeline.errors import StorageError, StoreError
from pipeline.load import ClipLoader
from pipeline.logs import fields
from pipeline.metrics import RunMetrics
from pipeline.plan import Plan
from pipeline.progress import shown_progress
from pipeline.sink import ShardSink
from pipeline.source import ManifestSource
from pipeline.stages import LoadClips
from pipeline.store import PendingRows, StoreLayout, open_store, pending_rows, read_status
from pipeline.summary import RunSummary, summarise, write_failures

_LOGGER = logging.getLogger(__name__)
_PROCESS_BYTES = 1_000_000_000
"""Memory of a process that has loaded torch, with room for the frames of a batch."""
_WRITE_CPUS = 0.25
"""A write task mostly waits for the storage."""


def execute(plan: Plan) -> RunSummary:
    """Attribute every shard that is pending, and say what became of every row.

    Starts Ray on this machine unless ``RAY_ADDRESS`` names a cluster, as it does in a Ray job.

    Raises
    ------
    StorageError
        If the storage of the run, which was there when it was planned, isn't any more.
    """
    try:
        return _execute(plan)
    except (StoreError, OSError) as error:
        raise StorageError(str(error)) from error


def _execute(plan: Plan) -> RunSummary:
    pending = pending_rows(open_store(plan.store_url))
    _LOGGER.info("run started", extra=fields(run=plan.run, store=plan.store_url))
    seconds = 0.0
    if pending.n_rows:
        started = time.monotonic()
        with connected(plan.config) as pool:
            _attribute_in_passes(plan, pending, pool)
        seconds = time.monotonic() - started
    group = open_store(plan.store_url)
    status = read_status(group)
    write_failures(plan.config.out, group, status, plan.manifest)
    summary = summarise(status, seconds=seconds)
    counts = {code.label: count for code, count in summary.counts.items()}
    _LOGGER.info("run ended", extra=fields(run=plan.run, **counts, seconds=round(seconds, 3)))
    return summary


def _attribute_in_passes(plan: Plan, pending: PendingRows, pool: ModelPool) -> None:
    """Go on where a pass was broken off, by a storage that failed for example, while it helps."""
    while pending.n_rows:
        try:
            return _attribute(plan, pending, pool)
        except RayError as error:
            left = pending_rows(open_store(plan.store_url))
            reason = without_credentials(str(error).strip().splitlines()[-1])
            n_left, n_shards = len(left.shards), len(pending.shards)
            _LOGGER.warning("%d of %d shards are left: %s", n_left, n_shards, reason)
            if left.n_rows == pending.n_rows:
                _LOGGER.debug("the pass got nowhere", exc_info=error)
                return
            pending = left


def _attribute(plan: Plan, pending: PendingRows, pool: ModelPool) -> None:
    config, checkpoint = plan.config, plan.checkpoint
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # It warns that its progress bars are off; ours is shown in their place.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    batches = list(_batches(plan.layout, pending.shards, config.batch_size))
    n_done = plan.layout.n_rows - pending.n_rows
    loader = ClipLoader(
        root=plan.manifest.root,
        sampling=plan.sampling,
        preprocessing=checkpoint.preprocessing,
        input_size=checkpoint.geometry.input_size,
        class_of_label=plan.class_of_label,
        decode_timeout_s=config.decode_timeout,
        decode_memory_bytes=int(config.decode_memory),
    )
    metrics = RunMetrics(plan.run)
    attributor = {
        "timed": metrics.seconds_of,
        "checkpoint": checkpoint,
        "method": config.method,
        "layout": plan.layout,
        "device": pool.device,
        "precision": config.precision,
        "n_threads": max(1, int(config.cpus_per_model)),
    }
    _LOGGER.info(
        "pass started",
        extra=fields(run=plan.run, shards=len(pending.shards), rows=pending.n_rows),
    )
    with shown_progress(metrics, plan.layout.n_rows, n_done, config.log_format) as progress:
        (
            ray.data.read_datasource(
                ManifestSource(plan.manifest, batches),
                override_num_blocks=len(batches),
            )
            .map_batches(LoadClips(loader, pending, metrics), batch_size=None, num_cpus=1)
            .map_batches(
                Attributor,
                fn_constructor_kwargs=attributor,
                batch_size=config.batch_size,
                compute=ActorPoolStrategy(size=pool.n_models),
                num_cpus=config.cpus_per_model,
                num_gpus=1 if pool.device == "cuda" else 0,
                # Reserved for the weights, as read and as loaded. It also keeps Ray from fusing the
                # loader into the actors, which it does for operators that ask for the same.
                memory=_PROCESS_BYTES + 2 * checkpoint.weights_bytes,
            )
            .repartition(target_num_rows_per_block=config.rows_per_shard, strict=True)
            .write_datasink(
                ShardSink(plan.store_url, pending, progress, metrics, config.log_format),
                ray_remote_args={"num_cpus": _WRITE_CPUS},
            )
        )


def _batches(layout: StoreLayout, shards: NDArray[np.int64], batch_size: int) -> Iterator[range]:
    for shard in shards:
        rows = layout.shard_rows(int(shard))
        for start in range(rows.start, rows.stop, batch_size):
            yield range(start, min(start + batch_size, rows.stop))
