"""Write a synthetic dataset: ``python -m jobs.synthesize --help``."""

import sys

from jobs.cli import run_job
from pipeline.errors import ConfigError
from pipeline.progress_bar import progress_bar
from pipeline.synthetic.config import SynthesizeConfig


def synthesize(config: SynthesizeConfig) -> int:
    """Write every clip with its ground truth."""
    if "://" in config.out:
        raise ConfigError(f"out: {config.out} is a URL, expected a folder on this machine")
    from pipeline.synthetic.dataset import write_dataset

    clips = progress_bar(
        write_dataset(config), total=config.n_clips, unit="clip", desc="synthesize"
    )
    n_frames = sum(clip.scene.n_frames for clip in clips)
    print(f"synthesize: {config.n_clips} clips, {n_frames} frames in {config.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_job(SynthesizeConfig, synthesize, verb="synthesize"))
