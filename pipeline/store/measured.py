"""What `jobs.evaluate` has measured of a sample of a run's clips, read back and averaged.

The arrays are those of `pipeline.evaluation.measures`; this module knows their order, and loads no
torch, so that pages and notebooks can read them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.status import Status
from pipeline.store import by_video
from pipeline.store.opening import Store, open_store
from pipeline.store.pending import read_status
from pipeline.store.rows import read_rows
from pipeline.store.run_folder import metrics_url, store_url

Float64Array = NDArray[np.float64]

Group = Literal["faithfulness", "time", "sanity"]
GROUPS: tuple[Group, ...] = get_args(Group)
"""What a sample may be asked for."""
FILLS = ("blur", "median", "mean")
UNITS = ("patches", "frames", "tubes")
SHARES = (0.02, 0.05, 0.1, 0.2)
"""What an array's dimensions ``fill``, ``unit`` and ``share`` stand for, in order."""

OF_TIME = {
    "T of the map": "temporal_agreement",
    "frame importance": "importance_agreement",
    "change of pixels": "change_agreement",
}
"""Profiles that are held against the frames' Shapley values; the last asks no model."""
OF_SANITY = {
    "class sensitivity": "class_sensitivity",
    "random classifier": "random_classifier",
    "random blocks": "random_blocks",
    "max-sensitivity": "max_sensitivity",
}

NO_QUALITY = ("CAM entropy", "paper's faithfulness", "paper's tau")
"""Reported, and never called quality."""
SAME_MAP = 0.999
"""Correlation of maps that are the same but for rounding."""
FLAGGED = frozenset(
    ("gap frames", "CAM entropy", "paper's faithfulness", "paper's tau", "entropy", "gini")
)
"""Metrics that rank a corrupted truth above the truth, on the model set by hand: a test tries them
all again (`pipeline.evaluation.metric_checks`), so no run has to. Metrics that look at more than
maps can't be tried: those of sanity."""
_NUMBERS = ("run_row", "target", "n_forward")
_REMEDY = "jobs.evaluate with --overwrite measures the sample again"
FLAG = "!"
"""Stands at the name of a metric that is flagged."""


def marked(metric: str, name: str | None = None) -> str:
    """Give the name of a metric as it is shown: with `FLAG` if it is flagged.

    Parameters
    ----------
    name
        What it is called where it is shown, if not as here.
    """
    return (name or metric) + (f" {FLAG}" if metric in FLAGGED else "")


@dataclass(frozen=True)
class Measured:
    """Mean of a figure over clips, with that of each fill where there are several."""

    mean: float
    low: float
    high: float
    """95 %: bootstrap over videos; NaN of fewer than `by_video.LEAST_VIDEOS`."""
    n_clips: int
    of_fills: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Sample:
    """What a sample of a run's clips has told, of clips that could be measured."""

    rows: NDArray[np.int64]
    """(clips,): their rows in the run."""
    videos: NDArray[np.int64]
    """(clips,): their videos; views and segments of a video have one."""
    labels: NDArray[np.int64]
    """(clips,): their labelled classes, -1 where unknown."""
    class_names: tuple[str, ...]
    figures: Mapping[str, Mapping[str, Float64Array]]
    """By group (``faithfulness``, ``time``, ``sanity``) and name: (clips,), or (clips, fills).
    Figures of faithfulness are less those of random orders. A group that wasn't asked for is
    empty."""
    repeatability: Float64Array | None
    """(clips,): agreement of the frames' Shapley values with themselves, of shifted clips."""
    recomputed: Float64Array | None
    """(clips,): correlation of maps that were computed again with the run's: 1 but for rounding."""
    is_of_class: bool
    """Whether the run's maps are of a class."""
    failed: Mapping[str, int]
    """Clips that couldn't be measured, by the name of their status."""
    n_forward: float
    """Clips that went through the model for one, on average; NaN of no clip."""

    @property
    def n_clips(self) -> int:
        """Clips that were measured."""
        return len(self.rows)

    def averages(self, group: str) -> dict[str, Measured]:
        """Average each figure of a group over all clips."""
        return {name: self.average(values) for name, values in self.figures[group].items()}

    def average(self, values: Float64Array, chosen: NDArray[np.bool_] | None = None) -> Measured:
        """Average a figure over clips; views of a video are drawn together.

        Parameters
        ----------
        values
            (clips,) or (clips, fills).
        chosen
            (clips,): which of them; by default all.
        """
        some = slice(None) if chosen is None else chosen
        return averaged(values[some], self.videos[some])

    def notes_on_sanity(self) -> list[str]:
        """Say, a sentence each, what nobody can see in the figures of sanity, if there are any."""
        notes = []
        if self.figures["sanity"] and not self.is_of_class:
            notes.append(
                "This method doesn't look at the class: the first two are 1 by construction."
            )
        elif self.figures["sanity"] and len(self.class_names) == 1:
            notes.append("The model has one class: the first is 1 by construction.")
        again = self.recomputed
        if again is not None and len(again) and again.mean() < SAME_MAP:
            notes.append(
                f"Maps that were computed again correlate with the run's at {again.mean():.3f} "
                "only: another release, machine or precision has made them."
            )
        return notes

    def by_class(self, group: str, name: str) -> dict[str, Measured]:
        """Average a figure over the clips of each labelled class that has any."""
        values = self.figures[group].get(name)
        return {} if values is None else self.of_classes(values)

    def of_classes(self, values: Float64Array) -> dict[str, Measured]:
        """Average (clips,) or (clips, fills) over the clips of each labelled class that has any."""
        return {
            self.class_names[label]: self.average(values, self.labels == label)
            for label in np.unique(self.labels[self.labels >= 0]).tolist()
        }


def read_sample(run_url: str, out: str) -> Sample:
    """Read what a sample has told; clips that failed are counted, and in no figure.

    Parameters
    ----------
    run_url
        The run that it is of.
    out
        Folder of the sample.

    Raises
    ------
    StoreError
        If one of the stores isn't there, or what was committed in it is lost or damaged.
    """
    return sample_of(open_store(metrics_url(out)), open_store(store_url(run_url)))


def sample_of(store: Store, run: Store) -> Sample:
    """Do as `read_sample` does, of stores that are open."""
    status = read_status(store)
    ok = status == Status.OK
    values = {
        measure.name: read_rows(store, measure.name, slice(None), remedy=_REMEDY)[ok].astype(
            np.float64
        )
        for measure in store.layout.measures
    }
    # A clip that is ok has a finite value of everything: Zarr makes up NaN, and -1 for numbers.
    for name, each in values.items():
        if not np.isfinite(each).all() or (name in _NUMBERS and (each < 0).any()):
            raise StoreError(f"{store.url}/{name} has lost objects; {_REMEDY}")
    rows = values["run_row"].astype(np.int64)
    codes, counts = np.unique(status[~ok], return_counts=True)
    return Sample(
        rows=rows,
        videos=by_video.videos_of_rows(run)[rows],
        labels=read_rows(run, "label", slice(None)).astype(np.int64)[rows],
        class_names=run.record.class_names,
        figures={
            "faithfulness": faithfulness_figures(values) if "gap" in values else {},
            "time": {name: values[array] for name, array in OF_TIME.items() if array in values},
            "sanity": {name: values[array] for name, array in OF_SANITY.items() if array in values},
        },
        repeatability=values.get("shapley_agreement"),
        recomputed=values.get("recomputed"),
        is_of_class=run.record.class_specific,
        failed={Status(code).label: int(n) for code, n in zip(codes, counts, strict=True)},
        n_forward=float(values["n_forward"].mean()) if ok.any() else float("nan"),
    )


def faithfulness_figures(values: Mapping[str, Float64Array]) -> dict[str, Float64Array]:
    """Figures of each clip and fill, (clips, fills), those of random orders taken off."""
    gap = values["gap"] - values["random_gap"]
    falls = {name: values[name] - values[f"random_{name}"] for name in ("removed", "kept")}
    return {
        **{f"gap {unit}": gap[:, :, place] for place, unit in enumerate(UNITS)},
        **{
            f"{name} {share:.0%}": fall[:, :, place]
            for name, fall in falls.items()
            for place, share in enumerate(SHARES)
        },
        "CAM entropy": values["cam_entropy"],
        "paper's faithfulness": values["paper_faithfulness"],
        "paper's tau": values["paper_tau"],
    }


def averaged(values: Float64Array, videos: NDArray[Any], *, seed: int = 0) -> Measured:
    """Average (clips,) or (clips, fills) over both, with an interval over videos."""
    has_fills = values.ndim > 1
    of_clip = values.mean(axis=1) if has_fills and len(values) else values
    if not len(of_clip):
        nan = float("nan")
        return Measured(nan, nan, nan, 0, dict.fromkeys(FILLS, nan) if has_fills else {})
    low, high = by_video.interval(of_clip, np.ones(len(of_clip)), videos, seed=seed)
    fills = dict(zip(FILLS, values.mean(axis=0).tolist(), strict=True)) if has_fills else {}
    return Measured(float(of_clip.mean()), low, high, len(of_clip), fills)
