"""Scenes in which the class is one actor's action, and everything else is there to mislead.

The actor is a two-tone disc of a warm colour. It acts only inside a window of the clip and rests in
its first or last pose outside it. Around it, cool-coloured distractors stand, drift or swing for
the whole clip, over a textured background that pans, under changing brightness and noise. Place,
size, orientation and colour are drawn from the same distribution for every class, so one frame says
little about the class.

A scene is a few numbers drawn from ``(seed, index)``; `pipeline.synthetic.rendering` draws it.
"""

import colorsys
from dataclasses import dataclass
from typing import Literal

import numpy as np

ACTIONS = (
    "blink",
    "bounce",
    "grow",
    "move_down",
    "move_left",
    "move_right",
    "move_up",
    "orbit",
    "shrink",
    "spin",
)
"""The classes, in label order."""

_DIRECTIONS = {
    "move_left": (-1.0, 0.0),
    "move_right": (1.0, 0.0),
    "move_up": (0.0, -1.0),
    "move_down": (0.0, 1.0),
}


@dataclass(frozen=True)
class Canvas:
    """Size and rate of the rendered video; the defaults are those of a Kinetics clip."""

    width: int = 340
    height: int = 256
    fps: int = 30
    min_duration_s: float = 4.0
    max_duration_s: float = 10.0


@dataclass(frozen=True)
class Pose:
    """Where and how a shape appears in one frame: pixels, radians, opacity from 0 to 1."""

    x: float
    y: float
    radius: float
    angle: float
    opacity: float = 1.0


@dataclass(frozen=True)
class Actor:
    """The shape whose motion is the class."""

    action: str
    x: float
    y: float
    radius: float
    angle: float
    extent: float
    """Pixels of travel for a move, a bounce or an orbit; a ratio of radii for grow and shrink;
    turns for spin."""
    phase: float
    color: tuple[float, float, float]

    def pose(self, progress: float) -> Pose:
        """Pose at ``progress`` through the action's window: 0 before it, 1 after it."""
        x, y, radius, angle, opacity = self.x, self.y, self.radius, self.angle, 1.0
        if self.action in _DIRECTIONS:
            dx, dy = _DIRECTIONS[self.action]
            x += dx * self.extent * (progress - 0.5)
            y += dy * self.extent * (progress - 0.5)
        elif self.action in ("grow", "shrink"):
            sign = 1.0 if self.action == "grow" else -1.0
            radius *= self.extent ** (sign * (progress - 0.5))
        elif self.action == "spin":
            angle += 2 * np.pi * self.extent * progress
        elif self.action == "blink":
            opacity = 0.0 if int(progress * 4) in (0, 2) and progress > 0 else 1.0
        elif self.action == "bounce":
            y += self.extent * (0.5 - abs(np.sin(2 * np.pi * progress)))
        elif self.action == "orbit":
            turn = self.phase + 2 * np.pi * progress
            x += 0.5 * self.extent * np.cos(turn)
            y += 0.5 * self.extent * np.sin(turn)
        return Pose(float(x), float(y), float(radius), float(angle), opacity)


@dataclass(frozen=True)
class Distractor:
    """A shape that stands, drifts or swings for the whole clip, whatever the class."""

    kind: Literal["square", "triangle", "ring"]
    motion: Literal["still", "drift", "swing", "turn", "act"]
    x: float
    y: float
    radius: float
    angle: float
    vx: float
    vy: float
    color: tuple[float, float, float]
    double: Actor | None = None
    """Actor whose action it performs if its motion is ``act``; its other properties stay."""
    window: tuple[float, float] = (0.0, 1.0)
    """Start and end of `double`'s action, s."""

    def pose(self, time_s: float, canvas: Canvas) -> Pose:
        """Pose at a time; a shape that drifts off one side comes back on the other."""
        if self.double is not None:
            return self.double.pose(_progress(time_s, self.window))
        x, y, angle = self.x, self.y, self.angle
        if self.motion == "drift":
            margin = 2 * self.radius
            x = (x + self.vx * time_s + margin) % (canvas.width + 2 * margin) - margin
            y = (y + self.vy * time_s + margin) % (canvas.height + 2 * margin) - margin
        elif self.motion == "swing":
            x += self.vx * np.sin(1.5 * time_s)
            y += self.vy * np.sin(1.5 * time_s)
        elif self.motion == "turn":
            angle += 0.05 * self.vx * time_s
        return Pose(float(x), float(y), self.radius, float(angle))


@dataclass(frozen=True)
class Scene:
    """Everything that a clip shows, and the ground truth: where and when its action is."""

    seed: int
    index: int
    canvas: Canvas
    n_frames: int
    window: tuple[float, float]
    """Start and end of the action, seconds from the clip's start."""
    actor: Actor
    distractors: tuple[Distractor, ...]
    pan: tuple[float, float, float]
    """Cycles per second and two phases (radians) of the background's pan."""
    flicker: tuple[float, float, float]
    """Amplitude, cycles per second and phase (radians) of the brightness."""
    noise: float
    """Standard deviation of the pixel noise, in grey levels."""
    rival: Actor | None = None
    """A second actor, of another class; it acts in the same window."""
    cue: str | None = None
    """The class, if it isn't the actor's action."""
    evidence: tuple[float, float] | None = None
    """Start and end of the time when the class can be seen, s; by default, the window."""
    recoloured: tuple[tuple[float, float, tuple[float, float, float]], ...] = ()
    """Start and end (s) of intervals in which the actor changes colour, and that colour."""
    texture: str | None = None
    """File of the background picture, see `pipeline.synthetic.textures`; by default, noise."""

    @property
    def action(self) -> str:
        """What the actor does, one of `ACTIONS`."""
        return self.actor.action

    @property
    def label(self) -> str:
        """The class of the clip."""
        return self.action if self.cue is None else self.cue

    @property
    def evidence_window(self) -> tuple[float, float]:
        """Start and end of the time when the class can be seen, s."""
        return self.window if self.evidence is None else self.evidence

    def actor_pose(self, frame: int) -> Pose:
        """Pose of the actor in a frame."""
        return self.actor.pose(_progress(frame / self.canvas.fps, self.window))

    def rival_pose(self, frame: int) -> Pose:
        """Pose of the second actor in a frame."""
        assert self.rival is not None
        return self.rival.pose(_progress(frame / self.canvas.fps, self.window))

    def actor_color(self, frame: int) -> tuple[float, float, float]:
        """Colour of the actor in a frame, RGB from 0 to 255."""
        time_s = frame / self.canvas.fps
        for start, end, color in self.recoloured:
            if start <= time_s < end:
                return color
        return self.actor.color


def _progress(time_s: float, window: tuple[float, float]) -> float:
    start, end = window
    return min(max((time_s - start) / (end - start), 0.0), 1.0)


def sample_scene(seed: int, index: int, action: str, canvas: Canvas | None = None) -> Scene:
    """Draw a scene of a class; the same ``(seed, index, action, canvas)`` gives the same scene.

    The action's window takes 55 to 80 % of the clip and lies anywhere in it. The actor stays in the
    central square, which is what a model sees; at the end of a move it may leave it by a sixteenth
    of its side.
    """
    canvas = canvas or Canvas()
    rng = np.random.default_rng([seed, index, ACTIONS.index(action)])
    duration = rng.uniform(canvas.min_duration_s, canvas.max_duration_s)
    length = duration * rng.uniform(0.55, 0.8)
    start = rng.uniform(0.0, duration - length)
    unit = canvas.height / 256
    extent = {"grow": rng.uniform(2.0, 2.6), "spin": rng.choice([-1, 1]) * rng.uniform(1.0, 1.5)}
    extent["shrink"] = extent["grow"]
    actor = Actor(
        action=action,
        x=canvas.width / 2 + unit * rng.uniform(-48, 48),
        y=canvas.height / 2 + unit * rng.uniform(-48, 48),
        radius=unit * rng.uniform(18, 32),
        angle=rng.uniform(0, 2 * np.pi),
        extent=float(extent.get(action, unit * rng.uniform(72, 110))),
        phase=rng.uniform(0, 2 * np.pi),
        color=draw_color(rng, hues=(-0.08, 0.15), saturations=(0.75, 1.0), values=(0.85, 1.0)),
    )
    return Scene(
        seed=seed,
        index=index,
        canvas=canvas,
        n_frames=round(duration * canvas.fps),
        window=(float(start), float(start + length)),
        actor=actor,
        distractors=tuple(_sample_distractor(rng, canvas) for _ in range(rng.integers(3, 7))),
        pan=(rng.uniform(0.03, 0.12), rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)),
        flicker=(rng.uniform(0.03, 0.15), rng.uniform(0.1, 0.6), rng.uniform(0, 2 * np.pi)),
        noise=rng.uniform(2.0, 7.0),
    )


def _sample_distractor(rng: np.random.Generator, canvas: Canvas) -> Distractor:
    unit = canvas.height / 256
    kinds: tuple[Literal["square", "triangle", "ring"], ...] = ("square", "triangle", "ring")
    motions: tuple[Literal["still", "drift", "swing", "turn"], ...] = (
        "still",
        "drift",
        "swing",
        "turn",
    )
    return Distractor(
        kind=kinds[rng.integers(len(kinds))],
        motion=motions[rng.integers(len(motions))],
        x=rng.uniform(0, canvas.width),
        y=rng.uniform(0, canvas.height),
        radius=unit * rng.uniform(10, 28),
        angle=rng.uniform(0, 2 * np.pi),
        vx=unit * rng.uniform(-40, 40),
        vy=unit * rng.uniform(-40, 40),
        color=draw_color(rng, hues=(0.25, 0.78), saturations=(0.4, 1.0), values=(0.4, 1.0)),
    )


def draw_color(
    rng: np.random.Generator,
    *,
    hues: tuple[float, float],
    saturations: tuple[float, float],
    values: tuple[float, float],
) -> tuple[float, float, float]:
    """Draw a colour, RGB from 0 to 255, from ranges of HSV from 0 to 1."""
    hue, saturation, value = rng.uniform(*hues), rng.uniform(*saturations), rng.uniform(*values)
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return 255 * red, 255 * green, 255 * blue
