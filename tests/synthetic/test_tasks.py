"""Tasks and styles: what tells the class, and what is there to mislead."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.synthetic.rendering import actor_mask, render_frame, rival_mask
from pipeline.synthetic.scenes import ACTIONS, Canvas, sample_scene
from pipeline.synthetic.tasks import (
    TASKS,
    Style,
    class_names,
    planted_steps,
    rival_label,
    task_scene,
)

SMALL = Canvas(width=128, height=96, fps=8, min_duration_s=2.0, max_duration_s=4.0)
HARD = Style(distractors="acting", colours="shared")


def scene_of(task, index=0, label=None, style=None):
    names = class_names(task)
    return task_scene(task, 3, index, label or names[index % len(names)], SMALL, style)


@pytest.mark.parametrize("task", TASKS)
def test_the_same_numbers_give_the_same_scene_and_its_label(task):
    for index, name in enumerate(class_names(task)):
        scene = scene_of(task, index)
        assert scene == scene_of(task, index)
        assert scene.label == name
        assert scene.action in ACTIONS
    plain = sample_scene(3, 5, "spin", SMALL)
    assert task_scene("actions", 3, 5, "spin", SMALL) == plain


def color_at_actor(scene, frame):
    """Mean colour of the actor's bright half."""
    pixels = render_frame(replace(scene, noise=0.0, distractors=()), frame)[
        actor_mask(scene, frame)
    ]
    brightness = pixels.sum(axis=1)
    return pixels[brightness >= np.percentile(brightness, 70)].mean(axis=0)


def test_the_static_cue_is_the_hue_in_every_frame_and_nothing_else():
    seen = {}
    for label in class_names("static_cue"):
        scene = scene_of("static_cue", 0, label)
        scene = replace(scene, actor=replace(scene.actor, action="spin", extent=1.0))
        first, last = (color_at_actor(scene, frame) for frame in (0, scene.n_frames - 1))
        assert np.abs(first - last).max() < 60
        seen[label] = first
        assert scene.evidence_window == (0.0, scene.n_frames / 8)
        assert planted_steps(scene).all()
    red, yellow = seen["red"], seen["yellow"]
    assert red[0] > red[1] + 80
    assert yellow[1] > 100 > yellow[2]
    assert seen["magenta"][2] > seen["orange"][2] + 60
    actions = {scene_of("static_cue", 4 * index).action for index in range(40)}
    assert len(actions) > 5


def test_the_order_changes_once_and_each_frame_shows_one_of_both():
    for index in range(6):
        scene = scene_of("order", index)
        warm = [
            scene.actor_color(frame)[0] > scene.actor_color(frame)[2]
            for frame in range(scene.n_frames)
        ]
        changes = np.flatnonzero(np.diff(np.array(warm, int)))
        assert len(changes) == 1
        assert warm[0] == scene.label.startswith("warm")
        assert 0.2 < changes[0] / scene.n_frames < 0.8


def test_a_moment_is_in_one_step_and_alike_elsewhere():
    places = set()
    for index in range(12):
        scene = scene_of("moment", index, "red")
        other = scene_of("moment", index, "yellow")
        planted = planted_steps(scene)
        assert planted.sum() == 1
        places.add(int(planted.argmax()))
        start, end = scene.evidence_window
        for frame in range(scene.n_frames):
            inside = start <= frame / 8 < end
            assert (scene.actor_color(frame) != (170.0, 170.0, 170.0)) == inside
        assert other.label != scene.label
        assert planted_steps(other).sum() == 1
        # What blinks could be out of sight in its moment.
        assert "blink" not in (scene.action, other.action)
    assert len(places) > 3


@pytest.mark.parametrize("task", ["actions", "static_cue", "moment"])
def test_two_actors_of_two_classes_have_masks_that_do_not_overlap(task):
    sides = set()
    for index in range(8):
        scene = scene_of(task, index, style=Style(n_actors=2))
        assert rival_label(scene, task) in class_names(task)
        assert rival_label(scene, task) != scene.label
        sides.add(scene.actor.x > scene.rival.x)
        for frame in (0, scene.n_frames // 2, scene.n_frames - 1):
            first, second = actor_mask(scene, frame), rival_mask(scene, frame)
            assert not (first & second).any()
            # Both are in the central square, which is all that a model sees.
            for mask in (first, second):
                assert mask[:, 16:112].sum() >= 0.8 * mask.sum() > 0
    assert sides == {True, False}


def moved(poses):
    return np.abs(np.diff([(p.x, p.y, p.radius, p.angle) for p in poses], axis=0)).sum()


def test_acting_distractors_do_what_actors_do_in_windows_of_their_own():
    idle, acting = [], []
    for index in range(20):
        scene = scene_of("actions", index, style=Style(distractors="acting"))
        plain = scene_of("actions", index)
        assert scene.actor == plain.actor
        for each in scene.distractors:
            poses = [each.pose(frame / 8, SMALL) for frame in range(scene.n_frames)]
            acting.append(moved(poses) + sum(pose.opacity == 0 for pose in poses))
            assert each.double is not None
            assert each.window != scene.window
        for each in plain.distractors:
            idle.append(moved([each.pose(frame / 8, SMALL) for frame in range(scene.n_frames)]))
    assert np.mean(np.array(acting) > 1) > 0.95
    assert np.mean(np.array(idle) > 1) < 0.9


def test_shared_colours_give_the_actor_away_no_more_than_a_distractor():
    actors, others = [], []
    for index in range(60):
        scene = scene_of("actions", index, style=HARD)
        actors.append(scene.actor.color)
        others += [each.color for each in scene.distractors]
    # Warm actors among cool distractors differ by a hundred levels.
    for channel in range(3):
        difference = np.mean([c[channel] for c in actors]) - np.mean([c[channel] for c in others])
        assert abs(difference) < 45
    own = [scene_of("actions", index) for index in range(60)]
    warm = np.mean([s.actor.color[0] for s in own])
    assert warm - np.mean([d.color[0] for s in own for d in s.distractors]) > 60
