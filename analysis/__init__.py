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
- `class_statistics`: where and when the weight lies, by class; `overall_statistics`: over all
- `group_statistics`: the same, and quantiles of scores, by any columns together
- `scores`: a table with some 30 numbers for each clip, beside the manifest's columns; `score_run`
  makes it; `describe_scores` says what each number is
- `measured_by_class`: what the model has said about perturbed clips, by class
- `findings`: what a person should look at in a run, ranked
- `save_statistics`, `open_statistics`: keep them beside the run
- `show_clip`: a clip that plays under its attribution, in a notebook
- `write_report`: a page about the run, which opens from disk
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.attributions import focused_attribution as focused_attribution
    from analysis.attributions import joint_attribution as joint_attribution
    from analysis.audit.audit import findings as findings
    from analysis.measured_tables import measured_by_class as measured_by_class
    from analysis.moving_clip import show_clip as show_clip
    from analysis.page.report import write_report as write_report
    from analysis.runs import by_video as by_video
    from analysis.runs import class_names as class_names
    from analysis.runs import for_netcdf as for_netcdf
    from analysis.runs import join_runs as join_runs
    from analysis.runs import ok as ok
    from analysis.runs import open_run as open_run
    from analysis.score_table import describe_scores as describe_scores
    from analysis.score_table import score_run as score_run
    from analysis.score_table import scores as scores
    from analysis.statistics import class_statistics as class_statistics
    from analysis.statistics import group_statistics as group_statistics
    from analysis.statistics import open_statistics as open_statistics
    from analysis.statistics import overall_statistics as overall_statistics
    from analysis.statistics import save_statistics as save_statistics
    from analysis.summary import run_summary as run_summary
    from pipeline.attribution.focus import Focus as Focus
    from pipeline.attribution.focus import Threshold as Threshold

_MODULES = {
    "analysis.attributions": ("focused_attribution", "joint_attribution"),
    "analysis.audit.audit": ("findings",),
    "analysis.measured_tables": ("measured_by_class",),
    "analysis.moving_clip": ("show_clip",),
    "analysis.page.report": ("write_report",),
    "analysis.runs": (
        "by_video",
        "class_names",
        "for_netcdf",
        "join_runs",
        "ok",
        "open_run",
    ),
    "analysis.score_table": ("describe_scores", "score_run", "scores"),
    "analysis.statistics": (
        "class_statistics",
        "group_statistics",
        "open_statistics",
        "overall_statistics",
        "save_statistics",
    ),
    "analysis.summary": ("run_summary",),
    "pipeline.attribution.focus": ("Focus", "Threshold"),
}
"""Names by module: using a name loads its module alone, and `--help` loads none."""

_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
