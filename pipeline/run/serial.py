"""A planned run carried out in this process alone, without Ray: to debug it, or where it is small.

Batches are those of a run on Ray, and so are the bits in the store.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import groupby

import numpy as np

from pipeline.clips.columns import Columns
from pipeline.errors import ConfigError, StorageError
from pipeline.models.compiler import check_compiler
from pipeline.models.device import device_of, n_gpus
from pipeline.run.config import AttributeConfig
from pipeline.run.gather import concatenated
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
from pipeline.run.steps import Explain, Stages, read_rows
from pipeline.run.tally import LocalChannel, Tally, pace_of
from pipeline.store.lease import Lease
from pipeline.store.state import RunSummary


def check_serial(config: AttributeConfig) -> None:
    """Refuse what this process can't do; what it has else doesn't limit a run.

    Raises
    ------
    ConfigError
        If the device isn't there, or can't compile the model.
    """
    if config.device == "cuda" and not n_gpus():
        raise ConfigError("device: 'cuda' was asked for, and there is no GPU")
    if config.compile_model:
        check_compiler(_device(config))


def execute_serially(
    plan: Plan,
    lease: Lease | None = None,
    *,
    stages_of: StagesOf = real_stages,
    limits: Limits | None = None,
) -> RunSummary:
    """Attribute every row that is pending, batch by batch, and say what became of every row.

    Parameters
    ----------
    lease
        As `carry_out` says.
    stages_of
        Gives the stages of a plan; tests bring stand-ins.

    Raises
    ------
    StorageError, ManifestChangedError
        As `carry_out` says. Errors of the model or of this program are raised as they are.
    """
    carrier = partial(_in_this_process, stages_of=stages_of)
    return carry_out(plan, carrier, limits or Limits(), lease)


@contextmanager
def _in_this_process(plan: Plan, n_pending: int, *, stages_of: StagesOf) -> Iterator[Carriage]:
    tally = Tally(plan.sizes.rows_per_shard)
    channel = LocalChannel(tally)
    stages = stages_of(plan, _device(plan.config), channel)
    explain: Explain | None = None

    def run_pass(work: Pass) -> None:
        nonlocal explain
        # The model is loaded once.
        explain = explain or Explain(stages, channel, plan.sizes.batch_size)
        try:
            _compute(work, stages, explain, channel)
        except (StorageError, OSError) as error:
            raise PassBrokenError(str(error), tally.end_pass()) from error

    yield Carriage(run_pass, tally.progress, partial(pace_of, n_cpus=1, n_writers=1, in_turn=True))


def _compute(work: Pass, stages: Stages, explain: Explain, channel: LocalChannel) -> None:
    """Compute and write shards, one after the other."""
    plan, load, write = work.plan, work.load(stages, channel), work.write(stages, channel)

    def explained(rows: range) -> Columns:
        with channel.step("read", np.asarray(rows)):
            table = read_rows(plan.manifest, rows, plan.views)
        return explain(load({name: table[name].to_numpy() for name in table.column_names}))

    tasks = work.tasks(plan.sizes.unit)
    for _, of_shard in groupby(tasks, lambda rows: rows.start // plan.sizes.rows_per_shard):
        write(concatenated([explained(rows) for rows in of_shard]))


def _device(config: AttributeConfig) -> str:
    return device_of(config.device)
