"""Attribute every clip of a manifest: ``python -m jobs.attribute --help``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.cli import flags_carried_out, listen_on_loopback, run_job
from pipeline.errors import StorageError
from pipeline.logs import set_up_logging
from pipeline.run.config import AttributeConfig, AttributeJob
from pipeline.text import printable

if TYPE_CHECKING:
    from pipeline.run.plan import Plan
    from pipeline.run.reread import ReadBefore
    from pipeline.run.resources import Machine, Room
    from pipeline.status import Status
    from pipeline.store.lease import Lease
    from pipeline.store.state import RunSummary


@dataclass(frozen=True)
class Place:
    """Where the runs of a job are carried out."""

    machine: Callable[[AttributeConfig], Machine | None]
    """Gives what they will have; None where that isn't known yet."""
    execute: Callable[[Plan, Lease], RunSummary]
    room: Callable[[AttributeConfig], Room] | None = None
    """Says what would work on a run side by side; None where steps come in turn."""


def attribute(job: AttributeJob, *, place_of: Callable[[AttributeJob], Place] | None = None) -> int:
    """Run or resume; 0 if every row is accounted for and few enough failed, else 1."""
    # Behind the command line: a wrong flag is told before torch is loaded, and the job's process
    # parts from the one that has the last word.
    from pipeline.run.frames import remove_temporary, with_frames
    from pipeline.run.plan import plan_runs
    from pipeline.run.prepare import prepare
    from pipeline.run.reread import read_before
    from pipeline.store.lease import leased

    # As text the lines of this job and its bar say the same; a program reads the records.
    as_json = job.log_format == "json"
    set_up_logging(job.log_format, logging.INFO if as_json else logging.WARNING)
    place, configs = (place_of or chosen_place)(job), job.runs()
    plans = plan_runs(configs, job.call(), machine=place.machine(configs[0]))
    if job.dry_run:
        return _say_what_it_takes(plans, place)
    with ExitStack() as held:
        leases = [
            held.enter_context(leased(plan.config.out, verb="attribute", take_over=job.take_over))
            for plan in plans
        ]
        plans = with_frames(plans, job.out)
        before = [read_before(plan) for plan in plans]
        with flags_carried_out(job):
            retried = [prepare(plan) for plan in plans]
            runs = zip(plans, leases, retried, before, strict=True)
            # Each run is carried out, whatever becomes of the others.
            summaries = [_carry_out(*run, place) for run in runs]
            if unfinished := [summary for summary in summaries if summary.n_pending]:
                raise StorageError("; ".join(map(_why_unfinished, unfinished)))
            if job.models:
                remove_temporary(job.out)
    return max(map(_exit_code, configs, summaries))


def chosen_place(job: AttributeJob) -> Place:
    """Ray, or this process; Ray isn't loaded where it isn't used."""
    if job.serial:
        from pipeline.run.serial import check_serial, execute_serially

        return Place(check_serial, execute_serially)
    listen_on_loopback()
    from pipeline.execution.cluster import check_target, machine_to_start, room_for
    from pipeline.execution.passes import execute

    check_target(job.runs()[0])
    return Place(machine_to_start, execute, room_for)


def _say_what_it_takes(plans: Sequence[Plan], place: Place) -> int:
    from pipeline.run.forecast import forecast

    for plan in plans:
        for line in forecast(plan, place.room and place.room(plan.config)).lines():
            print(f"attribute: {printable(line)}")
    return 0


def _carry_out(
    plan: Plan, lease: Lease, retried: Mapping[Status, int], before: ReadBefore, place: Place
) -> RunSummary:
    from pipeline.run.reread import changed_files
    from pipeline.store.run_folder import failures_url

    config = plan.config
    if config.log_format == "text":
        print(
            f"attribute: {plan.manifest.n_rows} clips of {config.manifest} with {config.model} "
            f"-> {plan.store_url}",
            file=sys.stderr,
        )
    if plan.call.retry_failed:
        counts = ", ".join(f"{count} {status.label}" for status, count in retried.items())
        n_rows = sum(retried.values())
        print(f"attribute: retrying {n_rows} rows{': ' if counts else ''}{counts}", file=sys.stderr)
    if config.frames_cache and plan.witness:
        _tell_room(plan)
    summary = place.execute(plan, lease)
    print(f"attribute: {summary}, in {summary.seconds:.1f} s")
    if summary.bounded:
        print(f"attribute: {summary.bounded}")
    if summary.n_too_short:
        n_frames = plan.layout.n_frames
        print(
            f"attribute: {summary.n_too_short} clips have fewer than the {n_frames} frames that "
            "the model sees, and are left out"
        )
    if changed := changed_files(plan, before):
        print(f"attribute: {changed}", file=sys.stderr)
    if summary.n_failed:
        print(f"attribute: failures in {failures_url(config.out)}")
    return summary


def _tell_room(plan: Plan) -> None:
    """Say it if the cache has no room for all frames."""
    config, n_kept = plan.config, plan.cache.n_rows if plan.cache else 0
    if n_kept < plan.layout.n_rows:
        print(
            f"attribute: {config.frames_cache} has room for the frames of the first {n_kept} of "
            f"{plan.layout.n_rows} rows, within frames_cache_size="
            f"{config.frames_cache_size.human_readable(decimal=True)}",
            file=sys.stderr,
        )


def _why_unfinished(summary: RunSummary) -> str:
    why = f", since a pass was broken off: {summary.broken_by}" if summary.broken_by else ""
    return f"{summary.n_pending} rows are pending{why}"


def _exit_code(config: AttributeConfig, summary: RunSummary) -> int:
    """Exit code of a run whose every row is accounted for; says it if too many failed."""
    if summary.failed_fraction > config.max_failed_fraction:
        print(
            f"attribute: error: {summary.failed_fraction:.1%} of the clips failed, more than "
            f"max_failed_fraction={config.max_failed_fraction:.1%}",
            file=sys.stderr,
        )
        return 1
    return 0


def main() -> int:
    """Be the command: exit code."""
    return run_job(
        AttributeJob,
        attribute,
        verb="attribute",
        keeps=True,
        # A serial run is for debuggers, too, and loads no Ray that would end it.
        apart=lambda job: not job.serial,
    )


if __name__ == "__main__":
    sys.exit(main())
