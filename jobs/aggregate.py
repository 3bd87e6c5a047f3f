"""Reduce a run to statistics of its classes: ``python -m jobs.aggregate --help``."""

import sys
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from jobs.cli import run_job, writing
from pipeline.base_config import FrozenConfig
from pipeline.errors import ConfigError, StoreError

if TYPE_CHECKING:
    import xarray as xr


class AggregateConfig(FrozenConfig):
    """Reduce a run to statistics of its classes, and write a page about it, beside the run."""

    run: CliPositionalArg[str]
    """Folder of the run, any fsspec URL."""
    by: Literal["label", "prediction"] | None = None
    """Group by `label` or by `prediction`; by default by label in a run that has labels."""
    report: bool = True
    """Write the page, too."""
    clips_per_class: int = Field(default=2, ge=0)
    """Clips that the page shows of each class: correct and wrong ones in turn."""


def aggregate(config: AggregateConfig) -> int:
    """Compute and keep the statistics, print them, and draw the page from them."""
    from dask.diagnostics.progress import ProgressBar

    from analysis import class_statistics, open_run, run_summary, save_statistics, write_report
    from analysis.statistics import classes_with_lost_clips, default_grouping

    ds = open_run(config.run)
    summary = run_summary(ds)
    if not summary["n_ok"]:
        raise StoreError(f"{config.run}: no clip is ok, so there is nothing to aggregate")
    if summary["n_pending"]:
        pending = f"{summary['n_pending']} of {summary['n_rows']} clips are still pending"
        print(f"aggregate: warning: {pending} and left out", file=sys.stderr)
    by = config.by or default_grouping(summary)
    if by == "label" and not summary["n_labelled"]:
        raise ConfigError(f"by: 'label', but no clip of {config.run} has one; try 'prediction'")
    # Dask's bar has no types.
    with ProgressBar(minimum=2.0):  # type: ignore[no-untyped-call]
        statistics = class_statistics(ds, by).compute()
    if lost := classes_with_lost_clips(statistics):
        raise StoreError(
            f"{config.run}: ok clips of {', '.join(lost[:3])} have no attribution: the store has "
            "lost objects. Delete the status of their shards (status/c/N) and run jobs.attribute "
            "again"
        )
    with writing("run", config.run):
        url = save_statistics(statistics, config.run)
    print(_table(statistics))
    print(f"aggregate: {int(statistics['n_clips'].sum())} clips by {by}; statistics in {url}")
    if config.report:
        with writing("run", config.run):
            page = write_report(
                config.run, statistics=statistics, clips_per_class=config.clips_per_class
            )
        print(f"aggregate: report in {page}")
    return 0


def _table(statistics: "xr.Dataset") -> str:
    """One line per class that has clips, be it failed ones; ``peak_time`` counts from 1."""
    columns = statistics[["n_clips", "n_failed", "accuracy", "entropy"]]
    peak = statistics["temporal_profile"].fillna(0).argmax("time") + 1
    frame = columns.assign(peak_time=peak).to_dataframe()
    frame["peak_time"] = frame["peak_time"].astype(object).where(frame["n_clips"] > 0)
    shown = frame[frame["n_clips"] + frame["n_failed"] > 0].round({"accuracy": 3, "entropy": 3})
    return str(shown.to_string(na_rep="-"))


if __name__ == "__main__":
    sys.exit(run_job(AggregateConfig, aggregate, verb="aggregate"))
