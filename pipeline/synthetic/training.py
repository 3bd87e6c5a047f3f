"""Trains the small TimeSformer that the demo and the tests use, on rendered synthetic actions.

Frames are rendered where they are sampled, and go through the same sampling, resizing and cropping
as clips do in a run; held-out clips are decoded from their video files, as in a run.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from transformers import TimesformerConfig, TimesformerForVideoClassification
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

from pipeline.attributor import normalise
from pipeline.config import FrozenConfig
from pipeline.load import ClipLoader
from pipeline.manifest import Manifest
from pipeline.preprocess import Preprocessing
from pipeline.sampling import Sampling
from pipeline.synthetic.scenes import ACTIONS, render_frame, sample_scene

CLASS_NAMES = tuple(action.replace("_", " ") for action in ACTIONS)

IMAGE_SIZE = 96
PREPROCESSING = Preprocessing(
    shortest_edge=IMAGE_SIZE,
    crop=(IMAGE_SIZE, IMAGE_SIZE),
    image_mean=(0.45, 0.45, 0.45),
    image_std=(0.225, 0.225, 0.225),
)
"""Mean and deviation are those of the published TimeSformer checkpoints."""

_HELD_OUT_BATCH = 32
_TIME_EMBEDDING_SCALE = 0.1


class TrainConfig(FrozenConfig):
    """Train the small TimeSformer on synthetic actions."""

    out: str
    """Folder that the model, its processor and its card are written to."""
    held_out: str
    """Manifest of synthetic clips of another seed, to measure accuracy on."""
    n_frames: int = Field(default=8, ge=1)
    """Frames that the model sees of a clip, spread evenly over it."""
    n_clips: int = Field(default=12_000, ge=1)
    """Scenes to train on; flips make four of each."""
    n_epochs: int = Field(default=16, ge=1)
    """Passes over the scenes."""
    batch_size: int = Field(default=64, ge=1)
    """Clips in a step."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak of the one-cycle schedule."""
    seed: int = Field(default=1, ge=0)
    """Of the scenes, the weights and the order; the demo's clips are of seed 0."""
    n_workers: int | None = Field(default=None, ge=1)
    """Processes that render; by default one per CPU."""


@dataclass(frozen=True)
class Epoch:
    """Where the training is after a pass over the scenes."""

    epoch: int
    loss: float
    """Mean cross-entropy of the pass, with flips."""


def small_timesformer(n_frames: int, seed: int) -> TimesformerForVideoClassification:
    """Build an untrained TimeSformer of 0.3 million parameters, with a grid of 8x8 patches."""
    torch.manual_seed(seed)
    model = TimesformerForVideoClassification(
        TimesformerConfig(
            image_size=IMAGE_SIZE,
            patch_size=12,
            num_frames=n_frames,
            hidden_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=256,
            num_labels=len(CLASS_NAMES),
            id2label=dict(enumerate(CLASS_NAMES)),
            label2id={name: index for index, name in enumerate(CLASS_NAMES)},
        )
    )
    # transformers starts these at zero, from where the order of the frames is learnt late or never.
    embeddings = model.timesformer.embeddings.time_embeddings
    with torch.no_grad():
        embeddings.copy_(_TIME_EMBEDDING_SCALE * _sinusoids(n_frames, embeddings.shape[-1]))
    return model


def render_scenes(config: TrainConfig) -> Iterator[NDArray[np.uint8]]:
    """Frames of each training scene as the model sees them: uint8 (T, 96, 96, 3)."""
    render = partial(_render_clip, config.seed, config.n_frames)
    with ProcessPoolExecutor(config.n_workers) as pool:
        yield from pool.map(render, range(config.n_clips), chunksize=32)


def train(
    model: TimesformerForVideoClassification, frames: NDArray[np.uint8], config: TrainConfig
) -> Iterator[Epoch]:
    """Train a model in place; gives the state after each epoch.

    Parameters
    ----------
    frames
        (clips, T, 96, 96, 3) uint8; clip i is of class ``i % 10``.
    """
    labels = torch.arange(len(frames)) % len(CLASS_NAMES)
    inputs = torch.from_numpy(frames)
    generator = torch.Generator().manual_seed(config.seed)
    n_steps = config.n_epochs * -(-len(inputs) // config.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=n_steps, pct_start=0.1
    )
    for epoch in range(1, config.n_epochs + 1):
        model.train()
        total = 0.0
        order = torch.randperm(len(inputs), generator=generator)
        for start in range(0, len(order), config.batch_size):
            chosen = order[start : start + config.batch_size]
            pixels, targets = _flip(inputs[chosen], labels[chosen], generator)
            # bfloat16 trains more than twice as fast on CPUs that have it.
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(
                    pixel_values=normalise(pixels, PREPROCESSING, torch.float32), labels=targets
                ).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        yield Epoch(epoch, total / len(inputs))


def held_out_accuracy(model: TimesformerForVideoClassification, manifest: Manifest) -> float:
    """Share of a manifest's clips that the model classifies rightly, decoded from their files."""
    loader = ClipLoader(
        root=manifest.root,
        sampling=Sampling(kind="uniform", n_samples=model.config.num_frames),
        preprocessing=PREPROCESSING,
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
        n_right += int((predictions == clips["label"]).sum())
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


def _render_clip(seed: int, n_frames: int, index: int) -> NDArray[np.uint8]:
    scene = sample_scene(seed, index, ACTIONS[index % len(ACTIONS)])
    sampling = Sampling(kind="uniform", n_samples=n_frames)
    chosen = sampling.indices(n_frames=scene.n_frames, fps=scene.canvas.fps)
    return PREPROCESSING.resize_and_crop(
        np.stack([render_frame(scene, int(frame)) for frame in chosen])
    )


def _flip(clips: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror half of the clips, and turn half upside down, with the directions of their labels."""
    clips, labels = clips.clone(), labels.clone()
    for axis, pair in ((3, ("move left", "move right")), (2, ("move up", "move down"))):
        chosen = torch.rand(len(clips), generator=generator) < 0.5
        clips[chosen] = clips[chosen].flip(axis)
        one, other = (CLASS_NAMES.index(name) for name in pair)
        swapped = labels.clone()
        swapped[labels == one], swapped[labels == other] = other, one
        labels = torch.where(chosen, swapped, labels)
    return clips, labels


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
        f" --{name.replace('_', '-')} {value}"
        for name, value in config.model_dump().items()
        if value != defaults[name] and value is not None and name != "n_workers"
    )
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: video-classification
---

# Small TimeSformer for synthetic actions

`TimesformerForVideoClassification` with divided space-time attention: {config.n_frames} frame(s) of
{IMAGE_SIZE}x{IMAGE_SIZE} pixels, 8x8 patches, {model.config.num_hidden_layers} layers of width
{model.config.hidden_size}, {n_parameters:,} parameters. It tells apart the {len(CLASS_NAMES)}
actions of `pipeline/synthetic/scenes.py` and knows nothing else of the world.

| | |
| --- | --- |
| command | `python -m jobs.train{flags}` |
| data | {config.n_clips:,} rendered scenes of seed {config.seed}, and their mirror images |
| sampling | uniform |
| seed | {config.seed} |
| time | {seconds / 60:.0f} minutes, rendering included, on 2 CPU cores |
| held-out accuracy | {accuracy:.1%} of {n_held_out} clips, decoded from H.264 files |
"""
