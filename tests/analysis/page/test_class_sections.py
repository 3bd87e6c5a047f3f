"""Classes on the page: one scale for all of them, and nothing drawn where there is no clip."""

import numpy as np
import pytest
import xarray as xr

from analysis.page.class_sections import SharedScales, class_view, map_top
from analysis.page.folder import PageFolder

N_TIMES, HEIGHT, WIDTH = 4, 3, 5


@pytest.fixture
def statistics():
    """Two classes with clips and one without, as `class_statistics` leaves it."""
    rng = np.random.default_rng(0)
    maps = rng.random((3, HEIGHT, WIDTH))
    profiles = rng.random((3, N_TIMES))
    maps /= maps.sum(axis=(1, 2), keepdims=True)
    profiles /= profiles.sum(axis=1, keepdims=True)
    maps[1] = profiles[1] = np.nan
    nan = np.array([0.5, np.nan, 0.25])
    return xr.Dataset(
        {
            "n_clips": ("class", [3, 0, 2]),
            "n_failed": ("class", [1, 2, 0]),
            "accuracy": ("class", nan),
            "entropy": ("class", nan),
            "spatial_map": (("class", "y", "x"), maps),
            "temporal_profile": (("class", "time"), profiles),
            "temporal_profile_std": (("class", "time"), profiles / 10),
        },
        coords={"class": ["a", "b", "c"]},
    )


def test_classes_share_scales_that_hold_every_one_of_them(statistics):
    scales = SharedScales.of(statistics)
    n_patches = HEIGHT * WIDTH
    assert scales.spatial == pytest.approx(np.nanmax(statistics["spatial_map"]) * n_patches)
    band = statistics["temporal_profile"] + statistics["temporal_profile_std"]
    assert scales.temporal >= np.nanmax(band) * N_TIMES


def test_flat_maps_and_profiles_look_flat(statistics):
    flat = statistics.isel({"class": [0]}).copy(deep=True)
    flat["spatial_map"][:] = 1 / (HEIGHT * WIDTH)
    flat["temporal_profile"][:] = 1 / N_TIMES
    flat["temporal_profile_std"][:] = 0
    scales = SharedScales.of(flat)
    assert scales.spatial == map_top(flat) == pytest.approx(1)
    # The line is below the middle of its axis, not at its upper end.
    assert scales.temporal >= 1.5


def test_without_any_clip_there_are_scales_all_the_same(statistics):
    scales = SharedScales.of(statistics.isel({"class": [1]}))
    assert np.isfinite([scales.spatial, scales.temporal]).all()


def test_a_class_without_clips_has_no_pictures(statistics, tmp_path):
    folder = PageFolder(str(tmp_path))
    scales = SharedScales.of(statistics)
    empty = class_view(statistics, 1, scales, [], folder)
    assert (empty.n_clips, empty.n_failed, empty.peak) == (0, 2, None)
    assert empty.thumbnail is empty.spatial_map is empty.temporal_profile is None
    assert not list((tmp_path / "images").iterdir())

    full = class_view(statistics, 2, scales, [], folder)
    assert full.name == "c"
    assert full.peak == int(statistics["temporal_profile"].values[2].argmax()) + 1
    pictures = (full.thumbnail, full.spatial_map, full.temporal_profile)
    assert {(tmp_path / picture.source).exists() for picture in pictures} == {True}
    assert (full.thumbnail.width, full.thumbnail.height) >= (WIDTH, HEIGHT)
