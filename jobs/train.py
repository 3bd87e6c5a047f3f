"""Train a small video transformer on synthetic scenes: ``python -m jobs.train --help``."""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.cli import run_job, writing
from pipeline.errors import ManifestError
from pipeline.run.progress_bar import progress_bar
from pipeline.synthetic.config import TrainConfig

if TYPE_CHECKING:
    from pipeline.dataset.manifest import Manifest

N_DRAWN = 400
"""Held-out clips of EXACT's scenarios, which are drawn rather than read."""


def run_training(config: TrainConfig) -> int:
    """Render the scenes, train, measure on the held-out clips, and write model and card."""
    from pipeline.synthetic.held_out import exact_held_out
    from pipeline.synthetic.model_card import model_card
    from pipeline.synthetic.small_models import SIDE, small_model
    from pipeline.synthetic.training import (
        collect_clips,
        drawn_accuracy,
        held_out_accuracy,
        image_size,
        render_clips,
        save,
        start_from,
        train,
    )

    held_out = None if config.held_out is None else _read_held_out(config.held_out, config)
    size = image_size(config)
    model = small_model(
        config.architecture, config.n_frames, config.seed, config.class_names, config.n_layers, size
    )
    if config.start is not None:
        start_from(model, config.start)
    with writing("out", config.out):
        Path(config.out).mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    rendered = progress_bar(render_clips(config), total=config.n_clips, unit="scene", desc="render")
    clips = collect_clips(rendered, config)
    for epoch in train(model, clips, config):
        seconds = time.monotonic() - started
        print(
            f"train: epoch {epoch.epoch} of {config.n_epochs}: loss {epoch.loss:.3f}, "
            f"{epoch.accuracy:.1%} right, {seconds:.0f} s",
            flush=True,
        )
    seconds, cpu = time.monotonic() - started, os.times()
    save(model, config.out)
    if held_out is None:
        assert config.scenario is not None
        drawn = exact_held_out(config.scenario, n_clips=N_DRAWN, seed=config.seed + 1)
        accuracy = drawn_accuracy(model, drawn.frames, drawn.labels)
    else:
        accuracy = held_out_accuracy(model, held_out)
    n_held_out = N_DRAWN if held_out is None else held_out.n_rows
    card = model_card(
        config,
        model_class=type(model).__name__,
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        input_size=size,
        side=SIDE,
        width=model.config.hidden_size,
        accuracy=accuracy,
        n_held_out=n_held_out,
        seconds=seconds,
        cpu_seconds=cpu.user + cpu.system + cpu.children_user + cpu.children_system,
    )
    (Path(config.out) / "README.md").write_text(card)
    print(f"train: {accuracy:.1%} of {n_held_out} held-out clips are right; {config.out}")
    return 0


def _read_held_out(path: str, config: TrainConfig) -> "Manifest":
    from pipeline.dataset.manifest import read_manifest

    held_out = read_manifest(path)
    labels = [label for label, _ in held_out.distinct_labels()]
    foreign = [label for label in labels if label not in config.class_names]
    if foreign or not labels:
        raise ManifestError(
            f"held_out: {path} has labels {foreign[:3]}, expected those of synthetic "
            f"clips: {', '.join(config.class_names)}"
        )
    return held_out


if __name__ == "__main__":
    sys.exit(run_job(TrainConfig, run_training, verb="train"))
