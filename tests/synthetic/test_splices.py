"""Splices: frames of another class's clip, at the steps that say so."""

import numpy as np
import pytest

from pipeline.synthetic.splices import splice


def test_planted_steps_show_a_clip_of_another_class_and_the_others_are_left_alone():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (9, 6, 4, 5, 3), np.uint8)
    labels = np.arange(9) % 3
    before = frames.copy()
    spliced = splice(frames, labels, 2, seed=1)
    assert (spliced.planted.sum(axis=1) == 2).all()
    for clip in range(9):
        steps = np.flatnonzero(spliced.planted[clip])
        assert steps[1] == steps[0] + 1
        donor = spliced.donors[clip]
        assert labels[donor] != labels[clip]
        np.testing.assert_array_equal(spliced.frames[clip][steps], frames[donor][steps])
        rest = ~spliced.planted[clip]
        np.testing.assert_array_equal(spliced.frames[clip][rest], frames[clip][rest])
    np.testing.assert_array_equal(frames, before)
    assert len({tuple(row) for row in spliced.planted.tolist()}) > 1
    np.testing.assert_array_equal(splice(frames, labels, 2, seed=1).frames, spliced.frames)


def test_what_can_not_be_spliced_is_named():
    frames = np.zeros((2, 4, 2, 2, 3), np.uint8)
    for n_steps in (0, 4):
        with pytest.raises(ValueError, match=f"n_steps: {n_steps}, expected 1 to 3"):
            splice(frames, np.array([0, 1]), n_steps, 0)
    with pytest.raises(ValueError, match="all clips are of one class"):
        splice(frames, np.array([1, 1]), 1, 0)
