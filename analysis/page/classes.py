"""Classes as the page shows them: numbers of each, maps, and profiles in time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from analysis.audit.logos import where_in_words
from analysis.clip_scores import SCORES
from analysis.measured_columns import MEASURED
from analysis.page.pictures import (
    QuantileScale,
    data_url,
    difference_png,
    map_pixels,
    map_png,
    sprite_png,
)
from analysis.statistics import overall_statistics
from pipeline.store.measured import FLAG, FLAGGED

Floats = NDArray[np.float64]

RESULTS = {
    "accuracy": "share of the labelled clips whose prediction is the label",
    "probability": "mean probability of the predicted class",
    "label_probability": "mean probability of the clip's own class",
    "class_agreement": "mean agreement of a clip's spatial map with its class's other clips",
}
"""Numbers of a class beside the means of `SCORES` and `MEASURED`."""

FLAGGED_SCORES = [name for name in (*SCORES, *MEASURED) if name.replace("_", " ") in FLAGGED]
"""Columns that the page marks, as they rank a corrupted truth above the truth."""
FLAG_MEANS = f"; {FLAG} it ranks a corrupted truth above the truth: don't take it for quality"
"""Stands behind what the page says of a score that is marked."""
SHEET_COLUMNS = 32
"""Maps in a row of the picture that holds all classes' maps."""
LEAST_VIDEOS = 5
"""Videos of a class below which the page shows no interval of its profile."""
_NEARLY_UNIFORM = 0.1
"""Range of a map, in times uniform, below which the page says that it is nearly uniform."""


@dataclass(frozen=True)
class Maps:
    """Mean maps of all classes, in times uniform, with the scales that they share."""

    spatial: Floats
    """(classes, y, x); NaN for a class without clips."""
    overall: Floats
    """(y, x) mean over all clips."""
    scale: QuantileScale
    difference_scale: QuantileScale

    @classmethod
    def of(cls, statistics: xr.Dataset) -> "Maps":
        """Take those of computed class statistics."""
        n_patches = statistics.sizes["y"] * statistics.sizes["x"]
        spatial = statistics["spatial_map"].values * n_patches
        overall = overall_statistics(statistics)["spatial_map"].values * n_patches
        return cls(
            spatial,
            overall,
            QuantileScale.of(spatial),
            QuantileScale.of(np.abs(spatial - overall)),
        )

    def sheet(self) -> bytes:
        """All classes' maps in one picture, `SHEET_COLUMNS` in a row."""
        return sprite_png(map_pixels(self.spatial, self.scale), SHEET_COLUMNS)

    def legend(self) -> dict[str, list[float]]:
        """Say what the shared scales mean, at five places each, in times uniform."""
        places = (0, 0.25, 0.5, 0.75, 1)
        return {
            "map": [self.scale.at(place) for place in places],
            "difference": [self.difference_scale.at(place) for place in places],
        }

    def of_class(self, index: int) -> dict[str, Any]:
        """Give a class's map and difference, on the shared scales and on ones of their own."""
        return picture_of(self.spatial[index], self) | {
            "difference": difference_of(self.spatial[index], self.overall, self.difference_scale)
        }


def picture_of(spatial: Floats, maps: Maps) -> dict[str, Any]:
    """Draw a map (y, x), in times uniform, on the shared scale and on its own."""
    own = QuantileScale.of(spatial)
    grid = (1, *spatial.shape)
    y, x = np.unravel_index(int(np.nanargmax(spatial)), spatial.shape)
    return {
        "map": data_url(map_png(map_pixels(spatial, maps.scale))),
        "ownMap": data_url(map_png(map_pixels(spatial, own))),
        "ownLegend": [own.at(place) for place in (0, 0.25, 0.5, 0.75, 1)],
        "most": {
            "value": float(spatial[y, x]),
            "y": int(y) + 1,
            "x": int(x) + 1,
            "where": where_in_words(int(y), int(x), grid),
        },
        "least": float(np.nanmin(spatial)),
        "nearlyUniform": bool(np.ptp(spatial) < _NEARLY_UNIFORM),
    }


def difference_of(spatial: Floats, overall: Floats, scale: QuantileScale) -> dict[str, Any]:
    """Draw what a map (y, x) has more and less than another; both in times uniform."""
    difference = spatial - overall
    grid = (1, *spatial.shape)
    y, x = np.unravel_index(int(np.nanargmax(difference)), spatial.shape)
    return {
        "map": data_url(difference_png(difference, scale)),
        "ownMap": data_url(difference_png(difference, QuantileScale.of(np.abs(difference)))),
        "most": {
            "value": float(difference[y, x]),
            "y": int(y) + 1,
            "x": int(x) + 1,
            "where": where_in_words(int(y), int(x), grid),
        },
        "least": float(np.nanmin(difference)),
    }


def profile_of(
    statistics: xr.Dataset, index: int, seconds: Floats | None, n_videos: int
) -> dict[str, Any]:
    """Temporal profile of a class in times uniform, with its intervals.

    ``low`` and ``high`` are the 95 % interval of the mean, None with fewer than `LEAST_VIDEOS`, and
    ``std`` is the standard deviation over clips. The interval takes the clips of a video for one
    (normal approximation, deviation over the root of ``n_videos``): it is rather too wide.
    """
    one = statistics.isel({"class": index})
    n_times = statistics.sizes["time"]
    mean = one["temporal_profile"].values * n_times
    deviation = one["temporal_profile_std"].values * n_times
    margin = 1.96 * deviation / np.sqrt(max(n_videos, 1))
    enough = n_videos >= LEAST_VIDEOS
    return {
        "mean": mean,
        "low": np.maximum(mean - margin, 0) if enough else None,
        "high": mean + margin if enough else None,
        "std": deviation,
        "seconds": seconds,
    }


def class_table(
    table: pd.DataFrame,
    groups: NDArray[np.integer],
    statistics: xr.Dataset,
    findings_of: dict[str, int],
) -> dict[str, Any]:
    """Columns of the table of classes, an entry a class.

    Parameters
    ----------
    table
        From `analysis.scores`, of ok clips.
    groups
        (rows of the table,) index of each clip's class.
    findings_of
        Findings by the name of the class that they are about.
    """
    n_classes = statistics.sizes["class"]
    names = [str(name) for name in statistics["class"].values]
    numbers = [
        name for name in (*RESULTS, *SCORES, *MEASURED) if name in table and name != "accuracy"
    ]
    known = groups >= 0
    means = table.loc[known, numbers].astype(np.float64).groupby(groups[known]).mean()
    means = means.reindex(range(n_classes))
    profile = statistics["temporal_profile"].fillna(0).values
    return {
        "name": names,
        "n": statistics["n_clips"].values,
        "failed": statistics["n_failed"].values,
        "findings": [findings_of.get(name, 0) for name in names],
        "peak": profile.argmax(axis=1) + 1,
        "accuracy": statistics["accuracy"].values,
        **{name: means[name].to_numpy() for name in numbers},
    }


def class_seconds(
    frame_time: Floats | None, groups: NDArray[np.integer], n_classes: int, n_times: int
) -> list[Floats | None]:
    """Second at which each time step begins, the median over a class's clips.

    Parameters
    ----------
    frame_time
        (clips, frames) seconds in the clip's file; None where a run has none.
    groups
        (clips,) class of each; -1 for none.

    Returns
    -------
    (time,) for each class, or None where no clip of it says
    """
    if frame_time is None:
        return [None] * n_classes
    begins = frame_time[:, :: frame_time.shape[1] // n_times]
    known = np.isfinite(begins).all(axis=1) & (groups >= 0)
    order = np.flatnonzero(known)[np.argsort(groups[known], kind="stable")]
    bounds = np.searchsorted(groups[order], np.arange(n_classes + 1))
    parts: Sequence[NDArray[np.intp]] = np.split(order, bounds[1:-1])
    return [np.median(begins[part], axis=0) if len(part) else None for part in parts]


def confusion(table: pd.DataFrame) -> dict[str, Any]:
    """Count each pair of label and prediction that occurs: three columns."""
    labelled = table[table["label_index"] >= 0]
    pairs = labelled.groupby(["label_index", "prediction_index"], observed=True).size()
    return {
        "label": pairs.index.get_level_values(0).to_numpy(),
        "prediction": pairs.index.get_level_values(1).to_numpy(),
        "n": pairs.to_numpy(),
    }
