"""Write a synthetic dataset: ``python -m jobs.synthesize --help``."""

import sys
from pathlib import Path

from jobs.cli import run_job, writing
from pipeline.errors import ConfigError
from pipeline.run.progress_bar import progress_bar
from pipeline.synthetic.config import SynthesizeConfig


def synthesize(config: SynthesizeConfig) -> int:
    """Write every clip with its ground truth."""
    if "://" in config.out:
        raise ConfigError(f"out: {config.out} is a URL, expected a folder on this machine")
    if config.stream is not None:
        return _write_stream(config, config.stream)
    from pipeline.synthetic.dataset import write_dataset

    clips = progress_bar(
        write_dataset(config), total=config.n_clips, unit="clip", desc="synthesize"
    )
    n_frames = sum(clip.scene.n_frames for clip in clips)
    print(f"synthesize: {config.n_clips} clips, {n_frames} frames in {config.out}")
    return 0


def _write_stream(config: SynthesizeConfig, length_s: float) -> int:
    from pipeline.synthetic.stream import write_stream

    planted_from = length_s if config.planted_from is None else config.planted_from
    with writing("out", config.out):
        path = write_stream(Path(config.out), length_s, planted_from, config.seed, config.canvas)
    print(f"synthesize: {length_s:g} s in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(run_job(SynthesizeConfig, synthesize, verb="synthesize"))
