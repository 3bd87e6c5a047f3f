"""Measure a run's attributions against ground truth: ``python -m jobs.evaluate --help``."""

import sys

from pydantic_settings import CliPositionalArg

from jobs.cli import run_job
from pipeline.config import FrozenConfig
from pipeline.evaluation.evaluate import evaluate_lift, metrics_url
from pipeline.synthetic.ground_truth import open_ground_truth


class EvaluateConfig(FrozenConfig):
    """Measure the share of attribution that falls on the ground truth's mask, and its lift."""

    run: CliPositionalArg[str]
    """Folder of the run, any fsspec URL."""
    ground_truth: str
    """The `ground_truth.zarr` of a synthetic dataset."""


def evaluate(config: EvaluateConfig) -> int:
    """Print the lift of each method and store the values per clip."""
    lifts = evaluate_lift(config.run, open_ground_truth(config.ground_truth))
    print(f"{'method':<16} {'on mask':>8} {'covered':>8} {'lift':>6}  (standard error)")
    for method, lift in lifts.items():
        print(
            f"{method:<16} {lift.share:>8.1%} {lift.covered:>8.1%} {lift.value:>6.2f}  "
            f"({lift.standard_error:.2f})"
        )
    n_clips = lifts["staa"].n_clips
    print(f"evaluate: {n_clips} clips; values per clip in {metrics_url(config.run)}")
    return 0


if __name__ == "__main__":
    sys.exit(run_job(EvaluateConfig, evaluate, verb="evaluate"))
