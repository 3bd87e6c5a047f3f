"""Measure a run's attributions, against ground truth and by perturbing clips: ``--help``."""

import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from jobs.cli import RunWriter, owned_run, run_job
from pipeline.errors import StorageError
from pipeline.run.config import Device
from pipeline.store.run_folder import failures_url, faithfulness_url, metrics_url

if TYPE_CHECKING:
    from pipeline.evaluation.localisation import Lift
    from pipeline.evaluation.measured import Measured
    from pipeline.evaluation.scores import Score
    from pipeline.run.job import StagesOf
    from pipeline.run.plan import Plan
    from pipeline.run.sample import SamplePlan
    from pipeline.run.steps import Stages
    from pipeline.run.tally import Channel
    from pipeline.store.lease import Lease
    from pipeline.store.state import RunSummary


_INTERVAL_WIDTH = len("(-0.123 to -0.045)")


class EvaluateConfig(RunWriter):
    """Measure a run's attributions against ground truth, by perturbing its clips, or both.

    With ground truth: the share of attribution that falls on the mask, and its lift, for the run's
    attribution and for maps to compare it with; then after dynamic threshold and attention
    focusing; then where the order of patches and the mass lie, and how concentrated the map is.

    With faithfulness: a sample of the clips is decoded and goes through the model again, with parts
    removed and alone kept in the order of the attribution, and of random ones. What was measured
    is kept in the run's folder, shard by shard; the same command goes on where it was.
    """

    ground_truth: str | None = None
    """The `ground_truth.zarr` of a synthetic dataset, or of `jobs.ground_truth`."""
    kind: str | None = None
    """Which kind of it counts, as person or hand; by default the first."""
    by_class: bool = False
    """Also print each class's share on the mask, the lowest first: with masks of persons, the human
    share; and each class's gap."""
    emd_clips: int = Field(default=1000, ge=0)
    """Clips, evenly over those that have a truth, of which the earth mover's distance in space is
    computed."""
    faithfulness: bool = False
    """Ask the model about perturbed clips."""
    clips: int = Field(default=200, ge=0)
    """Videos that are asked about, of each class as many; 0 for all."""
    seed: int = Field(default=0, ge=0)
    """By which they are chosen."""
    n_random: int = Field(default=1, ge=1)
    """Random orders that each clip's attribution is held against: each costs as much as it."""
    manifest: str | None = None
    """Where the run's manifest is now, if it isn't where it was."""
    model: str | None = None
    """Where its checkpoint is now."""
    device: Device = "auto"
    """Where the model runs."""
    n_models: int | None = Field(default=None, ge=1)
    """Copies of the model that run at once."""
    serial: bool = False
    """Ask in this process alone, without Ray."""
    overwrite: bool = False
    """Delete what an earlier sample has told, and start over; for one call."""

    @model_validator(mode="after")
    def _something_is_asked_for(self) -> Self:
        if self.ground_truth is None and not self.faithfulness:
            raise ValueError("ground_truth: is required, or --faithfulness")
        return self


def evaluate(config: EvaluateConfig) -> int:
    """Print what is asked for, and store the values per clip."""
    code = 0
    if config.ground_truth is not None:
        _localise(config, config.ground_truth)
    if config.faithfulness:
        code = _perturb(config)
    return code


def _localise(config: EvaluateConfig, ground_truth: str) -> None:
    """Print the lift of each method, the effect of sharpening, and the scores."""
    from pipeline.evaluation.evaluate import METHODS, evaluate_run
    from pipeline.store.ground_truth import open_ground_truth

    truth = open_ground_truth(ground_truth)
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
            print(
                f"{name:<28} {each.share:>8.1%} {each.covered:>8.1%} {each.ratio:>6.2f}  "
                f"{_interval(*each.interval, 2):<14} {each.n_clips:>9}"
            )
    print()
    of_kind = f" with {config.kind or truth.kinds[0]}" if len(truth.kinds) > 1 else ""
    print(
        f"evaluate: {evaluation.n_clips} clips{of_kind}; values per clip in "
        f"{metrics_url(config.run)}"
    )


def _perturb(config: EvaluateConfig) -> int:
    """Measure what isn't measured yet, and print all; 1 if too many clips failed."""
    from pipeline.evaluation.measured import NO_QUALITY, read_faithfulness
    from pipeline.evaluation.perturbation import FILLS
    from pipeline.logs import set_up_logging
    from pipeline.run.sample import prepare_sample

    set_up_logging("text", logging.WARNING)
    out = faithfulness_url(config.run)
    with owned_run(config, "evaluate") as (_, lease):
        plan = planned(config)
        prepare_sample(plan)
        summary = execute(config, plan, lease)
    if summary.n_pending:
        raise StorageError(f"{summary.n_pending} clips are pending: {summary.broken_by}")
    told = read_faithfulness(config.run, out)
    fills = "".join(f"{fill:>9}" for fill in FILLS)
    heads = f"{'mean':>7}  {'(95 % interval)':<{_INTERVAL_WIDTH}}{fills}"
    print(f"{'less random orders':<22} {heads}")
    for name, each in told.figures.items():
        mark = "  no quality" if name in NO_QUALITY else ""
        print(f"{name:<22} {_told(each)}{mark}")
    if config.by_class:
        print()
        print(f"{'gap patches of class':<22} {heads}  clips")
        for name, each in sorted(told.classes.items(), key=lambda item: item[1].mean):
            print(f"{name:<22} {_told(each)} {each.n_clips:>6}")
    print()
    if told.failed:
        counts = ", ".join(f"{count} {name}" for name, count in told.failed.items())
        print(f"evaluate: {counts}; failures in {failures_url(out)}")
    print(
        f"evaluate: {told.n_clips} clips, {told.n_forward:.0f} forward passes of each; values per "
        f"clip in {metrics_url(out)}"
    )
    limit = plan.config.max_failed_fraction
    if summary.failed_fraction > limit:
        print(
            f"evaluate: error: {summary.failed_fraction:.1%} of the clips failed, more than the "
            f"run's max_failed_fraction={limit:.1%}",
            file=sys.stderr,
        )
        return 1
    return 0


def planned(config: EvaluateConfig) -> "SamplePlan":
    """Plan the sample that is asked for; raises as `plan_sample`."""
    from pipeline.evaluation.stage import MEASURES
    from pipeline.run.sample import plan_sample

    options: dict[str, Any] = {"device": config.device, "n_models": config.n_models}
    options |= {name: url for name in ("manifest", "model") if (url := getattr(config, name))}
    return plan_sample(
        config.run,
        faithfulness_url(config.run),
        MEASURES,
        {"by": "faithfulness", "version": 1, "n_random": config.n_random},
        n_videos=config.clips,
        seed=config.seed,
        options=options,
        overwrite=config.overwrite,
    )


def stages_of(n_random: int) -> "StagesOf":
    """Give what makes the stages of a sample: decode as the run has, and measure."""
    from dataclasses import replace

    from pipeline.evaluation.stage import MeasureFaithfulness
    from pipeline.run.job import real_stages
    from pipeline.run.sample import SamplePlan

    def stages(plan: "Plan", device: str, channel: "Channel") -> "Stages":
        assert isinstance(plan, SamplePlan)
        real = real_stages(plan, device, channel)
        given = real.attribute_arguments
        arguments: dict[str, Any] = {
            name: given[name]
            for name in ("timed", "checkpoint", "device", "precision", "n_threads")
        }
        arguments |= {
            "run_url": plan.run_url,
            "run_rows": plan.run_rows,
            # As many versions as clips have gone through together, so that they fit.
            "batch_size": plan.batch_size_of_run,
            "n_random": n_random,
        }
        return replace(real, attribute=MeasureFaithfulness, attribute_arguments=arguments)

    return stages


def execute(config: EvaluateConfig, plan: "SamplePlan", lease: "Lease | None") -> "RunSummary":
    """Carry the sample out on Ray, or in this process, as `jobs.attribute` does."""
    if config.serial:
        from pipeline.run.serial import check_serial, execute_serially

        check_serial(plan.config)
        return execute_serially(plan, lease, stages_of=stages_of(config.n_random))
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    from pipeline.execution import passes
    from pipeline.execution.cluster import check_target

    check_target(plan.config)
    return passes.execute(plan, lease, stages_of=stages_of(config.n_random))


def _told(each: "Measured") -> str:
    fills = "".join(f"{value:>9.3f}" for value in each.of_fills.values())
    return f"{each.mean:>7.3f}  {_interval(each.low, each.high, 3):<{_INTERVAL_WIDTH}}{fills}"


def _interval(low: float, high: float, places: int) -> str:
    """Print both ends, or that there are too few videos for any."""
    return f"({low:.{places}f} to {high:.{places}f})" if low == low else "(few videos)"


def _mean(score: "Score") -> str:
    if not score.n_clips:
        return "n/a"
    return f"{score.mean:.3f} ({_error(score.standard_error, 3)})"


def _value(lift: "Lift") -> str:
    return f"{lift.value:>6.2f}  ({_error(lift.standard_error, 2)})"


def _error(error: float, places: int) -> str:
    """Print a standard error; of a single video there is none."""
    return f"{error:.{places}f}" if error == error else "n/a"


if __name__ == "__main__":
    sys.exit(
        run_job(
            EvaluateConfig,
            evaluate,
            verb="evaluate",
            keeps=True,
            apart=lambda config: config.faithfulness and not config.serial,
        )
    )
