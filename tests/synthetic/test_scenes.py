"""Scenes: the class is what the actor does, in its window, at its place, and nothing else tells."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given

from pipeline.synthetic.rendering import render_frame
from pipeline.synthetic.scenes import sample_scene
from tests.synthetic.drawn import SMALL, drawn_scenes, poses


@pytest.mark.parametrize("other", [(4, 7, "spin"), (3, 8, "spin"), (3, 7, "orbit")])
def test_another_seed_index_or_action_gives_another_scene(other):
    scene, different = sample_scene(3, 7, "spin", SMALL), sample_scene(*other, SMALL)
    assert replace(scene, seed=0, index=0) != replace(different, seed=0, index=0)
    assert not np.array_equal(render_frame(scene, 0), render_frame(different, 0))


@given(drawn_scenes)
def test_clip_and_window_are_as_long_as_promised(scene):
    canvas = scene.canvas
    duration = scene.n_frames / canvas.fps
    half_frame = 0.5 / canvas.fps
    assert canvas.min_duration_s - half_frame <= duration <= canvas.max_duration_s + half_frame
    start, end = scene.window
    assert 0 <= start < end <= duration + half_frame
    share = (end - start) / duration
    assert 0.55 - half_frame / duration <= share <= 0.8 + half_frame / duration


MOVES = {"move_left": (-1, 0), "move_right": (1, 0), "move_up": (0, -1), "move_down": (0, 1)}
SHOWN = {**dict.fromkeys(MOVES, "xy"), "grow": "radius", "shrink": "radius", "spin": "angle"}
SHOWN |= {"blink": "opacity", "bounce": "y", "orbit": "xy"}


def pose_paths(scene, n=201):
    path = [scene.actor.pose(progress) for progress in np.linspace(0, 1, n)]
    names = ("x", "y", "radius", "angle", "opacity")
    return {name: np.array([getattr(pose, name) for pose in path]) for name in names}


@given(drawn_scenes)
def test_an_action_moves_the_pose_as_its_name_says(scene):
    path, action, unit = pose_paths(scene), scene.action, scene.canvas.height / 256
    for name, values in path.items():
        if name not in SHOWN[action] and not (name in "xy" and SHOWN[action] == "xy"):
            assert np.ptp(values) == 0, name
    x, y = path["x"], path["y"]
    if action in MOVES:
        dx, dy = MOVES[action]
        along, across = dx * x + dy * y, dy * x + dx * y
        assert (np.diff(along) > 0).all()
        assert along[-1] - along[0] > 70 * unit
        assert np.ptp(across) == 0
    elif action in ("grow", "shrink"):
        radius = path["radius"] if action == "grow" else path["radius"][::-1]
        assert (np.diff(radius) > 0).all()
        assert radius[-1] / radius[0] >= 2
    elif action == "spin":
        turned = path["angle"] - path["angle"][0]
        assert (np.diff(np.abs(turned)) > 0).all()
        assert abs(turned[-1]) >= 2 * np.pi
    elif action == "blink":
        # Gone and back, twice.
        assert np.count_nonzero(np.diff(path["opacity"])) == 4
        assert path["opacity"][0] == path["opacity"][-1] == 1
    elif action == "bounce":
        assert y[0] == pytest.approx(y[100]) == pytest.approx(y[200]) == y.max()
        assert y.min() == pytest.approx(y[50]) == pytest.approx(y[150])
        assert np.ptp(y) > 70 * unit
    else:
        centre = scene.actor.x + 1j * scene.actor.y
        spokes = x + 1j * y - centre
        np.testing.assert_allclose(np.abs(spokes), 0.5 * scene.actor.extent)
        assert spokes[-1] == pytest.approx(spokes[0])
        swept = sum(np.angle(after / before) for before, after in pairwise(spokes))
        assert swept == pytest.approx(2 * np.pi)


@given(drawn_scenes)
def test_the_actor_stays_in_the_central_square(scene):
    """The model crops that square; a mover at its limit may leave it by a sixteenth."""
    canvas = scene.canvas
    rows, columns = np.mgrid[: canvas.height, : canvas.width]
    outside_square = np.abs(columns - canvas.width / 2) > canvas.height / 2
    for pose in poses(scene)[:: max(scene.n_frames // 8, 1)]:
        assert abs(pose.x - canvas.width / 2) + 8 * pose.radius / 10 <= canvas.height / 2
        assert abs(pose.y - canvas.height / 2) + 8 * pose.radius / 10 <= canvas.height / 2
        disc = np.hypot(rows - pose.y, columns - pose.x) < pose.radius
        assert (disc & ~outside_square).sum() >= 0.9 * np.pi * pose.radius**2 - 4


@pytest.mark.parametrize("motion", ["still", "drift", "swing", "turn"])
def test_a_distractor_keeps_to_its_motion_for_the_whole_clip(motion):
    scene = sample_scene(0, 0, "blink")
    distractor = replace(scene.distractors[0], motion=motion, vx=30.0, vy=-20.0)
    path = [distractor.pose(time_s, scene.canvas) for time_s in np.arange(0, 60, 0.25)]
    moved = [(a.x, a.y) != (b.x, b.y) for a, b in pairwise(path)]
    turned = [a.angle != b.angle for a, b in pairwise(path)]
    assert set(moved) == {motion in ("drift", "swing")}
    assert set(turned) == {motion == "turn"}
    reach = 3 * distractor.radius + (30 if motion == "swing" else 0)
    assert all(-reach <= pose.x <= 340 + reach and -reach <= pose.y <= 256 + reach for pose in path)
