"""Train a small video transformer on synthetic scenes: ``python -m jobs.train --help``."""

import os
import sys
import time
from pathlib import Path

from jobs.cli import run_job, writing
from pipeline.errors import ManifestError
from pipeline.run.progress_bar import progress_bar
from pipeline.synthetic.config import TrainConfig


def run_training(config: TrainConfig) -> int:
    """Render the scenes, train, measure on the held-out clips, and write model and card."""
    from pipeline.dataset.manifest import read_manifest
    from pipeline.synthetic.model_card import model_card
    from pipeline.synthetic.small_models import IMAGE_SIZE, SIDE, small_model
    from pipeline.synthetic.training import (
        collect_clips,
        held_out_accuracy,
        render_clips,
        save,
        train,
    )

    held_out = read_manifest(config.held_out)
    labels = [label for label, _ in held_out.distinct_labels()]
    foreign = [label for label in labels if label not in config.class_names]
    if foreign or not labels:
        raise ManifestError(
            f"held_out: {config.held_out} has labels {foreign[:3]}, expected those of synthetic "
            f"clips: {', '.join(config.class_names)}"
        )
    with writing("out", config.out):
        Path(config.out).mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    rendered = progress_bar(render_clips(config), total=config.n_clips, unit="scene", desc="render")
    clips = collect_clips(rendered, config)
    model = small_model(
        config.architecture, config.n_frames, config.seed, config.class_names, config.n_layers
    )
    for epoch in train(model, clips, config):
        seconds = time.monotonic() - started
        print(
            f"train: epoch {epoch.epoch} of {config.n_epochs}: loss {epoch.loss:.3f}, "
            f"{epoch.accuracy:.1%} right, {seconds:.0f} s",
            flush=True,
        )
    seconds, cpu = time.monotonic() - started, os.times()
    save(model, config.out)
    accuracy = held_out_accuracy(model, held_out)
    card = model_card(
        config,
        model_class=type(model).__name__,
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        input_size=IMAGE_SIZE,
        side=SIDE,
        width=model.config.hidden_size,
        accuracy=accuracy,
        n_held_out=held_out.n_rows,
        seconds=seconds,
        cpu_seconds=cpu.user + cpu.system + cpu.children_user + cpu.children_system,
    )
    (Path(config.out) / "README.md").write_text(card)
    print(f"train: {accuracy:.1%} of {held_out.n_rows} held-out clips are right; {config.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_job(TrainConfig, run_training, verb="train"))
