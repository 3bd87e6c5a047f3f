"""EXACT's scenarios in time: what holds the class, and what doesn't."""

import numpy as np
import pytest
from scipy.stats import pearsonr

from pipeline.synthetic.exact_scenarios import (
    N_TIMES,
    SCENARIOS,
    SIDE,
    as_frames,
    class_names,
    exact_clips,
)


def accuracy_of_means(features, labels):
    """Share that the nearest class mean gets right, of the half that it wasn't fitted to."""
    half = len(labels) // 2
    names = np.unique(labels)
    means = np.stack([features[:half][labels[:half] == name].mean(axis=0) for name in names])
    distance = ((features[half:, None] - means[None]) ** 2).sum(axis=-1)
    return (names[distance.argmin(axis=1)] == labels[half:]).mean()


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("background", ["white", "correlated"])
def test_clips_have_one_scale_all_classes_and_a_truth(scenario, background):
    clips = exact_clips(scenario, 16, seed=0, background=background)
    assert clips.pixels.shape == clips.truth.shape == (16, N_TIMES, SIDE, SIDE)
    assert np.abs(clips.pixels).max() == pytest.approx(1)
    assert set(clips.labels.tolist()) == set(range(len(class_names(scenario))))
    share = clips.truth.mean(axis=(1, 2, 3))
    assert ((share > 0.002) & (share < 0.5)).all()
    again = exact_clips(scenario, 16, seed=0, background=background)
    np.testing.assert_array_equal(again.pixels, clips.pixels)
    assert not np.array_equal(exact_clips(scenario, 16, seed=1).pixels, clips.pixels)
    frames = as_frames(clips.pixels)
    assert frames.dtype == np.uint8
    assert frames.shape == (*clips.pixels.shape, 3)
    assert {int(frames.min()), int(frames.max())} & {0, 255}


@pytest.mark.parametrize("scenario", ["linear", "multiplicative", "moving", "motion", "order"])
def test_without_the_truth_nothing_tells_the_class(scenario):
    """Two seeds of patterns over the same background differ in their truths' pixels alone."""
    clips = exact_clips(scenario, 8, seed=0, alpha=1e-9)
    strong = exact_clips(scenario, 8, seed=0, alpha=0.3)
    for clip in range(8):
        outside = ~strong.truth[clip]
        one, other = clips.pixels[clip][outside], strong.pixels[clip][outside]
        # Smoothing reaches a little beyond the truth.
        assert pearsonr(one, other).statistic > 0.999


def test_the_shape_tells_where_it_stands_and_one_frame_not_its_way():
    linear = exact_clips("linear", 200, seed=1, alpha=0.5)
    assert accuracy_of_means(linear.pixels[:, 0].reshape(200, -1), linear.labels) > 0.95
    motion = exact_clips("motion", 400, seed=1, alpha=0.7)
    middle = motion.pixels[:, 4].reshape(400, -1)
    assert accuracy_of_means(middle, motion.labels) < 0.6
    order = exact_clips("order", 400, seed=1, alpha=0.7)
    for frame in (3, 4):
        assert accuracy_of_means(order.pixels[:, frame].reshape(400, -1), order.labels) < 0.65


def test_a_motion_is_in_the_direction_of_its_name_and_its_truth_is_the_swept_tube():
    clips = exact_clips("motion", 8, seed=2, alpha=0.999)
    names = class_names("motion")
    ways = {"left": (0, -28), "right": (0, 28), "up": (-28, 0), "down": (28, 0)}
    for clip in range(8):
        pattern = np.maximum(clips.pixels[clip], 0.2 * clips.pixels[clip].max())
        pattern -= pattern.min()
        y, x = np.mgrid[:SIDE, :SIDE]
        centres = [
            ((frame * y).sum() / frame.sum(), (frame * x).sum() / frame.sum()) for frame in pattern
        ]
        moved = np.subtract(centres[-1], centres[0])
        np.testing.assert_allclose(moved, ways[names[clips.labels[clip]]], atol=1.5)
        assert (clips.truth[clip] == clips.truth[clip][:1]).all()
        assert clips.truth[clip][pattern > 0.5 * pattern.max()].all()


def test_the_flash_needs_the_frame_that_suppresses_it():
    clips = exact_clips("flash", 2000, seed=3, alpha=0.9)
    square = clips.pixels[:, :, 24:40, 24:40].mean(axis=(2, 3))
    sign = np.where(clips.labels == 0, 1, -1)
    alone = ((square[:, 5] > 0) == (sign > 0)).mean()
    both = (((square[:, 5] - square[:, 2]) > 0) == (sign > 0)).mean()
    assert 0.55 < alone < 0.8
    assert both > 0.97
    # The suppressor has nothing of the class, and isn't in the truth.
    assert abs(pearsonr(square[:, 2], sign).statistic) < 0.06
    assert np.flatnonzero(clips.truth[0].any(axis=(1, 2))).tolist() == [5]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="'xor' is not one of linear"):
        exact_clips("xor", 4, seed=0)
    with pytest.raises(ValueError, match=r"alpha: 1\.5 is not between 0 and 1"):
        exact_clips("linear", 4, seed=0, alpha=1.5)
