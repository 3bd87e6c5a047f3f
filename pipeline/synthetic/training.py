"""Trains the small models of the demo, the tests and the studies on rendered scenes.

Only sampled frames are rendered; they go through the same sampling, resizing and cropping as clips
do in a run. Held-out clips are decoded from their video files, as in a run.

Half of the classes depend on the order of frames, which no attempt learnt from one label per clip.
Four things make it learnable in minutes: weights of variance 1 / fan-in (transformers' deviation of
0.02 suits a width of 768 and leaves the blocks of a narrow model almost without effect); embeddings
of place and time that differ from the start; each clip and its own reverse in the same step, so
that they differ only in their order; and, while training, an auxiliary loss in which each patch
predicts whether the actor is on it and what the actor does.

Such a model was told where the actor is, so it flatters every map that finds the actor. Tasks other
than the actions are learnt from one label per clip, EXACT's scenarios among them, whose clips are
drawn as the model sees them: noise would not survive a video codec.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

from pipeline.clips.loader import ClipLoader
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import Views, ViewsConfig
from pipeline.dataset.manifest import Manifest
from pipeline.errors import ModelError
from pipeline.models.attributor import normalise
from pipeline.models.checkpoint import load_adapter, read_checkpoint
from pipeline.status import Status
from pipeline.store.ground_truth import share_of_patches
from pipeline.synthetic import exact_scenarios
from pipeline.synthetic.config import TrainConfig
from pipeline.synthetic.rendering import actor_mask, render_frame
from pipeline.synthetic.scenes import ACTIONS, Canvas, Scene
from pipeline.synthetic.shortcuts import PlantedClip, ShortcutConfig, plant, render_planted
from pipeline.synthetic.small_models import IMAGE_SIZE, SIDE
from pipeline.synthetic.tasks import TASKS, Style, class_names, task_scene

CLASS_NAMES = tuple(action.replace("_", " ") for action in ACTIONS)
"""Classes of the actions."""

PREPROCESSING = Preprocessing(
    shortest_edge=IMAGE_SIZE,
    crop=(IMAGE_SIZE, IMAGE_SIZE),
    image_mean=(0.45, 0.45, 0.45),
    image_std=(0.225, 0.225, 0.225),
)
"""Mean and deviation of the published TimeSformer checkpoints."""

_HELD_OUT_BATCH = 32
SMALL_CANVAS = Canvas(width=128, height=96, fps=10, min_duration_s=4.0, max_duration_s=10.0)
"""Canvas of tasks that are learnt from labels alone: rendered at the size that the model takes."""

_LEFT_RIGHT = ("move left", "move right")
_UP_DOWN = ("move up", "move down")
_GROW_SHRINK = ("grow", "shrink")
_COOL_WARM = ("cool warm", "warm cool")
_EXACT_SWAPS: dict[exact_scenarios.Scenario, tuple[tuple[str, str], ...]] = {
    "motion": (("left", "right"), ("up", "down")),
    "order": (("t then l", "l then t"),),
}
"""Classes that a scenario's clips swap when they are played backwards."""
_EASY_FIRST: tuple[exact_scenarios.Scenario, ...] = ("moving", "order")
"""Scenarios whose shape may lie anywhere: after 250 steps of such clips accuracy was still 50 %. So
the first pass begins with clips that have it in the middle."""


@dataclass(frozen=True)
class TrainingClips:
    """Rendered scenes, as the model sees them."""

    frames: NDArray[np.uint8]
    """(clips, T, height, width, 3)"""
    coverage: NDArray[np.float32]
    """(clips, T, 8, 8): share of each patch that the actor, or what holds the class, covers."""
    labels: NDArray[np.int64]
    """(clips,): position in the task's classes."""


@dataclass(frozen=True)
class Epoch:
    """State of the training after a pass over the scenes."""

    epoch: int
    loss: float
    """Mean cross-entropy of the pass, over augmented clips."""
    accuracy: float
    """Share of the pass's clips that were classified correctly when they were seen."""


def render_clips(config: TrainConfig) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Frames (T, height, width, 3) and coverage (T, 8, 8) of each training clip, in order."""
    if config.scenario is not None:
        yield from _exact_clips(config.scenario, config)
        return
    render = partial(_render_clip, config)
    with ProcessPoolExecutor(config.n_workers) as pool:
        yield from pool.map(render, range(config.n_clips), chunksize=32)


def image_size(config: TrainConfig) -> int:
    """Height and width of what the model sees, pixels."""
    return IMAGE_SIZE if config.scenario is None else exact_scenarios.SIDE


def collect_clips(
    rendered: Iterable[tuple[NDArray[np.uint8], NDArray[np.float32]]], config: TrainConfig
) -> TrainingClips:
    """Gather the clips of `render_clips`; each is copied once, since they fill gigabytes."""
    shape = (config.n_clips, config.n_frames)
    frames = np.empty((*shape, *2 * (image_size(config),), 3), np.uint8)
    coverage = np.empty((*shape, SIDE, SIDE), np.float32)
    for clip, (pictures, covered) in enumerate(rendered):
        frames[clip], coverage[clip] = pictures, covered
    return TrainingClips(frames, coverage, np.arange(config.n_clips) % len(config.class_names))


def start_from(model: PreTrainedModel, checkpoint: str) -> None:
    """Give a model the weights of a checkpoint of its family, size and classes.

    Raises
    ------
    ModelError
        If the checkpoint can't be read, or is of another model.
    """
    other = load_adapter(read_checkpoint(checkpoint), device="cpu").model
    theirs, ours = (
        {"classes": each.config.id2label}
        | {name: tuple(weights.shape) for name, weights in each.state_dict().items()}
        for each in (other, model)
    )
    for name in (*ours, *theirs):
        if theirs.get(name) != ours.get(name):
            raise ModelError(
                f"start: {checkpoint} has {name} {theirs.get(name)}, expected {ours.get(name)}"
            )
    model.load_state_dict(other.state_dict())


def train(model: PreTrainedModel, clips: TrainingClips, config: TrainConfig) -> Iterator[Epoch]:
    """Train a model in place; yields the state after each epoch."""
    torch.set_num_threads(config.n_threads)
    weight = config.patch_loss_weight
    # Predicts whether the actor is on a patch, and its action. Dropped after training.
    patch_head = nn.Linear(model.config.hidden_size, 1 + len(config.class_names))
    parameters = [*model.parameters(), *(patch_head.parameters() if weight else ())]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
    )
    n_clips = len(clips.labels)
    n_steps = config.n_epochs * math.ceil(n_clips / config.batch_size)
    n_versions = len(augmented(config, *_first(clips), torch.Generator())[2])
    # A cycle of ten steps would rise in none, and the scheduler divides by that.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=max(n_steps, 20), pct_start=0.1
    )
    generator = torch.Generator().manual_seed(config.seed)
    model.train()
    for epoch in range(1, config.n_epochs + 1):
        loss_sum, n_right = 0.0, 0
        order = torch.randperm(n_clips, generator=generator)
        if config.scenario in _EASY_FIRST and epoch == 1:
            order = torch.arange(n_clips)
        for chosen in torch.split(order, config.batch_size):
            frames, coverage, labels = augmented(
                config,
                torch.from_numpy(clips.frames[chosen]),
                torch.from_numpy(clips.coverage[chosen]),
                torch.from_numpy(clips.labels[chosen]),
                generator,
            )
            # bfloat16 trains about twice as fast on CPUs that have it.
            with torch.autocast("cpu", torch.bfloat16):
                pixel_values = normalise(frames, PREPROCESSING, torch.float32)
                if weight:
                    tokens = model.timesformer(pixel_values=pixel_values).last_hidden_state
                    logits = model.classifier(tokens[:, 0]).float()
                    patch_logits = patch_head(tokens[:, 1:]).float()
                else:
                    logits = model(pixel_values=pixel_values).logits.float()
            loss = total = F.cross_entropy(logits, labels)
            if weight:
                total = loss + weight * _patch_loss(patch_logits, coverage, labels)
            optimizer.zero_grad()
            torch.autograd.backward(total)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            loss_sum += loss.item() * len(chosen)
            n_right += int((logits.argmax(dim=-1) == labels).sum())
        yield Epoch(epoch, loss_sum / n_clips, n_right / (n_versions * n_clips))


def _patch_loss(patch_logits: Tensor, coverage: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy for whether the actor is on a patch and, if it is, for what it does.

    Parameters
    ----------
    patch_logits
        (clips, rows * columns * T, 1 + classes), in TimeSformer's order of tokens.
    coverage
        (clips, T, rows, columns)
    """
    covered = coverage.permute(0, 2, 3, 1).flatten(1)
    where = F.binary_cross_entropy_with_logits(patch_logits[..., 0], covered)
    what = F.cross_entropy(
        patch_logits[..., 1:].flatten(0, 1),
        labels.repeat_interleave(covered.shape[1]),
        reduction="none",
    )
    return where + (what * covered.flatten()).sum() / covered.sum()


def _first(clips: TrainingClips) -> tuple[Tensor, Tensor, Tensor]:
    frames, coverage, labels = clips.frames[:1], clips.coverage[:1], clips.labels[:1]
    return torch.from_numpy(frames), torch.from_numpy(coverage), torch.from_numpy(labels)


def held_out_accuracy(model: PreTrainedModel, manifest: Manifest) -> float:
    """Share of a manifest's clips, decoded from their files, that the model classifies correctly.

    A clip that can't be decoded counts as wrong.
    """
    loader = ClipLoader(
        root=manifest.root,
        views=Views.of_config(
            ViewsConfig(),
            Sampling(kind="uniform", n_samples=model.config.num_frames),
            PREPROCESSING,
        ),
        input_size=(IMAGE_SIZE, IMAGE_SIZE),
        class_of_label=dict(model.config.label2id),
    )
    model.eval()
    n_right = 0
    for start in range(0, manifest.n_rows, _HELD_OUT_BATCH):
        stop = min(start + _HELD_OUT_BATCH, manifest.n_rows)
        table = manifest.rows(start, stop)
        rows: dict[str, NDArray[Any]] = {
            name: np.array(table[name].to_pylist(), object if name != "start_time" else float)
            for name in ("video_id", "path", "label", "start_time")
        }
        clips = loader(rows | {"row": np.arange(start, stop)})
        predictions = _predictions(model, clips["frames"])
        decoded = clips["status"] == Status.OK
        n_right += int((decoded & (predictions == clips["label"])).sum())
    return n_right / manifest.n_rows


def drawn_accuracy(
    model: PreTrainedModel, frames: NDArray[np.uint8], labels: NDArray[np.int64]
) -> float:
    """Share of clips (clips, T, height, width, 3) that the model classifies correctly."""
    model.eval()
    n_right = 0
    for start in range(0, len(labels), _HELD_OUT_BATCH):
        chosen = slice(start, start + _HELD_OUT_BATCH)
        n_right += int((_predictions(model, frames[chosen]) == labels[chosen]).sum())
    return n_right / len(labels)


def _predictions(model: PreTrainedModel, frames: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Class of each clip (clips, T, height, width, 3)."""
    with torch.inference_mode():
        pixels = normalise(torch.from_numpy(frames), PREPROCESSING, torch.float32)
        predicted: NDArray[np.int64] = model(pixel_values=pixels).logits.argmax(dim=-1).numpy()
    return predicted


def save(model: PreTrainedModel, folder: str) -> None:
    """Write the model (safetensors) and its processor, as `from_pretrained` reads them."""
    model.save_pretrained(folder)
    size = model.config.image_size
    VideoMAEImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=list(PREPROCESSING.image_mean),
        image_std=list(PREPROCESSING.image_std),
    ).save_pretrained(folder)


def _render_clip(config: TrainConfig, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    n_frames = config.n_frames
    scene, render = _scene(config, index)
    sampling = Sampling(kind="uniform", n_samples=n_frames)
    chosen = sampling.indices(n_frames=scene.n_frames, fps=scene.canvas.fps).tolist()
    frames = np.stack([render(frame) for frame in chosen])
    masks = np.stack([actor_mask(scene, frame) for frame in chosen])
    pixels = PREPROCESSING.resize_and_crop_mask(masks)
    return PREPROCESSING.resize_and_crop(frames), share_of_patches(pixels, (n_frames, SIDE, SIDE))


def _exact_clips(
    scenario: exact_scenarios.Scenario, config: TrainConfig
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    n_clips = config.n_clips
    # In the middle at first, and anywhere for the last third.
    ramp = np.clip(np.arange(n_clips) / (n_clips * 2 / 3), 0, 1)
    spread = ramp if scenario in _EASY_FIRST else 1.0
    clips = exact_scenarios.exact_clips(scenario, n_clips, config.seed, spread=spread)
    for pixels, truth in zip(clips.pixels, clips.truth, strict=True):
        yield exact_scenarios.as_frames(pixels), exact_coverage(truth)


def exact_coverage(truth: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Share of each patch that the truth (T, height, width) of a drawn clip fills: (T, 8, 8)."""
    return share_of_patches(truth.astype(np.float32), (len(truth), SIDE, SIDE))


def _scene(config: TrainConfig, index: int) -> tuple[Scene, Callable[[int], NDArray[np.uint8]]]:
    """Scene of a training clip, and what renders its frames."""
    if config.task == "shortcuts":
        # Labels are right, and no clip is there twice.
        planted = ShortcutConfig(
            config.n_clips, config.seed, n_duplicates=0, n_swapped=0, clean=config.clean
        )
        clip = _planted(planted)[index]
        return clip.scene, partial(render_planted, clip)
    assert config.task in TASKS, "clips of scenarios are drawn all at once"
    names = class_names(config.task)
    canvas = Canvas() if config.task == "actions" else SMALL_CANVAS
    style = Style(distractors=config.distractors)
    label = names[index % len(names)]
    scene = task_scene(config.task, config.seed, index, label, canvas, style)
    return scene, partial(render_frame, scene)


@lru_cache(maxsize=1)
def _planted(config: ShortcutConfig) -> list[PlantedClip]:
    return plant(config, SMALL_CANVAS)


def augmented(
    config: TrainConfig,
    frames: Tensor,
    coverage: Tensor,
    labels: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Flip clips and, if the order of frames is the class, append each one played backwards.

    Planted cues stay where and when they are, and so does the pattern of a scenario.
    """
    task = config.task
    if config.scenario is not None:
        swaps = _EXACT_SWAPS.get(config.scenario)
        if swaps is None:
            return frames, coverage, labels
        return with_reverse(frames, coverage, labels, pairs=swaps, names=config.class_names)
    if task == "shortcuts":
        return frames, coverage, labels
    if task == "actions":
        return with_reverse(*mirrored(frames, coverage, labels, generator))
    turned = mirrored(frames, coverage, labels, generator, names=None)
    if task == "order":
        return with_reverse(*turned, pairs=(_COOL_WARM,), names=_COOL_WARM)
    return turned


def mirrored(
    frames: Tensor,
    coverage: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    names: tuple[str, ...] | None = CLASS_NAMES,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror half of the clips, turn half upside down, and adapt their labels.

    Parameters
    ----------
    frames
        (clips, T, height, width, 3)
    coverage
        (clips, T, rows, columns)
    labels
        (clips,)
    names
        Names of the classes, pairs of which are swapped; None if no label depends on the direction.

    Returns
    -------
    Frames, coverage and labels of the same shapes; the arguments aren't changed.
    """
    frames, coverage = frames.clone(), coverage.clone()
    for axis, pair in ((3, _LEFT_RIGHT), (2, _UP_DOWN)):
        chosen = torch.rand(len(frames), generator=generator) < 0.5
        frames[chosen] = frames[chosen].flip(axis)
        coverage[chosen] = coverage[chosen].flip(axis)
        if names is not None:
            labels = torch.where(chosen, _swapped((pair,), names)[labels], labels)
    return frames, coverage, labels


def with_reverse(
    frames: Tensor,
    coverage: Tensor,
    labels: Tensor,
    pairs: tuple[tuple[str, str], ...] = (_LEFT_RIGHT, _UP_DOWN, _GROW_SHRINK),
    names: tuple[str, ...] = CLASS_NAMES,
) -> tuple[Tensor, Tensor, Tensor]:
    """Append each clip played backwards, with its new label; shapes as in `mirrored`."""
    backwards = _swapped(pairs, names)[labels]
    return (
        torch.cat([frames, frames.flip(1)]),
        torch.cat([coverage, coverage.flip(1)]),
        torch.cat([labels, backwards]),
    )


def _swapped(pairs: tuple[tuple[str, str], ...], names: tuple[str, ...]) -> Tensor:
    """Index of the class that each class becomes when the classes of each pair are swapped."""
    becomes = torch.arange(len(names))
    for one, other in pairs:
        i, j = names.index(one), names.index(other)
        becomes[i], becomes[j] = j, i
    return becomes
