"""Frames and masks of a scene: pure functions of the scene and a frame number.

So any frame can be rendered without the ones before it.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.synthetic.scenes import Canvas, Pose, Scene, draw_color
from pipeline.synthetic.textures import texture

_PAN_PX = 48
_NOISE_MARGIN_PX = 64

Float32Array = NDArray[np.float32]
Box = tuple[slice, slice]


def render_frame(scene: Scene, frame: int) -> NDArray[np.uint8]:
    """Render one frame.

    Returns
    -------
    uint8 array of shape (height, width, 3), RGB
    """
    canvas = scene.canvas
    time_s = frame / canvas.fps
    size = canvas.height, canvas.width
    if scene.texture is None:
        image = _background(scene.seed, scene.index, *size)
    else:
        image = texture(scene.texture, canvas.height + _PAN_PX, canvas.width + _PAN_PX)
    cycles, phase_x, phase_y = scene.pan
    left = round(_PAN_PX * (1 + np.sin(2 * np.pi * cycles * time_s + phase_x)) / 2)
    top = round(_PAN_PX * (1 + np.sin(2 * np.pi * cycles * time_s + phase_y)) / 2)
    image = image[top : top + canvas.height, left : left + canvas.width].copy()
    for distractor in scene.distractors:
        pose = distractor.pose(time_s, canvas)
        box, coverage = _coverage(distractor.kind, pose, canvas)
        _paint(image, box, coverage * pose.opacity, np.asarray(distractor.color, np.float32))
    if scene.rival is not None:
        _paint_actor(image, scene.rival_pose(frame), scene.rival.color, canvas)
    _paint_actor(image, scene.actor_pose(frame), scene.actor_color(frame), canvas)
    amplitude, rate, phase = scene.flicker
    image *= 1 + amplitude * np.sin(2 * np.pi * rate * time_s + phase)
    image += scene.noise * _noise(scene, frame)[:, :, None]
    np.clip(image, 0, 255, out=image)
    return image.astype(np.uint8)


def actor_mask(scene: Scene, frame: int) -> NDArray[np.bool_]:
    """Where the actor is in a frame, even while it blinks: bool array of shape (height, width)."""
    return _disc_mask(scene.actor_pose(frame), scene.canvas)


def rival_mask(scene: Scene, frame: int) -> NDArray[np.bool_]:
    """Where the second actor is and isn't hidden by the first: bool array (height, width)."""
    behind: NDArray[np.bool_] = _disc_mask(scene.rival_pose(frame), scene.canvas)
    return behind & ~actor_mask(scene, frame)


def _disc_mask(pose: Pose, canvas: Canvas) -> NDArray[np.bool_]:
    mask = np.zeros((canvas.height, canvas.width), np.bool_)
    (rows, columns), coverage = _coverage("disc", pose, canvas)
    mask[rows, columns] = coverage >= 0.5
    return mask


def _paint_actor(
    image: Float32Array, pose: Pose, color: tuple[float, float, float], canvas: Canvas
) -> None:
    box, coverage = _coverage("disc", pose, canvas)
    _paint(image, box, coverage * pose.opacity, _two_tone(color, pose, box))


@lru_cache(maxsize=4)
def _background(seed: int, index: int, height: int, width: int) -> Float32Array:
    """Texture of three octaves, larger than the canvas by the panning range: float32 (h, w, 3)."""
    rng = np.random.default_rng([seed, index, 101])
    size = (width + _PAN_PX, height + _PAN_PX)
    tint = np.asarray(draw_color(rng, hues=(0, 1), saturations=(0.0, 0.35), values=(0.4, 0.75)))
    texture = np.zeros((size[1], size[0], 3), np.float32)
    for cells, contrast in ((4, 28.0), (12, 18.0), (40, 12.0)):
        octave = rng.normal(0, contrast, (cells, cells)).astype(np.float32)
        resized = Image.fromarray(octave).resize(size, Image.Resampling.BICUBIC)
        texture += np.asarray(resized)[:, :, None]
    return texture + tint.astype(np.float32)


@lru_cache(maxsize=4)
def _noise_bank(seed: int, index: int, height: int, width: int) -> Float32Array:
    rng = np.random.default_rng([seed, index, 102])
    shape = (height + _NOISE_MARGIN_PX, width + _NOISE_MARGIN_PX)
    return rng.standard_normal(shape, dtype=np.float32)


def _noise(scene: Scene, frame: int) -> Float32Array:
    """Take standard normal noise (height, width) from one bank, at another place for each frame."""
    canvas = scene.canvas
    bank = _noise_bank(scene.seed, scene.index, canvas.height, canvas.width)
    # With prime steps, every offset occurs before one repeats.
    top, left = (frame * 29) % _NOISE_MARGIN_PX, (frame * 43) % _NOISE_MARGIN_PX
    return bank[top : top + canvas.height, left : left + canvas.width]


def _coverage(kind: str, pose: Pose, canvas: Canvas) -> tuple[Box, Float32Array]:
    """Share of each pixel that a shape covers, antialiased, inside its bounding box."""
    reach = pose.radius * 1.5 + 1
    rows = slice(
        min(max(int(pose.y - reach), 0), canvas.height),
        max(min(int(pose.y + reach) + 2, canvas.height), 0),
    )
    columns = slice(
        min(max(int(pose.x - reach), 0), canvas.width),
        max(min(int(pose.x + reach) + 2, canvas.width), 0),
    )
    forward, sideways = _local_coordinates(pose, (rows, columns))
    distance: NDArray[np.floating]
    if kind == "disc":
        distance = np.hypot(forward, sideways) - pose.radius
    elif kind == "ring":
        distance = np.abs(np.hypot(forward, sideways) - 0.8 * pose.radius) - 0.25 * pose.radius
    elif kind == "square":
        distance = np.maximum(np.abs(forward), np.abs(sideways)) - 0.85 * pose.radius
    else:
        slanted = 0.866 * np.abs(sideways) + 0.5 * forward
        distance = np.maximum(slanted, -forward) - 0.6 * pose.radius
    coverage: Float32Array = np.clip(0.5 - distance, 0, 1)
    return (rows, columns), coverage


def _local_coordinates(pose: Pose, box: Box) -> tuple[Float32Array, Float32Array]:
    """Coordinates of pixels relative to a shape: ahead of it and to its side."""
    rows, columns = box
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(pose.y)
    x = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] - np.float32(pose.x)
    cosine, sine = np.float32(np.cos(pose.angle)), np.float32(np.sin(pose.angle))
    return cosine * x + sine * y, cosine * y - sine * x


def _two_tone(color: tuple[float, float, float], pose: Pose, box: Box) -> Float32Array:
    """Colour the actor's pixels: bright ahead, dark behind, so that its orientation shows."""
    forward, _ = _local_coordinates(pose, box)
    shade = np.clip(0.5 + forward, 0, 1)[:, :, None] * 0.75 + 0.25
    result: Float32Array = shade * np.asarray(color, np.float32)
    return result


def _paint(image: Float32Array, box: Box, coverage: Float32Array, color: Float32Array) -> None:
    rows, columns = box
    alpha = coverage[:, :, None]
    image[rows, columns] = image[rows, columns] * (1 - alpha) + color * alpha
