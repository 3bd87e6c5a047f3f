"""A planned run carried out on Ray, to a complete store.

Ray Data decodes batches of manifest rows in CPU tasks, explains them in a pool of actors that hold
the model, gathers the rows into shards in order, and writes each shard once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from ray.exceptions import RayError

from pipeline.errors import ClusterError
from pipeline.execution.backpressure import StalledError
from pipeline.execution.cluster import check_alive, check_shared, connected, n_cpus
from pipeline.execution.counter import tally_channel
from pipeline.execution.graph import run_graph
from pipeline.run.job import (
    Carriage,
    Limits,
    Pass,
    PassBrokenError,
    StagesOf,
    carry_out,
    real_stages,
)
from pipeline.run.plan import Plan
from pipeline.run.tally import Progress, pace_of
from pipeline.store.lease import Lease
from pipeline.store.pace import Pace
from pipeline.store.state import RunSummary
from pipeline.text import without_credentials


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
    ConfigError
        If the cluster can't carry out the run.
    """
    limits = limits or Limits()
    return carry_out(plan, partial(_on_ray, stages_of=stages_of, limits=limits), limits, lease)


@contextmanager
def _on_ray(
    plan: Plan, n_pending: int, *, stages_of: StagesOf, limits: Limits
) -> Iterator[Carriage]:
    config = plan.config
    rows_per_shard = plan.sizes.rows_per_shard
    with (
        connected(config) as pool,
        tally_channel(plan.run, rows_per_shard=rows_per_shard, n_pending=n_pending) as channel,
    ):
        check_shared(config.out)
        if config.frames_cache:
            check_shared(config.frames_cache, "frames_cache")
        stages = stages_of(plan, pool.device, channel)

        def run_pass(work: Pass) -> None:
            try:
                run_graph(work, stages, pool, channel, limits)
                channel.end_pass()
            except StalledError as error:
                raise ClusterError(str(error)) from error
            except RayError as error:
                check_alive()
                raise PassBrokenError(_reason_of(error), channel.end_pass()) from error

        def pace(progress: Progress) -> Pace | None:
            # Ray runs one write for each model, unless the storage holds them up.
            return pace_of(progress, n_cpus=n_cpus(), n_writers=max(1, progress.n_models))

        yield Carriage(run_pass, channel.progress, pace)


def _reason_of(error: RayError) -> str:
    """Say on one line why a pass broke off, where no process could report the fault itself."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return without_credentials(lines[0])
