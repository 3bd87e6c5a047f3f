"""Classes as the report shows them: a row of its table, a map and a profile each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from analysis.page import figures
from analysis.page.clip_cards import ClipView
from analysis.page.folder import PageFolder, Picture

_LEAST_PROFILE_TOP = 1.6
"""Least upper end of the profiles' axis, in times uniform: a flat profile should look flat."""


@dataclass(frozen=True)
class SharedScales:
    """Upper ends of the scales that classes share, in times uniform."""

    spatial: float
    temporal: float

    @classmethod
    def of(cls, statistics: xr.Dataset) -> "SharedScales":
        """Make room for every class's map, and for its profile with the band around it."""
        band = statistics["temporal_profile"] + statistics["temporal_profile_std"]
        # NaN where no class has a clip, and so nothing is drawn: fmax leaves the least value.
        highest = 1.2 * float(band.max()) * statistics.sizes["time"]
        return cls(map_top(statistics), float(np.fmax(highest, _LEAST_PROFILE_TOP)))


@dataclass(frozen=True)
class ClassView:
    """One class; without clips it has no pictures and no section."""

    index: int
    name: str
    n_clips: int
    n_failed: int
    accuracy: float
    entropy: float
    peak: int | None
    """Time step that gets most attention on average, counted from 1."""
    thumbnail: Picture | None
    spatial_map: Picture | None
    temporal_profile: Picture | None
    clips: Sequence[ClipView]


def class_view(
    statistics: xr.Dataset,
    index: int,
    scales: SharedScales,
    clips: Sequence[ClipView],
    folder: PageFolder,
) -> ClassView:
    """Describe the class of an index, and draw its pictures into the report's folder."""
    one = statistics.isel({"class": index})
    name, n_clips = str(one["class"].item()), int(one["n_clips"])
    file_name = f"class-{index:04d}"
    thumbnail, peak = None, None
    if n_clips:
        pixels = figures.thumbnail(one["spatial_map"].values, top=scales.spatial)
        alt = f"Mean spatial map of {name}, small"
        thumbnail = folder.add_picture(f"{file_name}-small", figures.pixels_png(pixels), alt)
        peak = int(one["temporal_profile"].values.argmax()) + 1
    return ClassView(
        index=index,
        name=name,
        n_clips=n_clips,
        n_failed=int(one["n_failed"]),
        accuracy=float(one["accuracy"]),
        entropy=float(one["entropy"]),
        peak=peak,
        thumbnail=thumbnail,
        spatial_map=map_picture(one, name, file_name, scales.spatial, folder),
        temporal_profile=profile_picture(one, name, file_name, scales.temporal, folder),
        clips=clips,
    )


def map_top(statistics: xr.Dataset) -> float:
    """Largest value of the ``spatial_map`` of one class or more, in times uniform; 1 or more."""
    n_patches = statistics.sizes["y"] * statistics.sizes["x"]
    return float(np.fmax(float(statistics["spatial_map"].max()) * n_patches, 1.0))


def map_picture(
    statistics: xr.Dataset, name: str, file_name: str, top: float, folder: PageFolder
) -> Picture | None:
    """Draw the ``spatial_map`` (y, x) of one class, or of all; None without clips."""
    spatial_map = statistics["spatial_map"].values
    if np.isnan(spatial_map).any():
        return None
    figure = figures.spatial_map_figure(spatial_map, top=top, title="Where")
    alt = f"Mean spatial map of {name}: which patches the model attends to"
    return folder.add_picture(f"{file_name}-map", figures.figure_png(figure), alt)


def profile_picture(
    statistics: xr.Dataset, name: str, file_name: str, top: float, folder: PageFolder
) -> Picture | None:
    """Draw the ``temporal_profile`` (time) of one class, or of all; None without clips.

    The band is left out where there is no ``temporal_profile_std``.
    """
    profile = statistics["temporal_profile"].values
    if np.isnan(profile).any():
        return None
    deviation = statistics.get("temporal_profile_std")
    figure = figures.temporal_profile_figure(
        profile,
        None if deviation is None else deviation.values,
        top=top,
        title="When",
    )
    alt = f"Mean temporal profile of {name}: which time steps the model attends to"
    return folder.add_picture(f"{file_name}-profile", figures.figure_png(figure), alt)
