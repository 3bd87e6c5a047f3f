"""Scenes: the class is what the actor does, in its window, at its place, and nothing else tells."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.synthetic import scenes
from pipeline.synthetic.scenes import ACTIONS, Canvas, Scene, actor_mask, render_frame, sample_scene

SMALL = Canvas(width=128, height=96, fps=10, min_duration_s=1.0, max_duration_s=2.5)
BEFORE, AFTER = (1e6, 1e6 + 1), (-2.0, -1.0)
"""Windows in which the actor rests for the whole clip, in its first or its last pose."""

quick = settings(deadline=None, max_examples=40)
drawn = st.builds(
    sample_scene,
    seed=st.integers(0, 2**32 - 1),
    index=st.integers(0, 10**6),
    action=st.sampled_from(ACTIONS),
    canvas=st.sampled_from([SMALL, None]),
)


def poses(scene: Scene, *, inside: bool = False):
    """Poses of the actor in every frame, or in those of the action's window alone."""
    start, end = scene.window
    frames = range(scene.n_frames)
    if inside:
        frames = [frame for frame in frames if start <= frame / scene.canvas.fps <= end]
    return [scene.actor_pose(frame) for frame in frames]


def quiet(scene: Scene) -> Scene:
    """Leave out of a scene all that changes pixels everywhere."""
    return replace(scene, noise=0.0, flicker=(0.0, 1.0, 0.0))


def without_actor(scene: Scene) -> Scene:
    return replace(scene, actor=replace(scene.actor, x=-1e4))


def forget_textures():
    scenes._background.cache_clear()
    scenes._noise_bank.cache_clear()


@pytest.mark.parametrize("action", ACTIONS)
def test_the_same_numbers_give_the_same_scene_and_pixels(action):
    first, again = (sample_scene(3, 7, action, SMALL) for _ in range(2))
    assert first == again
    frames = [render_frame(first, frame) for frame in range(first.n_frames)]
    forget_textures()
    for frame in reversed(range(first.n_frames)):
        assert np.array_equal(render_frame(again, frame), frames[frame])


@pytest.mark.parametrize("other", [(4, 7, "spin"), (3, 8, "spin"), (3, 7, "orbit")])
def test_another_seed_index_or_action_gives_another_scene(other):
    scene, different = sample_scene(3, 7, "spin", SMALL), sample_scene(*other, SMALL)
    assert replace(scene, seed=0, index=0) != replace(different, seed=0, index=0)
    assert not np.array_equal(render_frame(scene, 0), render_frame(different, 0))


def test_a_frame_is_of_the_canvas_size_and_the_defaults_are_kinetics():
    assert render_frame(sample_scene(0, 0, "blink", SMALL), 3).shape == (96, 128, 3)
    frame = render_frame(sample_scene(0, 0, "blink"), 100)
    assert (frame.shape, frame.dtype) == ((256, 340, 3), np.uint8)


@quick
@given(drawn)
def test_clip_and_window_are_as_long_as_promised(scene):
    canvas = scene.canvas
    duration = scene.n_frames / canvas.fps
    half_frame = 0.5 / canvas.fps
    assert canvas.min_duration_s - half_frame <= duration <= canvas.max_duration_s + half_frame
    start, end = scene.window
    assert 0 <= start < end <= duration + half_frame
    share = (end - start) / duration
    assert 0.55 - half_frame / duration <= share <= 0.8 + half_frame / duration


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


@quick
@given(drawn, st.integers(0, 30))
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


MOVES = {"move_left": (-1, 0), "move_right": (1, 0), "move_up": (0, -1), "move_down": (0, 1)}
SHOWN = {**dict.fromkeys(MOVES, "xy"), "grow": "radius", "shrink": "radius", "spin": "angle"}
SHOWN |= {"blink": "opacity", "bounce": "y", "orbit": "xy"}


def pose_paths(scene, n=201):
    path = [scene.actor.pose(progress) for progress in np.linspace(0, 1, n)]
    names = ("x", "y", "radius", "angle", "opacity")
    return {name: np.array([getattr(pose, name) for pose in path]) for name in names}


@quick
@given(drawn)
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


@quick
@given(drawn)
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
