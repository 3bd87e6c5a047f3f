"""A clip's frames as one picture: in order, and small whatever the clip is."""

import io

import numpy as np
import pytest
from PIL import Image

from analysis.page.frame_strip import MAX_BYTES, frame_strip


def test_frames_lie_side_by_side_in_their_order():
    frames = np.stack([np.full((60, 90, 3), 40 * step, np.uint8) for step in range(6)])
    picture, width, height = frame_strip(frames)
    assert (width, height) == (90, 60)
    with Image.open(io.BytesIO(picture)) as image:
        strip = np.asarray(image.convert("RGB")).astype(int)
    assert strip.shape == (60, 540, 3)
    for step in range(6):
        part = strip[:, 90 * step + 4 : 90 * (step + 1) - 4]
        assert np.abs(part - 40 * step).max() < 8


@pytest.mark.parametrize(("n", "side"), [(8, 224), (32, 384), (64, 224)])
def test_noise_of_many_frames_stays_below_the_limit(n, side):
    rng = np.random.default_rng(n)
    frames = rng.integers(0, 256, (n, side, side * 2 // 3, 3), np.uint8)
    picture, width, height = frame_strip(frames)
    assert len(picture) <= MAX_BYTES < 100_000
    with Image.open(io.BytesIO(picture)) as image:
        assert image.size == (n * width, height)


def test_large_frames_get_smaller():
    _, width, height = frame_strip(np.zeros((2, 100, 448, 3), np.uint8))
    assert (width, height) == (224, 50)
