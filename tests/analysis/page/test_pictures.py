"""Maps as pictures: scales by quantiles, and pixels that are read back."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from analysis.page.pictures import (
    QuantileScale,
    data_url,
    difference_png,
    map_pixels,
    map_png,
    palette,
    sprite_png,
)

FINITE = st.integers(-(10**6), 10**6).map(lambda value: value / 1000)


@given(arrays(np.float64, st.integers(1, 60), elements=FINITE))
def test_a_scale_never_turns_an_order_round_and_stays_within_its_ends(values):
    levels = QuantileScale.of(values)(values)
    assert ((levels >= 0) & (levels <= 1)).all()
    assert (np.diff(levels[np.argsort(values)]) >= 0).all()


def test_an_extreme_patch_takes_no_contrast_from_the_others():
    values = np.append(np.linspace(0.5, 1.5, 99), 500.0)
    levels = QuantileScale.of(values)(values)
    assert np.ptp(levels[:-1]) > 0.95


def test_nearly_uniform_maps_use_the_whole_scale():
    maps = np.random.default_rng(0).uniform(0.999, 1.001, (4, 7, 7))
    assert np.ptp(map_pixels(maps, QuantileScale.of(maps)).astype(int)) > 250


def test_a_constant_is_in_the_middle_and_nothing_is_no_error():
    scale = QuantileScale.of(np.full(5, 3.0))
    assert scale(np.array([3.0])) == pytest.approx(0.5, abs=0.05)
    assert QuantileScale.of(np.array([np.nan])).at(0.5) == 0.5


def test_the_legend_says_what_a_level_is():
    values = np.random.default_rng(1).lognormal(size=1000)
    scale = QuantileScale.of(values)
    assert scale.at(0.5) == pytest.approx(np.median(values))
    assert scale(np.array([scale.at(0.3)])) == pytest.approx(0.3)


def test_a_map_is_read_back_in_its_colours():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    with Image.open(io.BytesIO(map_png(pixels))) as image:
        assert image.size == (4, 3)
        colors = np.asarray(image.convert("RGB"))
    table = np.frombuffer(palette(), np.uint8).reshape(256, 3)
    assert (colors == table[pixels]).all()


def test_a_difference_is_orange_for_more_blue_for_less_and_clear_for_none():
    difference = np.array([[1.0, -1.0, 0.0]])
    with Image.open(io.BytesIO(difference_png(difference, QuantileScale.of(np.arange(2.0))))) as im:
        more, less, none = np.asarray(im)[0].astype(int)
    assert more[0] > more[2]
    assert less[2] > less[0]
    assert (more[3], less[3], none[3]) == (255, 255, 0)


def test_maps_lie_side_by_side_in_a_sheet():
    pixels = np.arange(5, dtype=np.uint8)[:, None, None] * np.full((1, 2, 3), 50, np.uint8)
    with Image.open(io.BytesIO(sprite_png(pixels, columns=2))) as image:
        assert image.size == (6, 6)
        sheet = np.asarray(image.convert("RGB"))
    table = np.frombuffer(palette(), np.uint8).reshape(256, 3)
    for index in range(5):
        y, x = 2 * (index // 2), 3 * (index % 2)
        assert (sheet[y : y + 2, x : x + 3] == table[50 * index]).all()


def test_a_picture_is_text():
    assert data_url(b"\x89PNG").startswith("data:image/png;base64,iVBO")
