"""Frames and masks show the scene's actor in its window, at its place, and nothing else of it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.synthetic import rendering
from pipeline.synthetic.rendering import actor_mask, render_frame
from pipeline.synthetic.scenes import ACTIONS, Scene, sample_scene
from tests.synthetic.drawn import SMALL, drawn_scenes, poses

BEFORE, AFTER = (1e6, 1e6 + 1), (-2.0, -1.0)
"""Windows in which the actor rests for the whole clip, in its first or its last pose."""


def quiet(scene: Scene) -> Scene:
    """Leave out of a scene all that changes pixels everywhere."""
    return replace(scene, noise=0.0, flicker=(0.0, 1.0, 0.0))


def without_actor(scene: Scene) -> Scene:
    return replace(scene, actor=replace(scene.actor, x=-1e4))


def forget_textures():
    rendering._background.cache_clear()
    rendering._noise_bank.cache_clear()


@pytest.mark.parametrize("action", ACTIONS)
def test_the_same_numbers_give_the_same_scene_and_pixels(action):
    first, again = (sample_scene(3, 7, action, SMALL) for _ in range(2))
    assert first == again
    frames = [render_frame(first, frame) for frame in range(first.n_frames)]
    forget_textures()
    for frame in reversed(range(first.n_frames)):
        assert np.array_equal(render_frame(again, frame), frames[frame])


def test_a_frame_is_of_the_canvas_size_and_the_defaults_are_kinetics():
    assert render_frame(sample_scene(0, 0, "blink", SMALL), 3).shape == (96, 128, 3)
    frame = render_frame(sample_scene(0, 0, "blink"), 100)
    assert (frame.shape, frame.dtype) == ((256, 340, 3), np.uint8)


@pytest.mark.parametrize("action", ACTIONS)
def test_outside_its_window_the_actor_rests(action):
    scene = sample_scene(1, 4, action, SMALL)
    start, end = scene.window
    # So that there is something on both sides.
    scene = replace(scene, window=(0.25 * scene.n_frames / 10, 0.75 * scene.n_frames / 10))
    start, end = scene.window
    n_outside, n_inside = 0, 0
    for frame in range(scene.n_frames):
        picture, mask = render_frame(scene, frame), actor_mask(scene, frame)
        resting = [replace(scene, window=window) for window in (BEFORE, AFTER)]
        shown = [np.array_equal(picture, render_frame(rest, frame)) for rest in resting]
        masks = [np.array_equal(mask, actor_mask(rest, 0)) for rest in resting]
        if frame / 10 < start:
            assert (shown[0], masks[0]) == (True, True)
        elif frame / 10 > end:
            assert (shown[1], masks[1]) == (True, True)
        elif not any(shown):
            n_inside += 1
        n_outside += frame / 10 < start or frame / 10 > end
    assert n_outside >= 4
    assert n_inside >= 2


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_changes_pixels_at_the_actors_place_alone(action):
    scene = sample_scene(2, 5, action, SMALL)
    for frame in range(0, scene.n_frames, 3):
        place = np.zeros((SMALL.height, SMALL.width), bool)
        for shown in (scene, replace(scene, window=BEFORE)):
            place |= actor_mask(shown, frame)
        changed = render_frame(scene, frame) != render_frame(replace(scene, window=BEFORE), frame)
        # Antialiased rims are up to a pixel beyond the mask.
        assert not (changed.any(axis=-1) & ~ndimage.binary_dilation(place, iterations=2)).any()


@given(drawn_scenes, st.integers(0, 30))
def test_the_mask_is_where_the_actor_is_painted(scene, frame):
    assume(frame < scene.n_frames)
    assume(scene.actor_pose(frame).opacity == 1)
    # Two colours so far apart that no background hides the difference.
    black, bright = (
        replace(quiet(scene), actor=replace(scene.actor, color=(level, level, level)))
        for level in (0.0, 2000.0)
    )
    difference = render_frame(bright, frame) != render_frame(black, frame)
    painted = difference.any(axis=-1)
    mask = actor_mask(scene, frame)
    assert mask.any()
    assert not (mask & ~painted).any()
    assert not (painted & ~ndimage.binary_dilation(mask, iterations=2)).any()


@pytest.mark.parametrize("action", ACTIONS)
def test_the_actor_stands_out_from_what_is_behind_it(action):
    for index in range(5):
        scene = replace(quiet(sample_scene(4, index, action, SMALL)), window=AFTER)
        shown, behind = render_frame(scene, 0), render_frame(without_actor(scene), 0)
        distance = np.abs(shown.astype(int) - behind).max(axis=-1)
        assert distance[actor_mask(scene, 0)].mean() > 50


def test_while_it_blinks_the_actor_is_gone_and_its_mask_stays():
    scene = sample_scene(0, 3, "blink", SMALL)
    assert {pose.opacity for pose in poses(scene)} == {0.0, 1.0}
    for frame, pose in enumerate(poses(scene)):
        unseen = np.array_equal(
            render_frame(scene, frame), render_frame(without_actor(scene), frame)
        )
        assert unseen == (pose.opacity == 0)
        assert np.array_equal(actor_mask(scene, frame), actor_mask(scene, 0))


@pytest.mark.parametrize("action", ACTIONS)
def test_distractors_and_background_do_not_know_the_class(action):
    scene = sample_scene(6, 2, "move_left", SMALL)
    other = replace(scene, actor=replace(scene.actor, action=action, extent=2.0, x=64.0, y=48.0))
    for frame in range(0, scene.n_frames, 4):
        actors = actor_mask(scene, frame) | actor_mask(other, frame)
        elsewhere = ~ndimage.binary_dilation(actors, iterations=2)
        assert elsewhere.sum() > 5000
        same = render_frame(scene, frame) == render_frame(other, frame)
        assert same[elsewhere].all()
