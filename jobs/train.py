"""Train the small TimeSformer on synthetic actions: ``python -m jobs.train --help``."""

import sys
import time
from pathlib import Path

from jobs.cli import run_job, writing
from pipeline.errors import ManifestError
from pipeline.progress_bar import progress_bar
from pipeline.synthetic.config import TrainConfig


def run_training(config: TrainConfig) -> int:
    """Render the scenes, train, measure on the held-out clips, and write model and card."""
    from pipeline.dataset.manifest import read_manifest
    from pipeline.synthetic.training import (
        CLASS_NAMES,
        collect_clips,
        held_out_accuracy,
        model_card,
        render_clips,
        save,
        small_timesformer,
        train,
    )

    held_out = read_manifest(config.held_out)
    labels = [label for label, _ in held_out.distinct_labels()]
    foreign = [label for label in labels if label not in CLASS_NAMES]
    if foreign or not labels:
        raise ManifestError(
            f"held_out: {config.held_out} has labels {foreign[:3]}, expected those of synthetic "
            f"clips: {', '.join(CLASS_NAMES)}"
        )
    with writing("out", config.out):
        Path(config.out).mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    rendered = progress_bar(render_clips(config), total=config.n_clips, unit="scene", desc="render")
    clips = collect_clips(rendered, config)
    model = small_timesformer(config.n_frames, config.seed)
    for epoch in train(model, clips, config):
        seconds = time.monotonic() - started
        print(
            f"train: epoch {epoch.epoch} of {config.n_epochs}: loss {epoch.loss:.3f}, "
            f"{epoch.accuracy:.1%} right, {seconds:.0f} s",
            flush=True,
        )
    save(model, config.out)
    accuracy = held_out_accuracy(model, held_out)
    card = model_card(model, config, accuracy, held_out.n_rows, time.monotonic() - started)
    (Path(config.out) / "README.md").write_text(card)
    print(f"train: {accuracy:.1%} of {held_out.n_rows} held-out clips are right; {config.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_job(TrainConfig, run_training, verb="train"))
