"""Reduce a run to scores and statistics: ``python -m jobs.aggregate --help``."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from jobs.audit import write_page
from jobs.cli import RunWriter, owned_run, run_job, writing
from pipeline.errors import ConfigError, StoreError
from pipeline.text import printable

if TYPE_CHECKING:
    import xarray as xr

    from analysis.score_table import ScoredRun
    from pipeline.store.lease import Lease


class AggregateConfig(RunWriter):
    """Reduce a run to scores of each clip and statistics of its classes, beside the run.

    Also writes a page about it. One pass over the store makes all of it, on threads of this
    machine, or on a cluster.
    """

    by: Literal["label", "prediction"] | None = None
    """Group the table and the page by `label` or by `prediction`; by default by label in a run that
    has labels. Statistics by both are kept."""
    manifest: str | None = None
    """Where the run's manifest is now; by default where it was when the run was made."""
    report: bool = True
    """Write the page, too."""
    clips_per_class: int = Field(default=2, ge=0)
    """Clips that the page shows of each class for each reason: typical, odd, right, wrong ones."""
    clips_with_frames: int = Field(default=200, ge=0)
    """Clips that the page shows with their frames; others are shown by their maps."""
    dask: str | None = None
    """Address of a Dask scheduler, `tcp://host:8786`; needs the extra `dask`."""
    workers: int | None = Field(default=None, ge=1)
    """Start a Dask cluster of so many processes on this machine; needs the extra `dask`."""
    ray: bool = False
    """Compute on the Ray cluster that `RAY_ADDRESS` names, or on one that is started here."""

    @model_validator(mode="after")
    def _one_place(self) -> "AggregateConfig":
        given = [name for name in ("dask", "workers", "ray") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} were given: expected one place to compute in")
        return self


def aggregate(config: AggregateConfig) -> int:
    """Score and sum, keep both, print the statistics, and draw the page from them."""
    with owned_run(config, "aggregate") as (_, lease):
        return _aggregate(config, lease)


def _aggregate(config: AggregateConfig, lease: "Lease") -> int:
    from analysis import open_run, run_summary, save_statistics
    from analysis.statistics import classes_with_lost_clips, default_grouping
    from pipeline.store.verify import lost_attributions_error

    ds = open_run(config.run)
    with _damage_named(config.run):
        summary = run_summary(ds)
    if not summary["n_ok"]:
        raise StoreError(f"{config.run}: no clip is ok, so there is nothing to aggregate")
    if summary["n_pending"]:
        pending = f"{summary['n_pending']} of {summary['n_rows']} clips are still pending"
        print(f"aggregate: warning: {pending} and left out", file=sys.stderr)
    by = config.by or default_grouping(summary)
    if by == "label" and not summary["n_labelled"]:
        raise ConfigError(f"by: 'label', but no clip of {config.run} has one; try 'prediction'")
    with _scheduler(config), writing("run", config.run), _damage_named(config.run):
        scored = _score(config, lease)
    for note in scored.notes:
        print(f"aggregate: warning: {note}", file=sys.stderr)
    groupings: list[Literal["label", "prediction"]] = ["label", "prediction"]
    if not summary["n_labelled"]:
        groupings.remove("label")
    of = {grouping: _statistics(ds, scored, grouping) for grouping in groupings}
    statistics = of[by]
    if lost := classes_with_lost_clips(statistics):
        raise lost_attributions_error(config.run, lost)
    lease.check()
    with writing("run", config.run):
        for one in of.values():
            url = save_statistics(one, config.run)
    print(_table(statistics))
    print(f"aggregate: scores of {summary['n_ok']} clips in {scored.url}")
    print(f"aggregate: {int(statistics['n_clips'].sum())} clips by {by}; statistics in {url}")
    if config.report:
        lease.check()
        with writing("run", config.run):
            page = write_page(
                "aggregate",
                config.run,
                statistics=statistics,
                clips_per_class=config.clips_per_class,
                clips_with_frames=config.clips_with_frames,
            )
        print(f"aggregate: report in {page}")
    return 0


@contextmanager
def _damage_named(run: str) -> Iterator[None]:
    """Name the object of a store that a reader failed on; Zarr and its codecs name none.

    Raises
    ------
    StoreError
        If the store is damaged.
    """
    try:
        yield
    except (ValueError, RuntimeError, KeyError) as error:
        from pipeline.store.opening import open_store
        from pipeline.store.run_folder import store_url
        from pipeline.store.verify import check_store

        check_store(open_store(store_url(run)))
        raise error


def _score(config: AggregateConfig, lease: "Lease") -> "ScoredRun":
    from analysis.score_table import score_run
    from pipeline.run.progress_bar import counted_bar

    with counted_bar(unit="blocks", desc="aggregate") as show:

        def checked(done: int, total: int) -> None:
            lease.check()
            show(done, total)

        return score_run(config.run, manifest=config.manifest, progress=checked)


def _statistics(
    ds: "xr.Dataset", scored: "ScoredRun", by: Literal["label", "prediction"]
) -> "xr.Dataset":
    from analysis.score_table import STANDARD
    from analysis.statistics import statistics_of_sums

    place = [grouping.by for grouping in STANDARD].index((by,))
    failed = next(i for i, grouping in enumerate(STANDARD) if grouping.rows == "failed")
    sums = scored.totals.sums
    return statistics_of_sums(ds, sums[place], sums[failed], scored.totals.coverage, by)


_SCHEDULER_TIMEOUT = "30s"


@contextmanager
def _scheduler(config: AggregateConfig) -> Iterator[None]:
    """Let Dask compute where the configuration says, while open."""
    import dask

    if config.ray:
        import ray
        from ray.util.dask import ray_dask_get

        if not ray.is_initialized():
            ray.init(log_to_driver=False, logging_level="error")
        with dask.config.set(scheduler=ray_dask_get):
            yield
        return
    if config.dask is None and config.workers is None:
        yield
        return
    try:
        import distributed
    except ImportError as error:
        raise ConfigError(
            "dask, workers: no dask.distributed is installed: install the extra 'dask', for "
            "example with pip install '.[dask]'"
        ) from error
    cluster: Any = distributed  # its functions have no types
    where: Any = config.dask
    if where is None:
        where = cluster.LocalCluster(
            n_workers=config.workers, threads_per_worker=1, dashboard_address=None
        )
    try:
        client = cluster.Client(where, timeout=_SCHEDULER_TIMEOUT)
    except OSError as error:
        raise ConfigError(f"dask: no scheduler answers at {config.dask}: {error}") from error
    try:
        with client:
            yield
    finally:
        if config.dask is None:
            where.close()


def _table(statistics: "xr.Dataset") -> str:
    """One line per class that has clips, be it failed ones; ``peak_time`` counts from 1."""
    columns = statistics[["n_clips", "n_failed", "accuracy", "entropy"]].drop_vars("class_index")
    peak = statistics["temporal_profile"].fillna(0).argmax("time") + 1
    frame = columns.assign(peak_time=peak.drop_vars("class_index")).to_dataframe()
    frame["peak_time"] = frame["peak_time"].astype(object).where(frame["n_clips"] > 0)
    shown = frame[frame["n_clips"] + frame["n_failed"] > 0].round({"accuracy": 3, "entropy": 3})
    return str(shown.rename(index=lambda name: printable(str(name))).to_string(na_rep="-"))


if __name__ == "__main__":
    sys.exit(run_job(AggregateConfig, aggregate, verb="aggregate"))
