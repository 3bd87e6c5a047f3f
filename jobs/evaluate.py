"""Measure a run's attributions against ground truth: ``python -m jobs.evaluate --help``."""

import sys
from typing import TYPE_CHECKING

from pydantic import Field

from jobs.cli import RunWriter, owned_run, run_job
from pipeline.store.run_folder import metrics_url

if TYPE_CHECKING:
    from pipeline.evaluation.localisation import Lift
    from pipeline.evaluation.scores import Score


class EvaluateConfig(RunWriter):
    """Measure the share of attribution that falls on the ground truth's mask, and its lift.

    Prints both for the run's attribution and for maps to compare it with; then for the attribution
    after dynamic threshold and attention focusing, with the share of patches that aren't 0 (kept)
    and the entropy over the highest there can be; then where the order of patches and the mass lie,
    and how concentrated the map is.
    """

    ground_truth: str
    """The `ground_truth.zarr` of a synthetic dataset, or of `jobs.ground_truth`."""
    kind: str | None = None
    """Which kind of it counts, as person or hand; by default the first."""
    by_class: bool = False
    """Also print each class's share on the mask, the lowest first: with masks of persons, the human
    share."""
    emd_clips: int = Field(default=1000, ge=0)
    """Clips, evenly over the run, of which the earth mover's distance in space is computed."""


def evaluate(config: EvaluateConfig) -> int:
    """Print the lift of each method, the effect of sharpening, and store the values per clip."""
    from pipeline.evaluation.evaluate import METHODS, evaluate_run
    from pipeline.store.ground_truth import open_ground_truth

    truth = open_ground_truth(config.ground_truth)
    with owned_run(config, "evaluate") as (_, lease):
        evaluation = evaluate_run(
            config.run,
            truth,
            kind=config.kind,
            n_transported=config.emd_clips,
            before_writing=lease.check,
        )
    print(f"{'method':<28} {'on mask':>8} {'covered':>8} {'lift':>6}  (standard error)")
    for method, lift in evaluation.methods.items():
        print(f"{method:<28} {lift.share:>8.1%} {lift.covered:>8.1%} {_value(lift)}")
    print()
    print(
        f"{'attribution, sharpened by':<28} {'on mask':>8} {'kept':>8} {'lift':>6}  {'':<8}entropy"
    )
    for variant, effect in evaluation.variants.items():
        print(
            f"{variant:<28} {effect.lift.share:>8.1%} {effect.kept:>8.1%} "
            f"{_value(effect.lift):<16}{effect.entropy:.3f}"
        )
    print()
    print(f"{'mean (standard error)':<22}" + "".join(f"{name:>16}" for name in METHODS))
    for metric, of_methods in evaluation.scores.items():
        undefined = next(iter(of_methods.values())).n_undefined
        print(
            f"{metric.replace('_', ' '):<22}"
            + "".join(f"{_mean(of_methods[name]):>16}" for name in METHODS)
            + (f" {undefined:>4} n/a" if undefined else "")
        )
    if config.by_class:
        print()
        print(f"{'class':<28} {'on mask':>8} {'covered':>8} {'ratio':>6}  (95 % interval)   clips")
        for name, each in sorted(evaluation.classes.items(), key=lambda item: item[1].ratio):
            low, high = each.interval
            print(
                f"{name:<28} {each.share:>8.1%} {each.covered:>8.1%} {each.ratio:>6.2f}  "
                f"({low:.2f} to {high:.2f}) {each.n_clips:>9}"
            )
    print()
    print(f"evaluate: {evaluation.n_clips} clips; values per clip in {metrics_url(config.run)}")
    return 0


def _mean(score: "Score") -> str:
    return f"{score.mean:.3f} ({score.standard_error:.3f})"


def _value(lift: "Lift") -> str:
    return f"{lift.value:>6.2f}  ({lift.standard_error:.2f})"


if __name__ == "__main__":
    sys.exit(run_job(EvaluateConfig, evaluate, verb="evaluate"))
