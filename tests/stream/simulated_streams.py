"""Simulated streams: maps that follow scenes, with a drift planted where one is wanted.

Nothing here comes from a model. A scene has a class and a place of attention; a window's map is a
blob there, whose place and width wander with what overlapping windows share.
"""

import numpy as np

from analysis.clip_scores import map_scores
from pipeline.stream.drift import DriftDetector
from pipeline.stream.drift_watch import drift_settings
from pipeline.stream.reference import Places, Reference
from pipeline.stream.scores import SCORES

CLASSES = tuple(f"class {i}" for i in range(6))
DRIFTS = ("logo", "background", "camera turned aside", "camera on its side")
N_TIMES, SIDE = 4, 7
_OVERLAP = 3
"""Windows that have frames in common."""


def scenes(random, n, mean_windows):
    """Number of the scene of each window: each lasts a geometric number of windows."""
    return np.cumsum(random.random(n) < 1 / mean_windows)


def simulate(random, n, *, mean_windows=4.0, drift=None, drift_at=0):
    """Labels (n,), scores (n,) by name and maps (n, y, x) of a stream.

    From window ``drift_at`` on it has a drift.
    """
    scene = scenes(random, n, mean_windows)
    n_scenes = scene[-1] + 1
    label = random.integers(0, len(CLASSES), n_scenes)[scene]
    # Places of attention: a class's own, a scene's, and what windows that overlap share.
    angle = 2 * np.pi * label / len(CLASSES)
    own = np.stack([0.42 + 0.14 * np.sin(angle), 0.5 + 0.14 * np.cos(angle)], axis=1)
    of_scene = random.normal(0, 0.08, (n_scenes, 2))[scene]
    place = own + of_scene + shared(random, n, 2) * 0.04
    width = 0.16 * np.exp(random.normal(0, 0.2, n_scenes)[scene] + 0.1 * shared(random, n, 1)[:, 0])
    grid = (np.arange(SIDE) + 0.5) / SIDE
    rows, columns = (grid - place[:, axis, None] for axis in (0, 1))
    distance = rows[:, :, None] ** 2 + columns[:, None] ** 2
    blob = np.exp(-distance / (2 * width[:, None, None] ** 2)) + 0.02
    spatial = blob[:, None] * random.gamma(8, 1 / 8, (n, N_TIMES, SIDE, SIDE))
    spatial /= spatial.sum(axis=(2, 3), keepdims=True)
    temporal = random.dirichlet(np.full(N_TIMES, 8), n)
    if drift is not None:
        spatial[drift_at:] = drifted(spatial[drift_at:], drift)
    scored = map_scores(spatial.astype(np.float32), temporal)
    maps = scored.spatial_map.reshape(n, SIDE, SIDE)
    return label, {name: scored.scores[name] for name in SCORES}, maps


def shared(random, n, columns):
    """Noise of unit variance that overlapping windows share."""
    noise = random.normal(size=(n + _OVERLAP - 1, columns))
    return sum(noise[i : i + n] for i in range(_OVERLAP)) / np.sqrt(_OVERLAP)


def drifted(spatial, drift):
    """What a drift does to maps (windows, time, y, x)."""
    if drift == "logo":
        logo = np.zeros((SIDE, SIDE))
        logo[:2, -2:] = 1 / 4
        return 0.7 * spatial + 0.3 * logo
    if drift == "background":
        return 0.5 * spatial + 0.5 / SIDE**2
    if drift == "camera turned aside":
        # By two sevenths of its field of view; what comes into sight gets little.
        moved = np.roll(spatial, 2, axis=3)
        moved[..., :2] = spatial.min(axis=(2, 3), keepdims=True)
        return moved / moved.sum(axis=(2, 3), keepdims=True)
    return np.rot90(spatial, axes=(2, 3))


def reference(random, n_clips=1200):
    """An offline run's clips: each is a scene of its own."""
    label, scores, maps = simulate(random, n_clips, mean_windows=1.0)
    return Reference.of(scores, label, CLASSES, maps=maps)


def recorded(random, mean_windows, n_windows=3600):
    """An hour of a stream without drift, a window a second."""
    label, scores, maps = simulate(random, n_windows, mean_windows=mean_windows)
    places = Places(np.arange(n_windows), 1.0)
    return Reference.of(scores, label, CLASSES, maps=maps, places=places)


def detector(reference):
    """A detector with the settings of `jobs.live`, for windows a second apart."""
    settings = drift_settings(reference, _OVERLAP, 1.0)
    return DriftDetector("camera", reference, settings)


def watch(detector: DriftDetector, label, scores, maps, *, start=0, until_alarm=False):
    """Alarms of a stream, whose windows are numbered from ``start``."""
    alarms = []
    for at in range(len(label)):
        values = {name: float(column[at]) for name, column in scores.items()}
        alarm = detector.update(start + at, CLASSES[label[at]], values, maps[at])
        if alarm is not None:
            alarms.append(alarm)
            if until_alarm:
                break
    return alarms
