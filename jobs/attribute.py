"""Attribute every clip of a manifest: ``python -m jobs.attribute --help``."""

import logging
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from jobs.cli import flags_carried_out, run_job
from pipeline.logs import set_up_logging
from pipeline.run.config import AttributeJob
from pipeline.store.run_folder import failures_url

if TYPE_CHECKING:
    from pipeline.run.plan import Plan
    from pipeline.status import Status
    from pipeline.store.state import RunSummary


def attribute(job: AttributeJob, execute: "Callable[[Plan], RunSummary] | None" = None) -> int:
    """Run or resume; 0 if every row is accounted for and few enough failed, else 1.

    ``execute`` carries a plan out; by default `pipeline.execution.passes.execute`.
    """
    # As text the lines of this job and its bar say the same; a program reads the records.
    as_json = job.log_format == "json"
    set_up_logging(job.log_format, logging.INFO if as_json else logging.WARNING)
    from pipeline.execution import passes
    from pipeline.execution.cluster import machine_to_start
    from pipeline.run.plan import plan_runs
    from pipeline.run.prepare import prepare

    runs = job.runs()
    plans = plan_runs(runs, job.call(), machine=machine_to_start(runs[0]))
    with flags_carried_out(job):
        retried = [prepare(plan) for plan in plans]
        carried_out = zip(plans, retried, strict=True)
        return max(_carry_out(*run, execute or passes.execute) for run in carried_out)


def _carry_out(
    plan: "Plan",
    retried: "Mapping[Status, int]",
    execute: "Callable[[Plan], RunSummary]",
) -> int:
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
    summary = execute(plan)
    print(f"attribute: {summary}, in {summary.seconds:.1f} s")
    if summary.n_failed:
        print(f"attribute: failures in {failures_url(config.out)}")
    if summary.n_pending:
        print(f"attribute: error: {summary.n_pending} rows are pending", file=sys.stderr)
        return 1
    if summary.failed_fraction > config.max_failed_fraction:
        print(
            f"attribute: error: {summary.failed_fraction:.1%} of the clips failed, more than "
            f"max_failed_fraction={config.max_failed_fraction:.1%}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_job(AttributeJob, attribute, verb="attribute"))
