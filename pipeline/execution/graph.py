"""One pass as a graph of Ray Data: read and load in tasks, explain in actors, write in tasks."""

import logging
import warnings

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.util.annotations import RayDeprecationWarning

from pipeline.execution.backpressure import bound_in_flight
from pipeline.execution.counter import ActorChannel
from pipeline.execution.sink import ShardSink, gathering
from pipeline.execution.source import ManifestSource
from pipeline.logs import fields
from pipeline.run.job import Limits, Pass
from pipeline.run.resources import DECODE_CPUS, MODEL_CPUS, ModelPool, fit_into_store
from pipeline.run.steps import Explain, Stages

_LOGGER = logging.getLogger(__name__)


def _one_gpu() -> dict[str, float]:
    return {"num_gpus": 1}


def run_graph(
    work: Pass, stages: Stages, pool: ModelPool, channel: ActorChannel, limits: Limits
) -> None:
    """Compute the pending rows of a pass's shards.

    Raises
    ------
    RayError
        If it is broken off; what failed of its own is told through the channel.
    ConfigError
        As `fit_into_store` says.
    """
    config, layout, sizes = work.plan.config, work.plan.layout, work.plan.sizes
    clip_bytes = work.plan.checkpoint.geometry.clip_bytes
    resources = ray.cluster_resources()
    n_clips = fit_into_store(
        sizes,
        clip_bytes=clip_bytes,
        row_bytes=layout.row_bytes,
        cpus=resources.get("CPU", 1),
        n_models=pool.n_models,
        store_bytes=int(resources["object_store_memory"]),
    )
    context = DataContext.get_current().copy()
    # A clip that takes long holds up nobody: a block holds whole batches, and tells its rows.
    context.execution_options.preserve_order = False
    # A task gives one block, however large: batches would not be what they are if it were cut.
    context.target_max_block_size = None
    context.enable_progress_bars = False
    # Nobody looks at what it would note once a second in every process that works.
    context.memory_usage_poll_interval_s = None
    bound_in_flight(
        context,
        task_bytes=n_clips * clip_bytes,
        tasks_per_shard=-(-sizes.rows_per_shard // n_clips),
        pool=pool,
        channel=channel,
        stall_s=limits.growing_stall_s if pool.may_grow else limits.stall_s,
    )
    # It logs tracebacks of what is raised here and told in one line; workers log theirs.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    tasks = work.tasks(n_clips, n_small=2 * int(resources.get("CPU", 1)))
    n_shards = len(work.shards)
    _LOGGER.info("pass started", extra=fields(run=work.plan.run, shards=n_shards, tasks=len(tasks)))
    with (
        gathering(layout) as gatherer,
        DataContext.current(context),
        warnings.catch_warnings(),
    ):
        # Ray means to have named parameters in place of retries and restarts, and has none as yet.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        (
            ray.data.read_datasource(
                ManifestSource(work.plan.manifest, tasks, work.plan.views, channel),
                override_num_blocks=len(tasks),
                # As the loading's: Ray Data makes one task of the two then.
                ray_remote_args={"num_cpus": DECODE_CPUS, "max_retries": limits.retries},
            )
            .map_batches(
                work.load(stages, channel),
                batch_size=None,
                num_cpus=DECODE_CPUS,
                max_retries=limits.retries,
            )
            .map_batches(
                Explain,
                fn_constructor_args=(stages, channel, sizes.batch_size),
                batch_size=None,
                compute=ActorPoolStrategy(size=pool.n_at_first),
                num_cpus=MODEL_CPUS,
                # Asked for in this way: with `num_gpus` Ray Data insists on a batch size, and would
                # gather the rows of several tasks for it.
                ray_remote_args_fn=_one_gpu if pool.device == "cuda" else None,
                # It also keeps Ray from fusing the loading into the actors, which it does for
                # operators that ask for the same.
                memory=stages.attribute_bytes,
                max_restarts=limits.retries,
                max_task_retries=limits.retries,
            )
            .write_datasink(
                ShardSink(work.write(stages, channel), gatherer, config.log_format),
                # A write waits for the storage most of the time; the CPUs are for decoding.
                ray_remote_args={"num_cpus": 0, "max_retries": limits.retries},
            )
        )
