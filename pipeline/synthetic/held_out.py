"""Held-out scenes as a model sees them: to measure explanations on, without files.

Each clip is rendered where it is sampled and prepared as in a run. Clips of two actors of two
classes ask what a map says of one class in the presence of another. Where two actors of a scene
can't have two classes, because what its colour does over time is the class, a clip is a
*composite*: the left half of one scene beside the right half of another one.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.sampling import Sampling
from pipeline.store.ground_truth import share_of_patches
from pipeline.synthetic.exact_scenarios import Scenario, as_frames, exact_clips
from pipeline.synthetic.rendering import actor_mask, render_frame, rival_mask
from pipeline.synthetic.scenes import Canvas, Scene
from pipeline.synthetic.small_models import SIDE
from pipeline.synthetic.tasks import (
    Camera,
    Style,
    TaskName,
    class_names,
    in_half,
    rival_label,
    task_scene,
)
from pipeline.synthetic.training import PREPROCESSING, SMALL_CANVAS, exact_coverage

_COMPOSITE_TASKS: tuple[TaskName, ...] = ("order", "moment")

_PAN_RATES: dict[Camera, float] = {"panning": 1.0, "still": 0.0, "fast": 4.0}


@dataclass(frozen=True)
class HeldOut:
    """Clips with where their classes are."""

    frames: NDArray[np.uint8]
    """(clips, frames, height, width, 3)"""
    labels: NDArray[np.int64]
    """(clips,): position in the task's classes."""
    covered: NDArray[np.float32]
    """(clips, T, y, x): share of each patch that the actor covers while its class shows."""
    rivals: NDArray[np.int64]
    """(clips,): class of the second actor; -1 where there is one actor."""
    rival_covered: NDArray[np.float32]
    """(clips, T, y, x): the same of the second actor."""


@dataclass(frozen=True)
class _Shown:
    """Pictures of a clip, and where its actors are in each."""

    frames: NDArray[np.uint8]
    """(frames, height, width, 3)"""
    masks: NDArray[np.bool_]
    """(2, frames, height, width): of the actor and of the second, False while no class shows."""


def held_out_clips(
    task: TaskName,
    *,
    n_clips: int,
    n_frames: int,
    n_times: int,
    seed: int,
    n_actors: int = 1,
    textures: tuple[str, ...] = (),
    camera: Camera = "panning",
) -> HeldOut:
    """Render clips whose classes take turns; distractors do what actors do.

    Parameters
    ----------
    n_frames
        Frames that the model sees, spread evenly.
    n_times
        Time steps of the model, each of ``n_frames / n_times`` frames.
    seed
        Other seeds give other scenes; models were trained on seed 1.
    n_actors
        With 2, another actor of another class is beside the first.
    textures
        As `Style.textures`.
    camera
        How the background moves, see `pipeline.synthetic.tasks.Camera`.
    """
    names = class_names(task)
    style = Style(n_actors, "acting", "own", textures)
    frames, labels, rivals = [], [], []
    covered: tuple[list[NDArray[np.float32]], ...] = ([], [])
    for index in range(n_clips):
        label = names[index % len(names)]
        if n_actors == 2 and task in _COMPOSITE_TASKS:
            shown, rival = _composite(task, seed, index, label, style, n_frames, camera)
        else:
            scene = _panned(task_scene(task, seed, index, label, _canvas(task), style), camera)
            shown = _shown(scene, n_frames)
            rival = "" if scene.rival is None else rival_label(scene, task)
        frames.append(PREPROCESSING.resize_and_crop(shown.frames))
        labels.append(names.index(label))
        rivals.append(names.index(rival) if rival else -1)
        for kept, masks in zip(covered, shown.masks, strict=True):
            pixels = PREPROCESSING.resize_and_crop_mask(masks)
            kept.append(share_of_patches(pixels, (n_times, SIDE, SIDE)))
    return HeldOut(
        np.stack(frames),
        np.array(labels),
        np.stack(covered[0]),
        np.array(rivals),
        np.stack(covered[1]),
    )


def exact_held_out(scenario: Scenario, *, n_clips: int, seed: int) -> HeldOut:
    """Draw clips of one of EXACT's scenarios, on a white background; none has a second actor.

    Parameters
    ----------
    seed
        Other seeds give other clips; models were trained on seed 1.
    """
    clips = exact_clips(scenario, n_clips, seed)
    covered = np.stack([exact_coverage(truth) for truth in clips.truth])
    nowhere = np.zeros_like(covered)
    return HeldOut(as_frames(clips.pixels), clips.labels, covered, np.full(n_clips, -1), nowhere)


def _canvas(task: TaskName) -> Canvas:
    return Canvas() if task == "actions" else SMALL_CANVAS


def _panned(scene: Scene, camera: Camera) -> Scene:
    cycles, phase_x, phase_y = scene.pan
    return replace(scene, pan=(_PAN_RATES[camera] * cycles, phase_x, phase_y))


def _shown(scene: Scene, n_frames: int) -> _Shown:
    sampling = Sampling(kind="uniform", n_samples=n_frames)
    fps = scene.canvas.fps
    chosen = sampling.indices(n_frames=scene.n_frames, fps=fps).tolist()
    start_s, end_s = scene.evidence_window
    drawn = (actor_mask,) if scene.rival is None else (actor_mask, rival_mask)
    masks = np.zeros((2, n_frames, scene.canvas.height, scene.canvas.width), np.bool_)
    for place, frame in enumerate(chosen):
        if start_s <= frame / fps <= end_s:
            for actor, mask in enumerate(drawn):
                masks[actor, place] = mask(scene, frame)
    return _Shown(np.stack([render_frame(scene, frame) for frame in chosen]), masks)


def _composite(
    task: TaskName,
    seed: int,
    index: int,
    label: str,
    style: Style,
    n_frames: int,
    camera: Camera,
) -> tuple[_Shown, str]:
    """Half of a scene of the class beside half of one of another class, and that class."""
    rng = np.random.default_rng([seed, index, 701])
    others = [name for name in class_names(task) if name != label]
    other = others[rng.integers(len(others))]
    side = 1 if rng.random() < 0.5 else -1
    halves = []
    for name, on_side, number in ((label, side, 2 * index), (other, -side, 2 * index + 1)):
        single = replace(style, n_actors=1)
        scene = _panned(task_scene(task, seed, number, name, _canvas(task), single), camera)
        actor = in_half(scene.actor, on_side, scene.canvas)
        halves.append(_shown(replace(scene, actor=actor), n_frames))
    first, second = halves
    is_right = np.arange(first.frames.shape[2]) >= first.frames.shape[2] // 2
    of_first = is_right if side == 1 else ~is_right
    frames = np.where(of_first[:, None], first.frames, second.frames)
    masks = np.stack([first.masks[0] & of_first, second.masks[0] & ~of_first])
    return _Shown(frames, masks), other
