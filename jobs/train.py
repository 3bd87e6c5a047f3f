"""Train the small TimeSformer on synthetic actions: ``python -m jobs.train --help``."""

import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from jobs.cli import run_job
from pipeline.manifest import read_manifest
from pipeline.synthetic.training import (
    TrainConfig,
    held_out_accuracy,
    model_card,
    render_scenes,
    save,
    small_timesformer,
    train,
)


def run_training(config: TrainConfig) -> int:
    """Render the scenes, train, measure on the held-out clips, and write model and card."""
    held_out = read_manifest(config.held_out)
    started = time.monotonic()
    scenes = tqdm(render_scenes(config), total=config.n_clips, unit="scene", desc="render")
    frames = np.stack(list(scenes))
    model = small_timesformer(config.n_frames, config.seed)
    for epoch in train(model, frames, config):
        seconds = time.monotonic() - started
        print(f"train: epoch {epoch.epoch}: loss {epoch.loss:.4f}, {seconds:.0f} s", flush=True)
    accuracy = held_out_accuracy(model, held_out)
    save(model, config.out)
    card = model_card(model, config, accuracy, held_out.n_rows, time.monotonic() - started)
    (Path(config.out) / "README.md").write_text(card)
    print(f"train: {accuracy:.1%} of {held_out.n_rows} held-out clips are right; {config.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_job(TrainConfig, run_training, verb="train"))
