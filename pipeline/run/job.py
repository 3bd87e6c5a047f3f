"""A planned run carried out to a complete store: what serial runs and those on Ray have in common.

The stages are wired from the plan. Pending rows are computed in passes, and each pass goes on where
the last one ended or was broken off. At the end every row is accounted for.
"""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.loader import ClipLoader
from pipeline.errors import ManifestError, StoreError
from pipeline.logs import fields
from pipeline.models.attributor import Attributor
from pipeline.run.plan import Plan
from pipeline.run.steps import Load, Stages, Write
from pipeline.run.tally import Channel, Fault, Progress, shown_progress
from pipeline.store.lease import Lease
from pipeline.store.ledger import Ledger
from pipeline.store.pace import Pace
from pipeline.store.pending import PendingRows
from pipeline.store.state import RunSummary

_LOGGER = logging.getLogger(__name__)

_NOTE_S = 30.0
"""Between two notes of a run's pace."""
_PROCESS_BYTES = 1_000_000_000
"""Memory of a process that has loaded torch, with room for the frames of a batch."""


@dataclass(frozen=True)
class Limits:
    """How long a run goes on in the face of failures."""

    retries: int = 3
    """How often a task is tried again in another process when its own has died, and a model is
    started again in a pass. If one more process dies the pass is broken off; Ray Data by itself
    would go on for ever."""
    max_stuck: int = 4
    """Passes in a row that may get nowhere. After each but the last, the shards at fault are left
    out."""
    batches_per_pass: int = 100_000
    """Ray Data plans all tasks of a pass at once, and the driver keeps about 10 KB of each task
    until the pass ends. Each pass starts the models again."""
    stall_s: float = 300.0
    """Time after which a run that nobody works on is ended, if no machine can join."""
    growing_stall_s: float = 1800.0
    """The same on a cluster, which may be waiting for machines."""


class PassBrokenError(Exception):
    """A pass ended before its shards were done."""

    def __init__(self, reason: str, faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(str(faults[0]) if faults else reason)
        self.faults = faults

    def shards(self, rows_per_shard: int) -> NDArray[np.int64]:
        """Shards that the pass is known to have failed on."""
        rows = [fault.rows[0] for fault in self.faults if fault.rows is not None]
        return np.unique(np.array(rows, np.int64) // rows_per_shard)


@dataclass(frozen=True)
class Pass:
    """Shards of a run that are to be computed in one go."""

    plan: Plan
    pending: PendingRows
    shards: NDArray[np.int64]
    lease: Lease | None

    def tasks(self, n_clips: int, n_small: int = 0) -> list[range]:
        """Cut the shards into rows that are loaded together: whole batches of one shard each.

        Parameters
        ----------
        n_clips
            Clips of a task, a multiple of the batch size. If it is also a multiple of `Sizes.unit`,
            no task ends between the views of a video.
        n_small
            How many tasks of one batch (or unit) come first, followed by as many of two batches,
            and so on, so that models and storage get something to do early.
        """
        sizes = self.plan.sizes
        unit = sizes.batch_size if n_clips % sizes.unit else sizes.unit
        tasks: list[range] = []
        size = unit if n_small else n_clips
        for shard in self.shards.tolist():
            rows = self.plan.layout.shard_rows(shard)
            start = rows.start
            while start < rows.stop:
                if n_small and size < n_clips:
                    size = min(n_clips, unit << (len(tasks) // n_small))
                # A shard may begin between the views of a video, if its size was chosen so.
                stop = min((start + size) // unit * unit, rows.stop)
                tasks.append(range(start, stop))
                start = stop
        return tasks

    def load(self, stages: Stages, channel: Channel) -> Load:
        """Make the step that loads."""
        return Load(stages.load, self.pending, channel)

    def write(self, stages: Stages, channel: Channel) -> Write:
        """Make the step that writes."""
        plan = self.plan
        return Write(plan.store_url, plan.run, stages.write, self.pending, channel, self.lease)


@dataclass(frozen=True)
class Carriage:
    """What computes rows, made ready for a run."""

    run_pass: Callable[[Pass], None]
    """Computes the pending rows of a pass; raises `PassBrokenError`."""
    progress: Callable[[], Progress | None]
    """Says how far the run is; None if that isn't known now."""
    pace: Callable[[Progress], Pace | None]
    """Says how fast it is, and what bounds it."""


Carrier = Callable[[Plan, int], AbstractContextManager[Carriage]]
"""Makes what computes rows ready, given the plan and the number of pending rows."""

StagesOf = Callable[[Plan, str, Channel], Stages]
"""Gives the stages of a plan on a device; they report through a channel."""


def real_stages(plan: Plan, device: str, channel: Channel) -> Stages:
    """Decode and attribute, as the plan says."""
    config, checkpoint = plan.config, plan.checkpoint
    return Stages(
        load=ClipLoader(
            root=plan.manifest.root,
            views=plan.views,
            input_size=checkpoint.geometry.input_size,
            class_of_label=plan.class_of_label,
            segments=plan.manifest.segments,
            decoder=config.decoder,
            decode_timeout_s=config.decode_timeout,
            decode_memory_bytes=int(config.decode_memory),
            witness=plan.witness,
            cache=plan.cache,
            shared=plan.shared,
            known_digests=plan.known_digests,
            fetching=partial(channel.part, "fetch"),
            on_clip=channel.decoded,
        ),
        attribute=Attributor,
        attribute_arguments={
            "timed": channel.part,
            "checkpoint": checkpoint,
            "method": config.method,
            "layout": plan.layout,
            "device": device,
            "precision": config.precision,
            "compile_model": config.compile_model,
            "n_threads": max(1, int(config.cpus_per_model)),
        },
        # For the weights, as read and as loaded.
        attribute_bytes=_PROCESS_BYTES + 2 * checkpoint.weights_bytes,
    )


def carry_out(
    plan: Plan, carrier: Carrier, limits: Limits, lease: Lease | None = None
) -> RunSummary:
    """Compute every row that is pending, and say what became of every row.

    Parameters
    ----------
    lease
        Held by the caller. Each process that writes checks that it is still held.

    Raises
    ------
    StorageError
        If the storage or the manifest of the run isn't there any more.
    ManifestChangedError
        If the manifest has changed since the run was planned.
    LeaseLostError
        If somebody else has taken over the run.
    """
    ledger = Ledger(plan.config.out, plan.store_url, plan.manifest, lease)
    seconds, bounded, broken_by = 0.0, "", ""
    try:
        pending = ledger.begin()
        _LOGGER.info("run started", extra=fields(run=plan.run, store=plan.store_url))
        if pending.n_rows:
            started_s = time.monotonic()
            with carrier(plan, pending.n_rows) as carriage:
                noted = partial(_noted, ledger, carriage)
                with shown_progress(
                    carriage.progress,
                    n_rows=plan.layout.n_rows,
                    n_done=plan.layout.n_rows - pending.n_rows,
                    verb="evaluate" if plan.record.identity.measured else "attribute",
                    log_format=plan.config.log_format,
                    watch=_now_and_then(noted),
                ):
                    broken_by = _in_passes(plan, ledger, pending, carriage.run_pass, limits)
                bounded = noted(carriage.progress())
            seconds = time.monotonic() - started_s
        summary = ledger.close()
    except (StoreError, ManifestError, OSError) as error:
        raise ledger.explained(error) from error
    summary = replace(summary, seconds=seconds, bounded=bounded, broken_by=broken_by)
    counts = {code.label: count for code, count in summary.counts.items()}
    _LOGGER.info("run ended", extra=fields(run=plan.run, **counts, seconds=round(seconds, 3)))
    return summary


def _noted(ledger: Ledger, carriage: Carriage, progress: Progress | None) -> str:
    """Note a run's pace beside its store, and give it as a line; empty if it isn't known."""
    pace = carriage.pace(progress) if progress else None
    if pace is None:
        return ""
    ledger.note(pace)
    return str(pace)


def _now_and_then(note: Callable[[Progress], str]) -> Callable[[Progress], None]:
    """Give a function that calls ``note``, but at most every `_NOTE_S`."""
    noted_at_s = time.monotonic()

    def watch(progress: Progress) -> None:
        nonlocal noted_at_s
        if time.monotonic() - noted_at_s > _NOTE_S:
            noted_at_s = time.monotonic()
            note(progress)

    return watch


def _in_passes(
    plan: Plan,
    ledger: Ledger,
    pending: PendingRows,
    run_pass: Callable[[Pass], None],
    limits: Limits,
) -> str:
    """Go on where a pass ended or was broken off, for example by a storage that failed.

    If a pass gets nowhere, the next one leaves out the shards that it failed on. If
    `Limits.max_stuck` passes in a row get nowhere, the shards aren't the reason, and the run ends.

    Returns
    -------
    What broke off the last of the passes that were broken off; empty if none was
    """
    sizes = plan.sizes
    shards_per_pass = max(1, limits.batches_per_pass * sizes.batch_size // sizes.rows_per_shard)
    shards, left_out = pending.shards, pending.shards[:0]
    n_stuck, broken_by = 0, ""
    while len(shards):
        try:
            run_pass(Pass(plan, pending, shards[:shards_per_pass], ledger.lease))
            shards, n_stuck = shards[shards_per_pass:], 0
        except PassBrokenError as broken:
            left = ledger.left()
            remaining = np.setdiff1d(left.shards, left_out)
            broken_by = str(broken)
            faulty = broken.shards(sizes.rows_per_shard)
            n_left, n_shards = len(remaining), len(shards)
            _LOGGER.warning("%d of %d shards are left: %s", n_left, n_shards, broken)
            n_stuck = n_stuck + 1 if n_left == n_shards else 0
            if n_stuck and (not len(faulty) or n_stuck == limits.max_stuck):
                _LOGGER.debug("the pass got nowhere", exc_info=broken)
                break
            if n_stuck:
                left_out = np.union1d(left_out, faulty)
            pending, shards = left, np.setdiff1d(remaining, left_out)
    return broken_by
