"""Pictures: their numbers and sizes, read back from the figures and the pixels."""

import io
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from analysis.page import figures


def _distribution(*shape, seed=0):
    values = np.random.default_rng(seed).random(shape)
    return values / values.sum()


def _size(png):
    return Image.open(io.BytesIO(png)).size


def test_times_uniform_is_1_for_a_uniform_map():
    np.testing.assert_allclose(figures.times_uniform(np.full((4, 5), 1 / 20)), 1)


def test_a_map_is_drawn_on_the_scale_that_is_given():
    spatial_map = _distribution(3, 5)
    figure = figures.spatial_map_figure(spatial_map, top=7.0, title="Where")
    image = figure.axes[0].images[0]
    np.testing.assert_allclose(image.get_array(), spatial_map * 15)
    assert image.get_clim() == (0, 7)
    labels = [text.get_text() for text in figure.axes[1].get_yticklabels()]
    assert [label.encode("ascii", "ignore") for label in labels] == [b"1 (uniform)", b"7.0"]


def test_the_profiles_band_is_a_standard_deviation_and_not_below_0():
    profile = np.array([0.1, 0.4, 0.5])
    deviation = np.array([0.2, 0.1, 0.0])
    axes = figures.temporal_profile_figure(profile, deviation, top=2.5).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 3 * profile)
    vertices = axes.collections[0].get_paths()[0].vertices
    assert vertices[:, 1].min() == pytest.approx(0)
    assert vertices[:, 1].max() == pytest.approx(1.5)
    assert axes.get_ylim() == (0, 2.5)
    assert not figures.temporal_profile_figure(profile, top=2.5).axes[0].collections


@pytest.mark.parametrize(("n_times", "n_rows"), [(1, 1), (4, 1), (8, 1), (10, 2), (16, 2)])
def test_a_clip_is_drawn_frame_by_frame(n_times, n_rows):
    frames = np.zeros((n_times, 20, 30, 3), np.uint8)
    attribution = _distribution(n_times, 3, 5)
    frame_index = np.arange(n_times) * 7
    figure = figures.clip_figure(frames, attribution, frame_index=frame_index, title="clip")
    strips, bars = figure.axes[0 : 2 * n_rows : 2], figure.axes[1 : 2 * n_rows : 2]
    assert sum(len(axes.images) for axes in strips) == n_times
    heights = [patch.get_height() for axes in bars for patch in axes.patches]
    np.testing.assert_allclose(heights, attribution.sum(axis=(1, 2)) * n_times)
    assert len({axes.get_ylim() for axes in bars}) == 1
    labels = [text.get_text() for axes in bars for text in axes.get_xticklabels()]
    assert labels == [f"frame {index}" for index in frame_index]


def test_a_clip_whose_steps_differ_is_refused():
    frames = np.zeros((4, 20, 30, 3), np.uint8)
    with pytest.raises(ValueError, match="4 frames, 2 attributions and 4 frame indices"):
        figures.clip_figure(frames, _distribution(2, 3, 5), frame_index=np.arange(4))


def test_the_overlay_shares_one_scale_and_leaves_what_is_not_attended():
    frames = np.full((2, 32, 32, 3), 100, np.uint8)
    attribution = np.zeros((2, 4, 4))
    attribution[0, 0, 0], attribution[1, 3, 3] = 0.8, 0.2
    overlaid = figures.overlay(frames, attribution)
    assert overlaid.dtype == np.uint8
    changed = np.abs(overlaid.astype(int) - 100).sum(axis=-1)
    assert (changed[0, 16:, 16:] == 0).all()
    assert (changed[1, :16, :16] == 0).all()
    assert changed[0, 2, 2] > changed[1, 29, 29] > 0
    assert (figures.overlay(frames, np.zeros((2, 4, 4))) == frames).all()


def test_a_thumbnail_has_a_pixel_per_patch():
    spatial_map = _distribution(3, 5)
    pixels = figures.thumbnail(spatial_map, top=2.0)
    assert pixels.shape == (3, 5, 3)
    assert _size(figures.pixels_png(pixels)) == (5, 3)
    brightest = np.unravel_index(spatial_map.argmax(), spatial_map.shape)
    assert pixels.sum(axis=-1)[brightest] == pixels.sum(axis=-1).max()


def test_names_are_not_formulas_and_the_same_figure_is_the_same_file():
    title = r"a $\frac{1}{$ b"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (
            figures.figure_png(
                figures.spatial_map_figure(_distribution(3, 5), top=2.0, title=title)
            )
            for _ in range(2)
        )
    assert first == second
    assert _size(first) == (432, 372)


def test_pyplot_and_its_global_state_stay_out():
    code = "import analysis, sys; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
