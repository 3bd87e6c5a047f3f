"""What of a scene is drawn, is drawn alike for every class: a single frame does not tell."""

import colorsys

import numpy as np
import pytest
from scipy import stats

from pipeline.synthetic.scenes import ACTIONS, sample_scene


@pytest.fixture(scope="module")
def many():
    return {action: [sample_scene(7, index, action) for index in range(300)] for action in ACTIONS}


def properties(scene):
    hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in scene.actor.color))
    kinds = [distractor.kind for distractor in scene.distractors]
    motions = [distractor.motion for distractor in scene.distractors]
    return {
        **{name: getattr(scene.actor, name) for name in ("x", "y", "radius", "angle")},
        # Warm colours lie around hue 0, where it wraps.
        "hue": (hue + 0.5) % 1,
        "saturation": saturation,
        "value": value,
        "n_frames": scene.n_frames,
        "start": scene.window[0],
        "length": scene.window[1] - scene.window[0],
        "noise": scene.noise,
        "flicker": scene.flicker[0],
        "pan": scene.pan[0],
        "n_distractors": len(scene.distractors),
        **{f"n_{kind}": kinds.count(kind) for kind in ("square", "triangle", "ring")},
        **{f"n_{motion}": motions.count(motion) for motion in ("still", "drift", "swing", "turn")},
        "speed": np.mean([np.hypot(d.vx, d.vy) for d in scene.distractors]),
    }


def test_everything_but_the_action_is_drawn_alike_for_every_class(many):
    drawn_of = {a: [properties(scene) for scene in many[a]] for a in ACTIONS}
    for name in drawn_of["blink"][0]:
        samples = [[drawn[name] for drawn in drawn_of[action]] for action in ACTIONS]
        assert stats.kruskal(*samples).pvalue > 1e-4, name


def accuracy_of_neighbours(features, labels):
    """Share of scenes whose 15 nearest others vote for their class."""
    features = (features - features.mean(0)) / (features.std(0) + 1e-9)
    distance = ((features[:, None] - features[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    nearest = labels[np.argsort(distance, axis=1)[:, :15]]
    return np.mean([np.bincount(votes).argmax() for votes in nearest] == labels)


def test_the_actor_in_one_frame_does_not_tell_the_class_and_its_path_does(many):
    rng = np.random.default_rng(0)
    frames, paths, labels = [], [], []
    for label, action in enumerate(ACTIONS):
        for scene in many[action][:60]:
            pose = scene.actor_pose(int(rng.integers(scene.n_frames)))
            turn = np.cos(pose.angle), np.sin(pose.angle)
            frames.append([pose.x, pose.y, pose.radius, *turn, pose.opacity])
            path = [scene.actor.pose(progress) for progress in np.linspace(0, 1, 9)]
            turned = [abs(p.angle - scene.actor.angle) for p in path]
            shown = [(p.x, p.y, p.radius, p.opacity, a) for p, a in zip(path, turned, strict=True)]
            paths.append(np.diff(shown, axis=0).ravel())
            labels.append(label)
    assert accuracy_of_neighbours(np.array(frames), np.array(labels)) < 0.35
    assert accuracy_of_neighbours(np.array(paths), np.array(labels)) > 0.8
