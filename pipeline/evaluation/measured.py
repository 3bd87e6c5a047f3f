"""What was measured of a run by perturbing its clips, read back and averaged."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import by_video
from pipeline.evaluation.faithfulness import FRACTIONS
from pipeline.evaluation.perturbation import FILLS, UNITS
from pipeline.status import Status
from pipeline.store.opening import open_store
from pipeline.store.pending import read_status
from pipeline.store.run_folder import metrics_url, store_url

Float64Array = NDArray[np.float64]

NO_QUALITY = ("CAM entropy", "paper's faithfulness", "paper's tau")
"""Reported, and never called quality."""


@dataclass(frozen=True)
class Measured:
    """Mean of a figure over clips, with that of each fill."""

    mean: float
    low: float
    high: float
    """95 %: bootstrap over videos; NaN of fewer than `by_video.LEAST_VIDEOS`."""
    n_clips: int
    of_fills: Mapping[str, float]


@dataclass(frozen=True)
class Faithfulness:
    """What a sample of a run's clips has told."""

    figures: Mapping[str, Measured]
    classes: Mapping[str, Measured]
    """The gap over patches by class; of the class that is labelled."""
    n_clips: int
    failed: Mapping[str, int]
    """Clips that couldn't be measured, by the name of their status."""
    n_forward: float
    """Clips that went through the model for one, on average."""


def read_faithfulness(run_url: str, out: str, *, seed: int = 0) -> Faithfulness:
    """Average what is in a sample's store; clips that failed are counted, and in no average.

    Parameters
    ----------
    run_url
        The run that it is of.
    out
        Folder of the sample.

    Raises
    ------
    StoreError
        If one of the stores isn't there.
    """
    store, run = open_store(metrics_url(out)), open_store(store_url(run_url))
    status = read_status(store)
    ok = status == Status.OK
    values = {name: np.asarray(store.array(name)[:], np.float64)[ok] for name in _ARRAYS}
    rows = np.asarray(store.array("run_row")[:])[ok]
    videos = by_video.videos_of_rows(run)[rows]
    figures = {
        name: _measured(of_fill, videos, seed) for name, of_fill in _of_clips(values).items()
    }
    labels = np.asarray(run.array("label")[:])[rows]
    gaps, names = _of_clips(values)["gap patches"], run.record.class_names
    classes = {
        names[label]: _measured(gaps[labels == label], videos[labels == label], seed)
        for label in np.unique(labels[labels >= 0]).tolist()
    }
    codes, counts = np.unique(status[~ok], return_counts=True)
    return Faithfulness(
        figures,
        classes,
        int(ok.sum()),
        {Status(code).label: int(n) for code, n in zip(codes, counts, strict=True)},
        float(values["n_forward"].mean()) if ok.any() else float("nan"),
    )


_ARRAYS = (
    *("gap", "random_gap", "removed", "random_removed", "kept", "random_kept"),
    *("cam_entropy", "paper_faithfulness", "paper_tau", "n_forward"),
)


def _of_clips(values: Mapping[str, Float64Array]) -> dict[str, Float64Array]:
    """Figures of each clip and fill, (clips, fills), those of random orders taken off."""
    gap = values["gap"] - values["random_gap"]
    falls = {name: values[name] - values[f"random_{name}"] for name in ("removed", "kept")}
    return {
        **{f"gap {unit}": gap[:, :, place] for place, unit in enumerate(UNITS)},
        **{
            f"{name} {share:.0%}": fall[:, :, place]
            for name, fall in falls.items()
            for place, share in enumerate(FRACTIONS)
        },
        "CAM entropy": values["cam_entropy"],
        "paper's faithfulness": values["paper_faithfulness"],
        "paper's tau": values["paper_tau"],
    }


def _measured(of_fill: Float64Array, videos: NDArray[Any], seed: int) -> Measured:
    """Average (clips, fills) over both; views of a video are drawn together."""
    of_clip = of_fill.mean(axis=1) if len(of_fill) else np.zeros(0)
    if not len(of_clip):
        nan = float("nan")
        return Measured(nan, nan, nan, 0, dict.fromkeys(FILLS, nan))
    low, high = by_video.interval(of_clip, np.ones(len(of_clip)), videos, seed=seed)
    fills = dict(zip(FILLS, of_fill.mean(axis=0).tolist(), strict=True))
    return Measured(float(of_clip.mean()), low, high, len(of_clip), fills)
