"""What the class of a synthetic clip is, and how much its scene misleads.

- ``actions``: the actor's action.
- ``static_cue``: the actor's hue, visible in every frame; what it does means nothing.
- ``order``: whether the actor is warm first and then cool, or the reverse. Every frame shows one of
  the two, so neither one frame nor many without their order give the class away.
- ``moment``: the hue in which the actor flashes for one time step out of `MOMENT_STEPS`; everything
  else is the same for all classes.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from pipeline.synthetic.scenes import (
    ACTIONS,
    Actor,
    Canvas,
    Distractor,
    Scene,
    draw_color,
    sample_scene,
)

TaskName = Literal["actions", "static_cue", "order", "moment"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)

Camera = Literal["panning", "still", "fast"]
"""How the background moves: as in training, not at all, or four times as fast."""

HUES = {"magenta": 0.87, "red": 0.98, "orange": 0.07, "yellow": 0.16}
"""Hues of the actor that are classes; distractors have other hues."""
ORDERS = ("cool_warm", "warm_cool")
MOMENT_STEPS = 8
"""Number of equal parts of a clip, one of which has the planted moment: the model's time steps."""

_CLASSES: dict[TaskName, tuple[str, ...]] = {
    "actions": ACTIONS,
    "static_cue": tuple(HUES),
    "order": ORDERS,
    "moment": tuple(HUES),
}
_WARM, _COOL = (-0.04, 0.1), (0.5, 0.65)
_NEUTRAL = (170.0, 170.0, 170.0)


@dataclass(frozen=True)
class Style:
    """How misleading a scene is; the default is that of the demo and of training."""

    n_actors: int = 1
    """With 2, an actor of another class is beside the first."""
    distractors: Literal["idle", "acting"] = "idle"
    """``acting``: they do what actors do, so that finding what moves isn't enough."""
    colours: Literal["own", "shared"] = "own"
    """``shared``: actors and distractors draw their colours from one distribution."""
    textures: tuple[str, ...] = ()
    """Clips whose middle frames serve as backgrounds; by default, noise."""


def class_names(task: TaskName) -> tuple[str, ...]:
    """Classes of a task, in label order."""
    return _CLASSES[task]


def task_scene(
    task: TaskName,
    seed: int,
    index: int,
    label: str,
    canvas: Canvas | None = None,
    style: Style | None = None,
) -> Scene:
    """Draw a scene of a class; the same arguments give the same scene.

    In the default style, scenes of ``actions`` are those of `sample_scene`.
    """
    style = style or Style()
    rng = np.random.default_rng(
        [seed, index, 301, TASKS.index(task), class_names(task).index(label)]
    )
    if task == "actions":
        scene = sample_scene(seed, index, label, canvas)
    else:
        # An actor that blinks may be out of sight in the moment that counts.
        actions = [name for name in ACTIONS if task != "moment" or name != "blink"]
        scene = sample_scene(seed, index, actions[rng.integers(len(actions))], canvas)
        scene = replace(scene, cue=label, evidence=(0.0, scene.n_frames / scene.canvas.fps))
    if style.distractors == "acting":
        acting = tuple(_acting(each, scene, rng) for each in scene.distractors)
        scene = replace(scene, distractors=acting)
    if style.n_actors == 2:
        scene = _beside_a_rival(scene, task, label, rng)
    scene = _COLOURED[task](scene, label, rng)
    if style.colours == "shared":
        scene = _shared_colours(scene, task, rng)
    if style.textures:
        scene = replace(scene, texture=style.textures[rng.integers(len(style.textures))])
    return scene


def rival_label(scene: Scene, task: TaskName) -> str:
    """Class of the second actor of a scene."""
    rival = scene.rival
    assert rival is not None
    if task == "actions":
        return rival.action
    return min(HUES, key=lambda name: _distance(_hue_color(HUES[name]), rival.color))


def planted_steps(scene: Scene, n_times: int = MOMENT_STEPS) -> np.ndarray:
    """Which of ``n_times`` equal steps hold the evidence of the class: (n_times,) bool."""
    length = scene.n_frames / scene.canvas.fps
    centres = (np.arange(n_times) + 0.5) / n_times * length
    start, end = scene.evidence_window
    planted: np.ndarray = (centres >= start) & (centres < end)
    return planted


def _plain(scene: Scene, label: str, rng: np.random.Generator) -> Scene:
    return scene


def _of_static_cue(scene: Scene, label: str, rng: np.random.Generator) -> Scene:
    hue = HUES[label] + rng.uniform(-0.02, 0.02)
    scene = _without_hues_of_classes(scene, rng)
    return replace(scene, actor=replace(scene.actor, color=_hue_color(hue, rng)))


def _of_order(scene: Scene, label: str, rng: np.random.Generator) -> Scene:
    length = scene.n_frames / scene.canvas.fps
    change = length * rng.uniform(0.3, 0.7)
    of = {
        name: draw_color(rng, hues=hues, saturations=(0.75, 1.0), values=(0.85, 1.0))
        for name, hues in (("warm", _WARM), ("cool", _COOL))
    }
    first, second = label.split("_")
    halves = ((0.0, change, of[first]), (change, length + 1, of[second]))
    return replace(scene, recoloured=halves)


def _of_moment(scene: Scene, label: str, rng: np.random.Generator) -> Scene:
    length = scene.n_frames / scene.canvas.fps
    step = int(rng.integers(MOMENT_STEPS))
    start, end = (length * (step + edge) / MOMENT_STEPS for edge in (0, 1))
    scene = _without_hues_of_classes(scene, rng)
    flash = _hue_color(HUES[label] + rng.uniform(-0.02, 0.02), rng)
    return replace(
        scene,
        actor=replace(scene.actor, color=_NEUTRAL),
        recoloured=((start, end, flash),),
        evidence=(start, end),
    )


_COLOURED = {
    "actions": _plain,
    "static_cue": _of_static_cue,
    "order": _of_order,
    "moment": _of_moment,
}


def _without_hues_of_classes(scene: Scene, rng: np.random.Generator) -> Scene:
    return replace(
        scene,
        distractors=tuple(
            replace(
                each,
                color=draw_color(rng, hues=(0.28, 0.74), saturations=(0.4, 1.0), values=(0.5, 1.0)),
            )
            for each in scene.distractors
        ),
    )


def _acting(distractor: Distractor, scene: Scene, rng: np.random.Generator) -> Distractor:
    """Let a distractor act like an actor: an action of its own, in a window of its own."""
    action = ACTIONS[rng.integers(len(ACTIONS))]
    drawn = sample_scene(int(rng.integers(2**31)), scene.index, action, scene.canvas)
    length = scene.n_frames / scene.canvas.fps
    share = rng.uniform(0.55, 0.8)
    start = rng.uniform(0.0, length * (1 - share))
    double = replace(drawn.actor, x=distractor.x, y=distractor.y)
    window = (float(start), float(start + length * share))
    return replace(distractor, motion="act", double=double, window=window)


def _beside_a_rival(scene: Scene, task: TaskName, label: str, rng: np.random.Generator) -> Scene:
    """Put an actor of another class into the other half of the central square."""
    canvas = scene.canvas
    others = [name for name in class_names(task) if name != label]
    other = others[rng.integers(len(others))]
    action = other if task == "actions" else ACTIONS[rng.integers(len(ACTIONS))]
    drawn = sample_scene(int(rng.integers(2**31)), scene.index, action, canvas).actor
    side = 1 if rng.random() < 0.5 else -1
    actor, rival = (
        in_half(each, sign * side, canvas) for each, sign in ((scene.actor, 1), (drawn, -1))
    )
    if task != "actions":
        rival = replace(rival, color=_hue_color(HUES.get(other, 0.55), rng))
    return replace(scene, actor=actor, rival=rival)


def in_half(actor: Actor, side: int, canvas: Canvas) -> Actor:
    """Make an actor small enough for half of the central square, and put it there.

    Parameters
    ----------
    side
        -1 for the left half, 1 for the right one.
    """
    unit = canvas.height / 256
    is_ratio = actor.action in ("grow", "shrink", "spin", "blink")
    return replace(
        actor,
        x=canvas.width / 2 + side * unit * 62,
        y=canvas.height / 2 + 0.5 * (actor.y - canvas.height / 2),
        radius=min(actor.radius, unit * 24),
        extent=actor.extent if is_ratio else 0.6 * actor.extent,
    )


def _shared_colours(scene: Scene, task: TaskName, rng: np.random.Generator) -> Scene:
    """Draw colours from one distribution for distractors and, if colour isn't the class, actors."""

    def any_color() -> tuple[float, float, float]:
        if task in ("static_cue", "moment"):
            return _hue_color(list(HUES.values())[rng.integers(len(HUES))], rng)
        return draw_color(rng, hues=(0.0, 1.0), saturations=(0.75, 1.0), values=(0.85, 1.0))

    distractors = tuple(replace(each, color=any_color()) for each in scene.distractors)
    scene = replace(scene, distractors=distractors)
    if task != "actions":
        return scene
    rival = scene.rival and replace(scene.rival, color=any_color())
    return replace(scene, actor=replace(scene.actor, color=any_color()), rival=rival)


def _hue_color(hue: float, rng: np.random.Generator | None = None) -> tuple[float, float, float]:
    rng = rng or np.random.default_rng(0)
    return draw_color(rng, hues=(hue, hue), saturations=(0.85, 1.0), values=(0.9, 1.0))


def _distance(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    return float(np.abs(np.subtract(one, other)).sum())
