"""Trains the small TimeSformer that the demo and the tests use, on rendered synthetic actions.

Frames are rendered where they are sampled, and go through the same sampling, resizing and cropping
as clips do in a run; held-out clips are decoded from their video files, as in a run.

Half of the classes hang on the order of frames, which no run learnt from a label per clip alone as
long as it was tried. It is learnt in minutes with four things: weights of variance 1 / fan-in
(transformers' deviation of 0.02 is meant for a width of 768, and leaves the blocks of a narrow
model next to no effect); embeddings of place and time that differ from the start; every clip beside
its own reverse in one step, so that they differ in nothing but the order; and an auxiliary loss
while training, in which each patch tells whether the actor is on it and what the actor does.
"""

import math
import os
import shlex
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import TimesformerConfig, TimesformerForVideoClassification
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

from pipeline.clips.loader import ClipLoader
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import Views, ViewsConfig
from pipeline.dataset.manifest import Manifest
from pipeline.models.attributor import normalise
from pipeline.status import Status
from pipeline.synthetic.config import TrainConfig
from pipeline.synthetic.scenes import ACTIONS, actor_mask, render_frame, sample_scene

CLASS_NAMES = tuple(action.replace("_", " ") for action in ACTIONS)

IMAGE_SIZE = 96
PATCH_SIZE = 12
_SIDE = IMAGE_SIZE // PATCH_SIZE
PREPROCESSING = Preprocessing(
    shortest_edge=IMAGE_SIZE,
    crop=(IMAGE_SIZE, IMAGE_SIZE),
    image_mean=(0.45, 0.45, 0.45),
    image_std=(0.225, 0.225, 0.225),
)
"""Mean and deviation are those of the published TimeSformer checkpoints."""

_HELD_OUT_BATCH = 32
_EMBEDDING_SCALE = 0.5

_LEFT_RIGHT = ("move left", "move right")
_UP_DOWN = ("move up", "move down")
_GROW_SHRINK = ("grow", "shrink")


@dataclass(frozen=True)
class TrainingClips:
    """Rendered scenes as the model sees them."""

    frames: NDArray[np.uint8]
    """(clips, T, 96, 96, 3)"""
    coverage: NDArray[np.float32]
    """(clips, T, 8, 8): share of each patch that the actor covers."""
    labels: NDArray[np.int64]
    """(clips,): position in `CLASS_NAMES`."""


@dataclass(frozen=True)
class Epoch:
    """Where the training is after a pass over the scenes."""

    epoch: int
    loss: float
    """Mean cross-entropy of the pass, over the clips as they were turned."""
    accuracy: float
    """Share of the pass's clips that were right when they were seen."""


def small_timesformer(n_frames: int, seed: int) -> TimesformerForVideoClassification:
    """Build an untrained TimeSformer of 0.2 million parameters, with a grid of 8x8 patches."""
    torch.manual_seed(seed)
    width = 64
    model = TimesformerForVideoClassification(
        TimesformerConfig(
            image_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
            num_frames=n_frames,
            hidden_size=width,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=2 * width,
            num_labels=len(CLASS_NAMES),
            id2label=dict(enumerate(CLASS_NAMES)),
            label2id={name: index for index, name in enumerate(CLASS_NAMES)},
        )
    )
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    nn.init.zeros_(model.classifier.weight)
    embeddings = model.timesformer.embeddings
    rows = _sinusoids(_SIDE, width // 2)[:, None].expand(_SIDE, _SIDE, -1)
    columns = _sinusoids(_SIDE, width // 2)[None, :].expand(_SIDE, _SIDE, -1)
    with torch.no_grad():
        places = torch.cat([rows, columns], dim=-1).flatten(0, 1)
        embeddings.position_embeddings[0, 1:] = _EMBEDDING_SCALE * places
        embeddings.time_embeddings.copy_(_EMBEDDING_SCALE * _sinusoids(n_frames, width))
    return model


def render_clips(config: TrainConfig) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Frames (T, 96, 96, 3) and coverage (T, 8, 8) of each training scene, in order."""
    render = partial(_render_clip, config.seed, config.n_frames)
    with ProcessPoolExecutor(config.n_workers) as pool:
        yield from pool.map(render, range(config.n_clips), chunksize=32)


def collect_clips(
    rendered: Iterable[tuple[NDArray[np.uint8], NDArray[np.float32]]], config: TrainConfig
) -> TrainingClips:
    """Gather what `render_clips` gives; each clip is copied once, since they fill gigabytes."""
    shape = (config.n_clips, config.n_frames)
    frames = np.empty((*shape, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    coverage = np.empty((*shape, _SIDE, _SIDE), np.float32)
    for clip, (pictures, covered) in enumerate(rendered):
        frames[clip], coverage[clip] = pictures, covered
    return TrainingClips(frames, coverage, np.arange(config.n_clips) % len(CLASS_NAMES))


def train(
    model: TimesformerForVideoClassification, clips: TrainingClips, config: TrainConfig
) -> Iterator[Epoch]:
    """Train a model in place; gives the state after each epoch."""
    torch.set_num_threads(config.n_threads)
    # Is the actor on the patch, and which action is it? Dropped after training.
    patch_head = nn.Linear(model.config.hidden_size, 1 + len(CLASS_NAMES))
    parameters = [*model.parameters(), *patch_head.parameters()]
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
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=n_steps, pct_start=0.1
    )
    generator = torch.Generator().manual_seed(config.seed)
    model.train()
    for epoch in range(1, config.n_epochs + 1):
        loss_sum, n_right = 0.0, 0
        order = torch.randperm(n_clips, generator=generator)
        for chosen in torch.split(order, config.batch_size):
            frames, coverage, labels = with_reverse(
                *mirrored(
                    torch.from_numpy(clips.frames[chosen]),
                    torch.from_numpy(clips.coverage[chosen]),
                    torch.from_numpy(clips.labels[chosen]),
                    generator,
                )
            )
            # bfloat16 trains about twice as fast on CPUs that have it.
            with torch.autocast("cpu", torch.bfloat16):
                pixel_values = normalise(frames, PREPROCESSING, torch.float32)
                tokens = model.timesformer(pixel_values=pixel_values).last_hidden_state
                logits = model.classifier(tokens[:, 0]).float()
                patch_logits = patch_head(tokens[:, 1:]).float()
            loss = F.cross_entropy(logits, labels)
            auxiliary = config.patch_weight * _patch_loss(patch_logits, coverage, labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss + auxiliary)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            loss_sum += loss.item() * len(chosen)
            n_right += int((logits.argmax(dim=-1) == labels).sum())
        yield Epoch(epoch, loss_sum / n_clips, n_right / (2 * n_clips))


def _patch_loss(patch_logits: Tensor, coverage: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of whether the actor is on a patch and, where it is, of what it does.

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


def held_out_accuracy(model: TimesformerForVideoClassification, manifest: Manifest) -> float:
    """Share of a manifest's clips that the model classifies rightly, decoded from their files.

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
        class_of_label={name: index for index, name in enumerate(CLASS_NAMES)},
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
        with torch.inference_mode():
            pixels = normalise(torch.from_numpy(clips["frames"]), PREPROCESSING, torch.float32)
            predictions = model(pixel_values=pixels).logits.argmax(dim=-1).numpy()
        decoded = clips["status"] == Status.OK
        n_right += int((decoded & (predictions == clips["label"])).sum())
    return n_right / manifest.n_rows


def save(model: TimesformerForVideoClassification, folder: str) -> None:
    """Write the model (safetensors) and its processor, as `from_pretrained` reads them."""
    model.save_pretrained(folder)
    VideoMAEImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=list(PREPROCESSING.image_mean),
        image_std=list(PREPROCESSING.image_std),
    ).save_pretrained(folder)


def _render_clip(
    seed: int, n_frames: int, index: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    scene = sample_scene(seed, index, ACTIONS[index % len(ACTIONS)])
    sampling = Sampling(kind="uniform", n_samples=n_frames)
    chosen = sampling.indices(n_frames=scene.n_frames, fps=scene.canvas.fps).tolist()
    frames = np.stack([render_frame(scene, frame) for frame in chosen])
    masks = np.stack([actor_mask(scene, frame) for frame in chosen])
    pixels = PREPROCESSING.resize_and_crop_mask(masks)
    blocks = pixels.reshape(n_frames, _SIDE, PATCH_SIZE, _SIDE, PATCH_SIZE)
    return PREPROCESSING.resize_and_crop(frames), blocks.mean(axis=(2, 4), dtype=np.float32)


def mirrored(
    frames: Tensor, coverage: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror half of the clips and turn half upside down, with the labels that they have then.

    Parameters
    ----------
    frames
        (clips, T, height, width, 3)
    coverage
        (clips, T, rows, columns)
    labels
        (clips,)

    Returns
    -------
    Frames, coverage and labels of the same shapes; the arguments are left alone.
    """
    frames, coverage = frames.clone(), coverage.clone()
    for axis, pair in ((3, _LEFT_RIGHT), (2, _UP_DOWN)):
        chosen = torch.rand(len(frames), generator=generator) < 0.5
        frames[chosen] = frames[chosen].flip(axis)
        coverage[chosen] = coverage[chosen].flip(axis)
        labels = torch.where(chosen, _swapped([pair])[labels], labels)
    return frames, coverage, labels


def with_reverse(frames: Tensor, coverage: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Append each clip played backwards, with the label that it has then; shapes as `mirrored`."""
    backwards = _swapped([_LEFT_RIGHT, _UP_DOWN, _GROW_SHRINK])[labels]
    return (
        torch.cat([frames, frames.flip(1)]),
        torch.cat([coverage, coverage.flip(1)]),
        torch.cat([labels, backwards]),
    )


def _swapped(pairs: list[tuple[str, str]]) -> Tensor:
    """Class that each class becomes when those of a pair change places."""
    becomes = torch.arange(len(CLASS_NAMES))
    for one, other in pairs:
        i, j = CLASS_NAMES.index(one), CLASS_NAMES.index(other)
        becomes[i], becomes[j] = j, i
    return becomes


def _sinusoids(n_positions: int, n_channels: int) -> Tensor:
    """Sines and cosines of the position at wavelengths from 2 pi up: (positions, channels)."""
    position = torch.arange(n_positions, dtype=torch.float32)[:, None]
    rate = 100.0 ** -(torch.arange(n_channels // 2) / (n_channels // 2))
    return torch.cat([(position * rate).sin(), (position * rate).cos()], dim=1)


def model_card(
    model: TimesformerForVideoClassification,
    config: TrainConfig,
    accuracy: float,
    n_held_out: int,
    seconds: float,
) -> str:
    """Model card in Markdown: what the model is, how it was made, and how well it does."""
    defaults = {name: field.default for name, field in TrainConfig.model_fields.items()}
    flags = "".join(
        f" --{name.replace('_', '-')} {shlex.quote(str(value))}"
        for name, value in config.model_dump().items()
        if value != defaults[name] and value is not None and name != "n_workers"
    )
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    purpose = (
        "A control: it sees the middle frame of a clip alone, which doesn't give its action away."
        if config.n_frames == 1
        else f"It tells apart the {len(CLASS_NAMES)} actions of `pipeline/synthetic/scenes.py`, "
        "and knows nothing else of the world."
    )
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: video-classification
---

# Small TimeSformer for synthetic actions, {config.n_frames} frame(s)

{purpose}

`TimesformerForVideoClassification` with divided space-time attention: {config.n_frames} frame(s) of
{IMAGE_SIZE}x{IMAGE_SIZE} pixels, {_SIDE}x{_SIDE} patches, {model.config.num_hidden_layers} layers,
width {model.config.hidden_size}, {n_parameters:,} parameters.

| | |
| --- | --- |
| command | `python -m jobs.train{flags}` |
| data | {config.n_clips:,} rendered scenes of seed {config.seed}, and their reflections |
| sampling | uniform: run it with `--sampling.kind uniform` |
| patch loss | weight {config.patch_weight:g}: each patch tells if and how the actor acts on it |
| seed | {config.seed} |
| time | {seconds / 60:.0f} minutes, rendering included, on {os.cpu_count()} CPU cores |
| held-out accuracy | {accuracy:.1%} of {n_held_out} clips, decoded from H.264 files |
"""
