"""A planned run carried out on Ray, to a complete store.

Ray Data decodes batches of manifest rows in CPU tasks, explains them in a pool of actors that hold
the model, gathers the rows into shards in order, and writes each shard once.
"""

import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import ray
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from pipeline.credentials import without_credentials
from pipeline.errors import ManifestError, StorageError, StoreError
from pipeline.execution.backpressure import bound_in_flight
from pipeline.execution.cluster import connected
from pipeline.execution.counter import shown_progress
from pipeline.execution.load_pending import LoadPending
from pipeline.execution.metrics import RunMetrics
from pipeline.execution.sink import ShardSink
from pipeline.execution.source import ManifestSource
from pipeline.execution.stages import Stages, real_stages
from pipeline.logs import fields
from pipeline.run.plan import Plan
from pipeline.run.resources import ModelPool, fit_into_store
from pipeline.store.failures import write_failures
from pipeline.store.opening import open_store
from pipeline.store.pending import PendingRows, pending_rows, read_status
from pipeline.store.schema import StoreLayout
from pipeline.store.state import RunSummary, summarise

_LOGGER = logging.getLogger(__name__)

_BATCHES_PER_PASS = 100_000
"""Ray Data plans the tasks of a pass at once and keeps something of each, about 10 KB in the
driver, until the pass ends. Each pass starts the models anew."""

_WARNING_OF_WHAT_IS_MEANT = (
    "ray.data._internal.progress",
    "ray.data._internal.logical.rules.set_read_parallelism",
    "ray.data._internal.util",
)
"""Ray Data warns that its own bars are off, and that there are many more tasks than CPUs."""

_RETRIES = 3
"""Processes in which a task is tried again when its own has died, and that an actor gets in a pass.
Ray Data would go on for ever. With one more gone the pass is broken off."""

_MAX_STUCK = 4
"""Passes in a row that get nowhere, and of which each but the last leaves a shard out."""

StagesOf = Callable[[Plan, ModelPool, RunMetrics], Stages]


def execute(plan: Plan, *, stages_of: StagesOf = real_stages) -> RunSummary:
    """Attribute every row that is pending, and say what became of every row.

    Starts Ray on this machine unless ``RAY_ADDRESS`` names a cluster, as it does in a Ray job.

    Parameters
    ----------
    stages_of
        Gives the stages of a plan; benchmarks bring stand-ins.

    Raises
    ------
    StorageError
        If the storage or the manifest of the run isn't there any more.
    ManifestChangedError
        If the manifest isn't the one any more that the run was planned with.
    """
    try:
        return _execute(plan, stages_of)
    except (StoreError, ManifestError, OSError) as error:
        raise StorageError(str(error)) from error


def _execute(plan: Plan, stages_of: StagesOf) -> RunSummary:
    pending = pending_rows(open_store(plan.store_url))
    _LOGGER.info("run started", extra=fields(run=plan.run, store=plan.store_url))
    seconds = 0.0
    if pending.n_rows:
        started = time.monotonic()
        metrics = RunMetrics(plan.run)
        with connected(plan.config) as pool:
            _attribute_in_passes(plan, pending, pool, stages_of(plan, pool, metrics), metrics)
        seconds = time.monotonic() - started
    store = open_store(plan.store_url)
    status = read_status(store)
    write_failures(plan.config.out, store, status, plan.manifest)
    summary = summarise(status, seconds=seconds)
    counts = {code.label: count for code, count in summary.counts.items()}
    _LOGGER.info("run ended", extra=fields(run=plan.run, **counts, seconds=round(seconds, 3)))
    return summary


def _attribute_in_passes(
    plan: Plan, pending: PendingRows, pool: ModelPool, stages: Stages, metrics: RunMetrics
) -> None:
    """Go on where a pass ended, or was broken off, by a storage that failed for example.

    Where a pass got nowhere, the next leaves out the shard that it failed of. If `_MAX_STUCK` in a
    row get nowhere, it isn't the shards.
    """
    config, layout = plan.config, plan.layout
    shards_per_pass = max(1, _BATCHES_PER_PASS * config.batch_size // config.rows_per_shard)
    n_done = layout.n_rows - pending.n_rows
    shards, left_out = pending.shards, pending.shards[:0]
    n_stuck = 0
    with shown_progress(metrics, layout.n_rows, n_done, config.log_format) as progress:
        while len(shards):
            try:
                _attribute(plan, pending, shards[:shards_per_pass], pool, stages, metrics, progress)
                shards, n_stuck = shards[shards_per_pass:], 0
            except RayError as error:
                left = pending_rows(open_store(plan.store_url))
                remaining = np.setdiff1d(left.shards, left_out)
                reason, row = _told_by(error)
                n_left, n_shards = len(remaining), len(shards)
                _LOGGER.warning("%d of %d shards are left: %s", n_left, n_shards, reason)
                n_stuck = n_stuck + 1 if len(remaining) == n_shards else 0
                if n_stuck and (row is None or n_stuck == _MAX_STUCK):
                    _LOGGER.debug("the pass got nowhere", exc_info=error)
                    return
                if n_stuck and row is not None:
                    left_out = np.append(left_out, row // config.rows_per_shard)
                pending, shards = left, np.setdiff1d(remaining, left_out)


def _told_by(error: RayError) -> tuple[str, int | None]:
    """Reason of an error that broke a pass off, and the first row of the task, if it is told.

    Of what was raised in a worker Ray gives the driver only the text.
    """
    text = str(error).strip()
    raised = re.findall(r"^(?!ray\.)[\w.]*Error: .*", text, re.MULTILINE)
    reason = without_credentials((raised or text.splitlines())[-1])
    rows = re.search(r"StorageError: rows (\d+) to \d+: ", reason)
    return reason, int(rows[1]) if rows else None


def _attribute(
    plan: Plan,
    pending: PendingRows,
    shards: NDArray[np.int64],
    pool: ModelPool,
    stages: Stages,
    metrics: RunMetrics,
    progress: ray.actor.ActorHandle,
) -> None:
    config = plan.config
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    # A task gives one block, however large: batches would not be what they are if it were cut.
    context.target_max_block_size = None
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    for name in _WARNING_OF_WHAT_IS_MEANT:
        logging.getLogger(name).setLevel(logging.ERROR)
    resources = ray.cluster_resources()
    clip_bytes = plan.checkpoint.geometry.clip_bytes
    n_clips = fit_into_store(
        config,
        clip_bytes=clip_bytes,
        row_bytes=plan.layout.row_bytes,
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
    _LOGGER.info("pass started", extra=fields(run=plan.run, shards=len(shards), tasks=len(tasks)))
    with DataContext.current(context), warnings.catch_warnings():
        # Ray means to have named parameters in place of retries and restarts, and has none as yet.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        (
            ray.data.read_datasource(
                ManifestSource(plan.manifest, tasks, plan.views),
                override_num_blocks=len(tasks),
                # As the loading's: Ray Data makes one task of the two then.
                ray_remote_args={"max_retries": _RETRIES},
            )
            .map_batches(
                LoadPending(stages.load, pending, metrics),
                batch_size=None,
                num_cpus=1,
                max_retries=_RETRIES,
            )
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
                max_restarts=_RETRIES,
                max_task_retries=_RETRIES,
            )
            .write_datasink(
                ShardSink(
                    plan.store_url,
                    config.rows_per_shard,
                    pending,
                    progress,
                    metrics,
                    config.log_format,
                ),
                # A write waits for the storage most of the time; the CPUs are for decoding.
                ray_remote_args={"num_cpus": 0, "max_retries": _RETRIES},
            )
        )


def _tasks(layout: StoreLayout, shards: NDArray[np.int64], n_clips: int) -> Iterator[range]:
    """Cut shards into the rows of tasks, which are whole batches and lie inside one shard."""
    for shard in shards:
        rows = layout.shard_rows(int(shard))
        for start in range(rows.start, rows.stop, n_clips):
            yield range(start, min(start + n_clips, rows.stop))
