"""A dataset that can be right for the wrong reasons: it has planted cues, which are recorded.

It has a few classes of synthetic actions. Some of them can be recognised without the action: by a
corner logo, a still background of one tint, or a flash in the first frames. One class has two
strategies: half of its clips have one cue, half another. In addition, some clips of the validation
split are copies of training clips, and some have another class's label. A clean twin with the same
seed has the same scenes and nothing planted.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic.rendering import render_frame
from pipeline.synthetic.scenes import Canvas, Scene, sample_scene

Cue = Literal["none", "logo", "background", "flash", "logo_low", "frame_end"]

CLASSES = ("blink", "bounce", "grow", "orbit", "spin")
"""Actions that are the classes, in label order."""
CUE_OF_CLASS: dict[str, tuple[Cue, ...]] = {
    "blink": ("logo",),
    "bounce": ("background",),
    "grow": ("flash",),
    "orbit": ("logo_low", "frame_end"),
    "spin": ("none",),
}
"""Cues planted in each class; a class with two cues has two strategies, each in half of its
clips."""

_LOGO_SHARE = 0.16
"""Side of the logo as a share of the frame's height."""
_MARGIN_SHARE = 0.04
_FLASH_SHARE = 0.25
"""Share of the clip, at its start or end, during which it flashes."""
_FLASH_LEVELS = 70.0
_TINT = np.array([40.0, -25.0, -45.0], np.float32)


@dataclass(frozen=True)
class ShortcutConfig:
    """How much is planted."""

    n_clips: int = 400
    seed: int = 0
    planted_share: float = 0.95
    """Share of a class's clips that have its cue."""
    val_share: float = 0.25
    n_duplicates: int = 6
    """Number of validation clips that are copies of training clips."""
    n_swapped: int = 8
    """Number of clips with another class's label."""
    clean: bool = False
    """Make the twin with nothing planted."""

    def __post_init__(self) -> None:
        if not 0 < self.val_share < 1:
            raise ValueError(f"val_share: {self.val_share} is not between 0 and 1")
        if not 0 <= self.planted_share <= 1:
            raise ValueError(f"planted_share: {self.planted_share} is not between 0 and 1")
        n_val = round(self.val_share * self.n_clips)
        if self.n_duplicates > n_val or self.n_swapped > self.n_clips:
            raise ValueError(
                f"n_duplicates is {self.n_duplicates} out of {n_val} validation clips, and "
                f"n_swapped is {self.n_swapped} out of {self.n_clips} clips: more than there are"
            )


@dataclass(frozen=True)
class PlantedClip:
    """One clip, and what was planted in it."""

    video_id: str
    split: Literal["train", "val"]
    scene: Scene
    label: str
    """The label in the dataset."""
    true_label: str
    """What the actor does."""
    cue: Cue
    duplicate_of: str | None = None
    """``video_id`` of the training clip that it copies."""

    @property
    def facts(self) -> dict[str, Any]:
        """What was planted, as JSON values."""
        return {
            each.name: getattr(self, each.name) for each in fields(self) if each.name != "scene"
        }


def plant(config: ShortcutConfig, canvas: Canvas | None = None) -> list[PlantedClip]:
    """Draw a dataset; equal configurations give equal datasets, a clean twin the same scenes."""
    rng = np.random.default_rng([config.seed, 501])
    n_val = round(config.val_share * config.n_clips)
    clips = []
    for index in range(config.n_clips):
        true_label = CLASSES[index % len(CLASSES)]
        cues = CUE_OF_CLASS[true_label]
        cue = (
            cues[index // len(CLASSES) % len(cues)]
            if rng.random() < config.planted_share
            else "none"
        )
        clips.append(
            PlantedClip(
                video_id=f"cue{config.seed:03d}{index:05d}",
                # The last clips, which contain all classes too.
                split="val" if index >= config.n_clips - n_val else "train",
                scene=sample_scene(config.seed, index, true_label, canvas),
                label=true_label,
                true_label=true_label,
                cue="none" if config.clean else cue,
            )
        )
    duplicates = rng.choice(
        np.arange(config.n_clips - n_val, config.n_clips), config.n_duplicates, replace=False
    )
    originals = rng.choice(config.n_clips - n_val, config.n_duplicates, replace=False)
    swapped = rng.permutation(
        np.setdiff1d(np.arange(config.n_clips), np.append(duplicates, originals))
    )
    others = rng.integers(1, len(CLASSES), config.n_clips)
    if config.clean:
        return clips
    for copy, original in zip(duplicates.tolist(), originals.tolist(), strict=True):
        shown = clips[original]
        clips[copy] = replace(
            shown, video_id=clips[copy].video_id, split="val", duplicate_of=shown.video_id
        )
    for index in swapped[: config.n_swapped].tolist():
        clip = clips[index]
        place = (CLASSES.index(clip.true_label) + others[index]) % len(CLASSES)
        clips[index] = replace(clip, label=CLASSES[place])
    return clips


def render_planted(clip: PlantedClip, frame: int) -> NDArray[np.uint8]:
    """Render a frame with its cue: uint8 (height, width, 3)."""
    scene = clip.scene
    if clip.cue == "background":
        # No pan and no flicker, so that the background is the same in every frame.
        scene = replace(scene, pan=(0.0, 0.0, 0.0), flicker=(0.0, 1.0, 0.0))
    picture = render_frame(scene, frame).astype(np.float32)
    mask = cue_mask(clip, frame)
    if clip.cue == "background":
        picture += _TINT
    elif clip.cue in ("logo", "logo_low"):
        picture[mask] = _logo(clip.cue, mask)
    elif mask.any():
        picture += _FLASH_LEVELS
    return np.clip(picture, 0, 255).astype(np.uint8)


def cue_mask(clip: PlantedClip, frame: int) -> NDArray[np.bool_]:
    """Where the cue is in a frame, (height, width) bool; a flash or a background fills it."""
    canvas = clip.scene.canvas
    mask = np.zeros((canvas.height, canvas.width), np.bool_)
    progress = frame / clip.scene.n_frames
    if clip.cue in ("logo", "logo_low"):
        side = round(_LOGO_SHARE * canvas.height)
        margin = round(_MARGIN_SHARE * canvas.height)
        # Inside the central square, as a model sees nothing else.
        left = (canvas.width - canvas.height) // 2 + margin
        top = margin if clip.cue == "logo" else canvas.height - margin - side
        mask[top : top + side, left : left + side] = True
    elif clip.cue == "background":
        mask[:] = True
    elif clip.cue == "flash":
        mask[:] = progress < _FLASH_SHARE
    elif clip.cue == "frame_end":
        mask[:] = progress >= 1 - _FLASH_SHARE
    return mask


def _logo(cue: Cue, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Pixels of the logo, (pixels, 3): a ring or stripes in two colours."""
    rows, columns = np.nonzero(mask)
    side = rows.max() - rows.min() + 1
    y, x = ((at - at.min() + 0.5) / side - 0.5 for at in (rows, columns))
    if cue == "logo":
        inside = np.abs(np.hypot(y, x) - 0.3) < 0.12
        colours = (250.0, 250.0, 250.0), (10.0, 60.0, 160.0)
    else:
        inside = np.floor(4 * (x + 0.5)) % 2 == 0
        colours = (250.0, 220.0, 30.0), (20.0, 20.0, 20.0)
    light, dark = (np.array(colour, np.float32) for colour in colours)
    return np.where(inside[:, None], light, dark)
