"""A page about a run that opens from disk: what became of its clips, and where its classes look."""

import json

import numpy as np
import xarray as xr

from analysis.page.class_sections import (
    SharedScales,
    class_view,
    map_picture,
    map_top,
    profile_picture,
)
from analysis.page.clip_cards import clip_views, failure_views
from analysis.page.examples import ClipSource, choose_clips
from analysis.page.folder import PageFolder, render_page
from analysis.runs import open_run
from analysis.statistics import (
    check_current,
    class_statistics,
    default_grouping,
    overall_statistics,
)
from analysis.summary import run_summary
from pipeline.errors import ManifestError
from pipeline.status import Status
from pipeline.store.run_folder import in_run

REPORT_NAME = "report"
"""Name of the report's folder in a run's folder."""


def write_report(
    run_url: str,
    *,
    statistics: xr.Dataset | None = None,
    clips_per_class: int = 2,
    max_failures: int = 100,
) -> str:
    """Write the report of a run into its folder, over one that is there.

    Columns of one number per clip are read whole; attributions only for the clips that are shown.
    Clips whose source can't be read any more are listed with the reason in place of a picture.

    Parameters
    ----------
    run_url
        The run's folder, any fsspec URL.
    statistics
        From `class_statistics` or `open_statistics`; computed where None, by label, or by
        prediction in a run without labels.
    clips_per_class
        Clips to show of each class: the most confident correct and wrong ones, in turn.
    max_failures
        Failed clips to list; the page says how many there are.

    Returns
    -------
    URL of the page

    Raises
    ------
    StoreError
        When there is no run at the URL, or the statistics are another run's.
    """
    ds = open_run(run_url)
    summary = run_summary(ds)
    if statistics is None:
        statistics = class_statistics(ds, default_grouping(summary)).compute()
    else:
        statistics = statistics.compute()
        check_current(statistics, ds)
    clips = ds[["status", "label", "prediction", "probability"]].compute()
    source, source_note = _clip_source(ds)
    folder = PageFolder(in_run(run_url, REPORT_NAME))
    shown = _chosen(clips, statistics, clips_per_class)
    views = clip_views(ds, [row for rows in shown for row in rows], source, folder)
    scales = SharedScales.of(statistics)
    overall = overall_statistics(statistics)
    page = render_page(
        run_url=run_url,
        attributes=ds.attrs,
        provenance=json.dumps(
            {key: value for key, value in ds.attrs.items() if key != "class_names"}, indent=2
        ),
        summary=summary,
        by=statistics.attrs["by"],
        n_times=statistics.sizes["time"],
        grid=(statistics.sizes["y"], statistics.sizes["x"]),
        scales=scales,
        overall_entropy=float(overall["entropy"]),
        overall_map=map_picture(overall, "all classes", "overall", map_top(overall), folder),
        overall_profile=profile_picture(overall, "all classes", "overall", scales.temporal, folder),
        classes=[
            class_view(statistics, index, scales, [views[row] for row in rows], folder)
            for index, rows in enumerate(shown)
        ],
        failures=failure_views(ds, clips["status"].values, source, max_failures),
        source_note=source_note,
    )
    return folder.write("index.html", page.encode())


def _clip_source(ds: xr.Dataset) -> tuple[ClipSource | None, str | None]:
    """Source of the run's clips, or the reason why there is none."""
    try:
        return ClipSource.of_run(ds), None
    except ManifestError as error:
        return None, str(error)


def _chosen(clips: xr.Dataset, statistics: xr.Dataset, clips_per_class: int) -> list[list[int]]:
    labels, predictions = clips["label"].values, clips["prediction"].values
    groups = np.where(clips["status"] == Status.OK, clips[statistics.attrs["by"]], -1)
    return choose_clips(
        groups,
        (labels < 0) | (labels == predictions),
        clips["probability"].values,
        n_classes=statistics.sizes["class"],
        clips_per_class=clips_per_class,
    )
