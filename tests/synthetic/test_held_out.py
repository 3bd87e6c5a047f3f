"""Held-out scenes: rendered as a model sees them, with where each of two classes is."""

from typing import get_args

import numpy as np
import pytest

from pipeline.synthetic.held_out import held_out_clips
from pipeline.synthetic.tasks import Camera, class_names

SIZES = {"n_frames": 8, "n_times": 4, "seed": 20261128}


@pytest.mark.parametrize("task", ["static_cue", "order", "moment"])
def test_a_clip_of_one_actor_shows_it_where_its_class_is(task):
    clips = held_out_clips(task, n_clips=4, **SIZES)
    assert clips.frames.shape == (4, 8, 96, 96, 3)
    assert clips.covered.shape == clips.rival_covered.shape == (4, 4, 8, 8)
    names = class_names(task)
    assert clips.labels.tolist() == [index % len(names) for index in range(4)]
    assert (clips.rivals == -1).all()
    assert not clips.rival_covered.any()
    covered = clips.covered.sum(axis=(2, 3)) > 0
    # A moment is an eighth of the clip, and so in one of four steps.
    assert covered.any(axis=1).all()
    if task == "moment":
        assert (covered.sum(axis=1) == 1).all()
    else:
        assert covered.all()


def test_the_same_seed_gives_the_same_clips_and_another_one_others():
    first = held_out_clips("order", n_clips=2, **SIZES)
    again = held_out_clips("order", n_clips=2, **SIZES)
    other = held_out_clips("order", n_clips=2, **SIZES | {"seed": 3})
    np.testing.assert_array_equal(first.frames, again.frames)
    assert (first.frames != other.frames).any()


@pytest.mark.parametrize("task", ["static_cue", "order"])
def test_the_camera_moves_the_background_and_nothing_else(task):
    """Of composites both halves."""
    sizes = {"n_clips": 3, "n_actors": 2, **SIZES}
    of = {camera: held_out_clips(task, camera=camera, **sizes) for camera in get_args(Camera)}
    plain = held_out_clips(task, **sizes)
    np.testing.assert_array_equal(of["panning"].frames, plain.frames)
    changes = []
    for camera in ("still", "panning", "fast"):
        np.testing.assert_array_equal(of[camera].covered, plain.covered)
        np.testing.assert_array_equal(of[camera].rival_covered, plain.rival_covered)
        frames = of[camera].frames.astype(int)
        changes.append(np.abs(np.diff(frames, axis=1)).mean())
    # What is left of a still camera is what actors, distractors and the light do.
    assert changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("task", ["static_cue", "order"])
def test_two_actors_have_two_classes_and_places_of_their_own(task):
    clips = held_out_clips(task, n_clips=6, n_actors=2, **SIZES)
    assert (clips.rivals >= 0).all()
    assert (clips.rivals != clips.labels).all()
    for first, second in zip(clips.covered, clips.rival_covered, strict=True):
        assert first.any(axis=(1, 2)).all()
        assert second.any(axis=(1, 2)).all()
        # Each in its half, to a patch.
        columns = [np.average(np.arange(8), weights=each.sum((0, 1))) for each in (first, second)]
        assert abs(columns[0] - columns[1]) > 1.5
        assert (first + second <= 1 + 1e-6).all()


def test_a_composite_shows_each_order_of_colours_on_its_own_side():
    clips = held_out_clips("order", n_clips=4, n_actors=2, **SIZES | {"n_times": 8})
    warm_cool = class_names("order").index("warm_cool")
    for clip in range(4):
        for label, covered in (
            (clips.labels[clip], clips.covered[clip]),
            (clips.rivals[clip], clips.rival_covered[clip]),
        ):
            pixels = covered.repeat(12, axis=1).repeat(12, axis=2) > 0.9
            if not (pixels[0].any() and pixels[-1].any()):
                continue
            red_over_blue = [
                np.subtract(*clips.frames[clip, t][pixels[t]].mean(axis=0)[[0, 2]]) for t in (0, -1)
            ]
            assert (red_over_blue[0] > red_over_blue[1]) == (label == warm_cool)
