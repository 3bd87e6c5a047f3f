"""What a page reads of a run before it shows anything: a row a clip, and an entry a class."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from analysis.runs import open_run
from analysis.score_table import scores, with_current_metrics
from analysis.statistics import (
    By,
    check_current,
    class_statistics,
    default_grouping,
    open_statistics,
)
from analysis.summary import RunCounts, run_summary
from pipeline.errors import StoreError
from pipeline.store.opening import Store, open_store
from pipeline.store.run_folder import store_url


@dataclass(frozen=True)
class RunTables:
    """A run's scores, statistics and counts."""

    url: str
    ds: xr.Dataset
    store: Store
    summary: RunCounts
    by: By
    table: pd.DataFrame
    """From `analysis.scores`: the ok clips."""
    statistics: xr.Dataset
    """Of classes, by ``by``, in memory."""

    @classmethod
    def of_run(
        cls, url: str, *, by: By | None = None, statistics: xr.Dataset | None = None
    ) -> "RunTables":
        """Read a run; scores and statistics are made where they aren't there.

        Parameters
        ----------
        by
            Group by label or prediction; by default by label where any clip has one.
        statistics
            From `class_statistics`; by default those beside the run.

        Raises
        ------
        StoreError
            When there is no run, no clip of it is ok, or the statistics are of other rows.
        """
        ds = open_run(url)
        summary = run_summary(ds)
        if not summary["n_ok"]:
            raise StoreError(f"{url}: no clip is ok, so there is nothing to show")
        if statistics is None:
            by = by or default_grouping(summary)
            statistics = _statistics(url, ds, by)
        else:
            statistics = statistics.compute()
            check_current(statistics, ds)
            by = statistics.attrs["by"]
        table = with_current_metrics(scores(url), url, ds)
        ok = (table["status"] == "ok").to_numpy()
        return cls(url, ds, open_store(store_url(url)), summary, by, table[ok], statistics)

    @property
    def groups(self) -> NDArray[np.int64]:
        """(rows of the table,) index of the class that a clip is shown in; -1 for none."""
        index = self.table[f"{self.by}_index"].to_numpy(np.int64)
        return np.where(index < self.statistics.sizes["class"], index, -1)

    @cached_property
    def n_videos(self) -> NDArray[np.int64]:
        """(class,) videos whose clips are shown in each class."""
        counts = self.table["video_id"].groupby(self.groups).nunique()
        of_class = counts.reindex(range(self.statistics.sizes["class"]), fill_value=0)
        return np.asarray(of_class, np.int64)


def _statistics(url: str, ds: xr.Dataset, by: By) -> xr.Dataset:
    try:
        return open_statistics(url, by)
    except StoreError:
        return class_statistics(ds, by).compute()
