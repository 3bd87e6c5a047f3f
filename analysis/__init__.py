"""Attributions to class-level answers, with xarray over Dask; loads neither torch nor Ray.

A run in a notebook::

    from analysis import class_statistics, open_run

    ds = open_run("s3://bucket/runs/demo")
    statistics = class_statistics(ds).compute()
    statistics.spatial_map.sel({"class": "archery"}).plot()

- `open_run`: a run as a lazy dataset; `joint_attribution`: its A = S * T
- `by_video`: a run of several views, as (video, view)
- `focused_attribution`: A after `Threshold` and `Focus`, with the parameters recorded
- `run_summary`: its rows by outcome
- `class_statistics`: where and when the model looks, per class; `overall_statistics`: over all
- `save_statistics`, `open_statistics`: keep them beside the run
- `write_report`: a page about the run, which opens from disk
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from analysis.runs import by_video, focused_attribution, joint_attribution, open_run
from analysis.statistics import (
    class_statistics,
    open_statistics,
    overall_statistics,
    save_statistics,
)
from analysis.summary import run_summary
from pipeline.attribution.focus import Focus, Threshold

if TYPE_CHECKING:
    from analysis.page.report import write_report

__all__ = [
    "Focus",
    "Threshold",
    "by_video",
    "class_statistics",
    "focused_attribution",
    "joint_attribution",
    "open_run",
    "open_statistics",
    "overall_statistics",
    "run_summary",
    "save_statistics",
    "write_report",
]

_ON_DEMAND = {"write_report": "analysis.page.report"}
"""Names whose modules draw or decode: who opens a run waits neither for Matplotlib nor decord."""


def __getattr__(name: str) -> Any:
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ON_DEMAND[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
