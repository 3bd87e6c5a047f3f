"""A planned run carried out on Ray, to a complete store.

Ray Data decodes batches of manifest rows in CPU tasks, explains them in a pool of actors that hold
the model, gathers the rows into shards in order, and writes each shard once.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import ray
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from pipeline.credentials import without_credentials
from pipeline.errors import ClusterError
from pipeline.execution.backpressure import StalledError, bound_in_flight
from pipeline.execution.cluster import check_alive, check_shared, connected
from pipeline.execution.counter import ActorChannel, tally_channel
from pipeline.execution.metrics import RunMetrics
from pipeline.execution.sink import ShardSink
from pipeline.execution.source import ManifestSource
from pipeline.logs import fields
from pipeline.run.job import (
    Carriage,
    Limits,
    PassBrokenError,
    StagesOf,
    carry_out,
    real_stages,
)
from pipeline.run.plan import Plan
from pipeline.run.resources import ModelPool, fit_into_store
from pipeline.run.steps import Explain, Load, Stages, Write
from pipeline.run.tally import Stage, shown_progress, what_bounds
from pipeline.store.lease import Lease
from pipeline.store.pending import PendingRows
from pipeline.store.schema import StoreLayout
from pipeline.store.state import RunSummary

_LOGGER = logging.getLogger(__name__)


def execute(
    plan: Plan,
    lease: Lease | None = None,
    *,
    stages_of: StagesOf = real_stages,
    limits: Limits | None = None,
) -> RunSummary:
    """Attribute every row that is pending, and say what became of every row.

    Starts Ray on this machine unless ``RAY_ADDRESS`` names a cluster, as it does in a Ray job.

    Parameters
    ----------
    lease
        As `carry_out` says.
    stages_of
        Gives the stages of a plan; benchmarks bring stand-ins.

    Raises
    ------
    StorageError, ManifestChangedError
        As `carry_out` says.
    """
    limits = limits or Limits()
    carrier = partial(_on_ray, stages_of=stages_of, limits=limits, lease=lease)
    return carry_out(plan, carrier, limits, lease)


@contextmanager
def _on_ray(
    plan: Plan, pending: PendingRows, *, stages_of: StagesOf, limits: Limits, lease: Lease | None
) -> Iterator[Carriage]:
    config, metrics = plan.config, RunMetrics(plan.run)
    with (
        connected(config) as pool,
        tally_channel(
            metrics, rows_per_shard=config.rows_per_shard, n_pending=pending.n_rows
        ) as channel,
        shown_progress(
            channel.progress,
            n_rows=plan.layout.n_rows,
            n_done=plan.layout.n_rows - pending.n_rows,
            log_format=config.log_format,
        ),
    ):
        check_shared(config.out)
        stages = stages_of(plan, pool.device, channel)

        def run_pass(pending: PendingRows, shards: NDArray[np.int64]) -> None:
            try:
                write = Write(plan.store_url, plan.run, stages.write, pending, channel, lease)
                _attribute(plan, pending, shards, pool, stages, write, channel, limits)
                channel.end_pass()
            except StalledError as error:
                raise ClusterError(str(error)) from error
            except RayError as error:
                check_alive()
                raise PassBrokenError(_reason_of(error), channel.end_pass()) from error

        def what_bounded() -> str:
            n_cpus = ray.cluster_resources().get("CPU", 1)
            n_decoding = max(1.0, n_cpus - pool.n_models * config.cpus_per_model)
            n_at_once: dict[Stage, float] = {
                "decode": n_decoding,
                "explain": pool.n_models,
                "write": pool.n_writers,
            }
            progress = channel.progress()
            return what_bounds(progress, n_at_once) if progress else ""

        yield Carriage(run_pass, what_bounded)


def _attribute(
    plan: Plan,
    pending: PendingRows,
    shards: NDArray[np.int64],
    pool: ModelPool,
    stages: Stages,
    write: Write,
    channel: ActorChannel,
    limits: Limits,
) -> None:
    config = plan.config
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    # A task gives one block, however large: batches would not be what they are if it were cut.
    context.target_max_block_size = None
    context.enable_progress_bars = False
    # It logs tracebacks of what is raised here and told in one line; workers log theirs.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
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
        channel=channel,
        stall_s=limits.growing_stall_s if pool.may_grow else limits.stall_s,
    )
    tasks = list(_tasks(plan.layout, shards, n_clips))
    _LOGGER.info("pass started", extra=fields(run=plan.run, shards=len(shards), tasks=len(tasks)))
    with DataContext.current(context), warnings.catch_warnings():
        # Ray means to have named parameters in place of retries and restarts, and has none as yet.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        (
            ray.data.read_datasource(
                ManifestSource(plan.manifest, tasks, plan.views, channel),
                override_num_blocks=len(tasks),
                # As the loading's: Ray Data makes one task of the two then.
                ray_remote_args={"max_retries": limits.retries},
            )
            .map_batches(
                Load(stages.load, pending, channel),
                batch_size=None,
                num_cpus=1,
                max_retries=limits.retries,
            )
            .map_batches(
                Explain,
                fn_constructor_args=(stages, channel),
                batch_size=config.batch_size,
                compute=ActorPoolStrategy(size=pool.n_models),
                num_cpus=config.cpus_per_model,
                num_gpus=1 if pool.device == "cuda" else 0,
                # It also keeps Ray from fusing the loading into the actors, which it does for
                # operators that ask for the same.
                memory=stages.attribute_bytes,
                max_restarts=limits.retries,
                max_task_retries=limits.retries,
            )
            .write_datasink(
                ShardSink(write, config.rows_per_shard, config.log_format),
                # A write waits for the storage most of the time; the CPUs are for decoding.
                ray_remote_args={"num_cpus": 0, "max_retries": limits.retries},
            )
        )


def _reason_of(error: RayError) -> str:
    """Say on one line why a pass broke off of which no process could tell a fault itself."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return without_credentials(lines[0])


def _tasks(layout: StoreLayout, shards: NDArray[np.int64], n_clips: int) -> Iterator[range]:
    """Cut shards into the rows of tasks, which are whole batches and lie inside one shard."""
    for shard in shards:
        rows = layout.shard_rows(int(shard))
        for start in range(rows.start, rows.stop, n_clips):
            yield range(start, min(start + n_clips, rows.stop))
