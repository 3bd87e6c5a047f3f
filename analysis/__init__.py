"""From attributions to class-level answers, with xarray over Dask; loads neither torch nor Ray.

A run in a notebook::

    from analysis import class_statistics, open_run

    ds = open_run("s3://bucket/runs/demo")
    statistics = class_statistics(ds).compute()
    statistics.spatial_map.sel({"class": "archery"}).plot()

- `open_run`: a run as a lazy dataset, or several joined on their videos (`join_runs`); `ok`: its
  clips that have an attribution;
  `joint_attribution`: its A = S * T; `class_names`: names of its labels or predictions
- `by_video`: a run of several views, as (video, view)
- `focused_attribution`: A after `Threshold` and `Focus`, with their parameters recorded
- `run_summary`: its rows by outcome
- `class_statistics`: where and when the model looks, by class; `overall_statistics`: over all
- `group_statistics`: the same, and quantiles of scores, by any columns together
- `scores`: a table with some 30 numbers for each clip, beside the manifest's columns; `score_run`
  makes it; `describe_scores` says what each number is
- `findings`: what a person should look at in a run, ranked
- `save_statistics`, `open_statistics`: keep them beside the run
- `show_clip`: a clip that plays under its attribution, in a notebook
- `write_report`: a page about the run, which opens from disk
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.audit.audit import findings
    from analysis.moving_clip import show_clip
    from analysis.page.report import write_report
    from analysis.runs import (
        by_video,
        class_names,
        focused_attribution,
        for_netcdf,
        join_runs,
        joint_attribution,
        ok,
        open_run,
    )
    from analysis.score_table import describe_scores, score_run, scores
    from analysis.statistics import (
        class_statistics,
        group_statistics,
        open_statistics,
        overall_statistics,
        save_statistics,
    )
    from analysis.summary import run_summary
    from pipeline.attribution.focus import Focus, Threshold

__all__ = [
    "Focus",
    "Threshold",
    "by_video",
    "class_names",
    "class_statistics",
    "describe_scores",
    "findings",
    "focused_attribution",
    "for_netcdf",
    "group_statistics",
    "join_runs",
    "joint_attribution",
    "ok",
    "open_run",
    "open_statistics",
    "overall_statistics",
    "run_summary",
    "save_statistics",
    "score_run",
    "scores",
    "show_clip",
    "write_report",
]

_ON_DEMAND = {
    "findings": "analysis.audit.audit",
    "show_clip": "analysis.moving_clip",
    "write_report": "analysis.page.report",
    "by_video": "analysis.runs",
    "class_names": "analysis.runs",
    "focused_attribution": "analysis.runs",
    "for_netcdf": "analysis.runs",
    "join_runs": "analysis.runs",
    "joint_attribution": "analysis.runs",
    "ok": "analysis.runs",
    "open_run": "analysis.runs",
    "describe_scores": "analysis.score_table",
    "score_run": "analysis.score_table",
    "scores": "analysis.score_table",
    "class_statistics": "analysis.statistics",
    "group_statistics": "analysis.statistics",
    "open_statistics": "analysis.statistics",
    "overall_statistics": "analysis.statistics",
    "save_statistics": "analysis.statistics",
    "run_summary": "analysis.summary",
    "Focus": "pipeline.attribution.focus",
    "Threshold": "pipeline.attribution.focus",
}
"""Module of each name: using a name loads its module alone, and `--help` loads none."""


def __getattr__(name: str) -> Any:
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ON_DEMAND[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
