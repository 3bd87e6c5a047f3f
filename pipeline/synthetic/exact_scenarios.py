"""EXACT's scenarios (Clark et al. 2024, arXiv 2405.12261) extended to time: clips with known truth.

A clip is grey and consists of a pattern P, which alone holds the class, and a background B:

- ``linear``: x = a P + (1 - a) B, with the class's tetromino at a fixed place. P and B are each
  divided by their Frobenius norm over the whole dataset, per clip.
- ``multiplicative``: x = (1 - a P) B: the pattern dims the background; (1 - a P) and B are divided
  likewise.
- ``moving``: linear, with a random place and quarter-turn; the class is the shape.
- ``motion``: linear, with one moving shape; the class is its direction, the truth the tube it
  sweeps.
- ``order``: linear, T then L against L then T; each frame shows one of the two.
- ``flash``: a square whose brightness in one frame has the class's sign, plus a brightness of the
  whole clip that another frame shows too. That other frame has nothing of the class but must be
  subtracted to see it: it is a *suppressor* and not part of the truth.

Random places of ``moving`` and ``order`` are on the grid of cells, which is that of the models'
patches, so that a shape's cells, but for their smooth edges, fill whole patches.

The background is ``white`` (normal, deviation 0.5) or ``correlated`` (smoothed by 10 pixels).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Scenario = Literal["linear", "multiplicative", "moving", "motion", "order", "flash"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
ExactTask = Literal[
    "exact_linear",
    "exact_multiplicative",
    "exact_moving",
    "exact_motion",
    "exact_order",
    "exact_flash",
]
"""What a model can be trained on: a scenario on a white background."""
Background = Literal["white", "correlated"]

SIDE = 64
"""Pixels."""
N_TIMES = 8
SHAPES = {"t": ((1, 0), (1, 1), (1, 0)), "l": ((1, 0), (1, 0), (1, 1))}
_CELL = 8
"""Side of a tetromino's cell, in pixels."""
_SMOOTHING = {"pattern": 1.5, "white": 0.0, "correlated": 10.0}
_DEVIATION = 0.5
_CLASSES: dict[Scenario, tuple[str, ...]] = {
    "linear": ("t", "l"),
    "multiplicative": ("t", "l"),
    "moving": ("t", "l"),
    "motion": ("left", "right", "up", "down"),
    "order": ("t then l", "l then t"),
    "flash": ("bright", "dark"),
}
ALPHAS: dict[Scenario, float] = {
    "linear": 0.3,
    "multiplicative": 0.9,
    "moving": 0.5,
    "motion": 0.5,
    "order": 0.5,
    "flash": 0.3,
}
"""Weight of the pattern in clips that models are trained on and explained with: strong enough that
the best model gets nearly all of them right, since a map of a wrong answer has no known truth."""
_DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
_FLASH_FRAME, _SUPPRESSOR_FRAME = 5, 2
_FLASH = slice(24, 40)

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class ExactClips:
    """Clips in one scenario."""

    pixels: Float32Array
    """(clips, T, 64, 64), -1 to 1; all clips are scaled by one factor."""
    labels: NDArray[np.int64]
    """(clips,): position in `class_names`."""
    truth: NDArray[np.bool_]
    """(clips, T, 64, 64): pixels in which the class shows."""


def scenario_of(task: str) -> Scenario | None:
    """Scenario of a task's name; None where the task is another kind of clip."""
    return {f"exact_{scenario}": scenario for scenario in SCENARIOS}.get(task)


def class_names(scenario: Scenario) -> tuple[str, ...]:
    """Classes of a scenario, in label order."""
    return _CLASSES[scenario]


def exact_clips(
    scenario: Scenario,
    n_clips: int,
    seed: int,
    *,
    alpha: float | None = None,
    background: Background = "white",
    spread: float | NDArray[np.float64] = 1.0,
) -> ExactClips:
    """Draw clips; the classes take turns.

    Parameters
    ----------
    alpha
        Weight of the pattern, 0 to 1; by default `ALPHAS`.
    spread
        How far from the middle a random place lies at most, of all clips or (clips,): 0 to 1, which
        is anywhere. Training starts in the middle.

    Raises
    ------
    ValueError
        If there is no such scenario, or alpha isn't between 0 and 1.
    """
    if scenario not in SCENARIOS:
        raise ValueError(f"scenario: {scenario!r} is not one of {', '.join(SCENARIOS)}")
    alpha = ALPHAS[scenario] if alpha is None else alpha
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: {alpha} is not between 0 and 1")
    rng = np.random.default_rng([seed, SCENARIOS.index(scenario), 401])
    labels = np.arange(n_clips) % len(class_names(scenario))
    # A few thousand clips fill gigabytes, so each of the two arrays is scaled where it is.
    patterns = np.empty((n_clips, N_TIMES, SIDE, SIDE), np.float32)
    pixels = np.empty_like(patterns)
    truth = np.empty(patterns.shape, np.bool_)
    names = class_names(scenario)
    for clip, (label, of_clip) in enumerate(
        zip(labels, np.broadcast_to(spread, n_clips), strict=True)
    ):
        patterns[clip], truth[clip] = _DRAW[scenario](names[label], rng, float(of_clip))
        pixels[clip] = _background(background, rng)
    if scenario == "multiplicative":
        np.subtract(1, np.multiply(patterns, alpha, out=patterns), out=patterns)
        pixels *= 1 / _norm(pixels)
        patterns *= 1 / _norm(patterns)
        pixels *= patterns
    else:
        pixels *= (1 - alpha) / _norm(pixels)
        patterns *= alpha / _norm(patterns)
        pixels += patterns
    pixels /= max(pixels.max(), -pixels.min())
    return ExactClips(pixels, labels, truth)


def as_frames(pixels: Float32Array) -> NDArray[np.uint8]:
    """Convert grey clips, -1 to 1, to frames for a model: (clips, T, 64, 64, 3) uint8."""
    grey = np.round((pixels + 1) * 127.5).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _norm(values: Float32Array) -> float:
    """Frobenius norm of the whole dataset, taken per clip."""
    return float(np.sqrt(np.mean([np.square(clip).sum() for clip in values])))


def _background(background: Background, rng: np.random.Generator) -> NDArray[np.float64]:
    from scipy.ndimage import gaussian_filter

    noise = rng.normal(0, _DEVIATION, (N_TIMES, SIDE, SIDE))
    sigma = _SMOOTHING[background]
    return gaussian_filter(noise, (0, sigma, sigma)) if sigma else noise


def _shape(name: str, turns: int = 0) -> NDArray[np.float64]:
    return np.kron(np.rot90(np.array(SHAPES[name], float), turns), np.ones((_CELL, _CELL)))


def _painted(shape: NDArray[np.float64], top: int, left: int) -> NDArray[np.float64]:
    frame = np.zeros((SIDE, SIDE))
    frame[top : top + shape.shape[0], left : left + shape.shape[1]] = shape
    return frame


def _place(shape: NDArray[np.float64], rng: np.random.Generator, spread: float) -> tuple[int, int]:
    """Draw a corner on the grid of cells, which is the models' grid of patches."""
    last = [(SIDE - size) // _CELL for size in shape.shape]
    top, left = (
        _CELL * round(middle + spread * (int(rng.integers(2 * middle + 1)) - middle))
        for middle in (number / 2 for number in last)
    )
    return top, left


Drawn = tuple[NDArray[np.float64], NDArray[np.bool_]]


def _smoothed(frames: NDArray[np.float64]) -> Drawn:
    from scipy.ndimage import gaussian_filter

    sigma = _SMOOTHING["pattern"]
    smooth = gaussian_filter(frames, (0, sigma, sigma))
    # Where smoothing leaves a hundredth or less, nothing of the class shows.
    return smooth, smooth > 0.01


def _linear(label: str, rng: np.random.Generator, spread: float) -> Drawn:
    # The two shapes lie apart, as in the paper, so the bright place gives the class, too.
    place = (8, 8) if label == "t" else (32, 40)
    return _smoothed(np.repeat(_painted(_shape(label), *place)[None], N_TIMES, axis=0))


def _moving(label: str, rng: np.random.Generator, spread: float) -> Drawn:
    shape = _shape(label, int(rng.integers(4)))
    top, left = _place(shape, rng, spread)
    return _smoothed(np.repeat(_painted(shape, top, left)[None], N_TIMES, axis=0))


def _motion(label: str, rng: np.random.Generator, spread: float) -> Drawn:
    shape = _shape("t", int(rng.integers(4)))
    step = 4
    reach = step * (N_TIMES - 1)
    vertical, horizontal = _DIRECTIONS[label]
    room = [
        SIDE - size - reach * abs(way)
        for size, way in zip(shape.shape, (vertical, horizontal), strict=True)
    ]
    corner = [int(rng.integers(space + 1)) for space in room]
    # A move left or up starts where one right or down would end.
    start = [at + reach * (way < 0) for at, way in zip(corner, (vertical, horizontal), strict=True)]
    frames = np.stack(
        [
            _painted(shape, start[0] + step * t * vertical, start[1] + step * t * horizontal)
            for t in range(N_TIMES)
        ]
    )
    smooth, shown = _smoothed(frames)
    return smooth, np.broadcast_to(shown.any(axis=0), shown.shape)


def _order(label: str, rng: np.random.Generator, spread: float) -> Drawn:
    first, second = label.split(" then ")
    top, left = _place(_shape(first), rng, spread)
    change = int(rng.integers(3, 6))
    frames = np.stack(
        [_painted(_shape(first if t < change else second), top, left) for t in range(N_TIMES)]
    )
    return _smoothed(frames)


def _flash(label: str, rng: np.random.Generator, spread: float) -> Drawn:
    # So large that one frame alone gives the class only half of the time.
    disturbance = rng.normal(0, 2.0)
    frames = np.zeros((N_TIMES, SIDE, SIDE))
    frames[_FLASH_FRAME, _FLASH, _FLASH] = (1 if label == "bright" else -1) + disturbance
    frames[_SUPPRESSOR_FRAME, _FLASH, _FLASH] = disturbance
    truth = np.zeros(frames.shape, np.bool_)
    truth[_FLASH_FRAME, _FLASH, _FLASH] = True
    return frames, truth


_DRAW = {
    "linear": _linear,
    "multiplicative": _linear,
    "moving": _moving,
    "motion": _motion,
    "order": _order,
    "flash": _flash,
}
