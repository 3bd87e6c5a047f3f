"""Measure a run's attributions, against ground truth and by perturbing clips: ``--help``."""

import logging
import sys
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from jobs.cli import RunWriter, flags_carried_out, listen_on_loopback, owned_run, run_job
from pipeline.errors import StorageError
from pipeline.run.config import Device
from pipeline.store.run_folder import failures_url, faithfulness_url, metrics_url

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.evaluation.evaluate import Localiser, Values
    from pipeline.evaluation.localisation import Lift
    from pipeline.evaluation.scores import Score
    from pipeline.run.job import StagesOf
    from pipeline.run.plan import Plan
    from pipeline.run.sample import SamplePlan
    from pipeline.run.steps import Stages
    from pipeline.run.tally import Channel
    from pipeline.store.ground_truth import GroundTruth
    from pipeline.store.lease import Lease
    from pipeline.store.measured import Group
    from pipeline.store.state import RunSummary


_N_ASKED = 200
"""Videos that are asked about, by default."""
_ROW_S, _TRANSPORT_S = 0.0035, 0.2
"""CPU seconds, about, to hold ground truth against a row, and for its earth mover's distances."""
_WORTH_RAY_S = 60.0
"""Work from which on it is done on Ray: before that, this process is done about as soon."""


class EvaluateConfig(RunWriter):
    """Measure a run's attributions against ground truth, by perturbing its clips, or both.

    With ground truth: the share of attribution that falls on the mask, and its lift, for the run's
    attribution and for maps to compare it with; then after dynamic threshold and attention
    focusing; then where the order of patches and the mass lie, and how concentrated the map is.

    With faithfulness, time and sanity: a sample of the clips is decoded once and goes through the
    model again. For faithfulness, parts are removed and alone kept in the order of the attribution,
    and of random ones. For time, the run's profiles are held against the frames' Shapley values.
    For sanity, maps are computed of another class, of models of noise, and under small noise. What
    was measured is kept in the run's folder, shard by shard; the same command goes on where it was.

    Metrics that rank a corrupted truth above the truth are marked `!`.
    """

    ground_truth: str | None = None
    """The `ground_truth.zarr` of a synthetic dataset, or of `jobs.ground_truth`."""
    kind: str | None = None
    """Which kind of it counts, as person or hand; by default the first."""
    by_class: bool = False
    """Also print each class's share on the mask, the lowest first: with masks of persons, the human
    share; and of each group that is asked for, each class's first figure, the worst first."""
    emd_clips: int = Field(default=1000, ge=0)
    """Clips, evenly over those that have a truth, of which earth mover's distances are computed: a
    fifth of a second each."""
    faithfulness: bool = False
    """Ask the model about perturbed clips."""
    time: bool = False
    """Ask whether T of the map, and the run's frame importance, order frames as their Shapley
    values do: exact up to 8 time steps, 2 x 256 forward passes a clip; sampled beyond."""
    sanity: bool = False
    """Ask whether the map changes with the class and the model, and holds still under noise: up to
    9 forward passes a clip."""
    clips: int | None = Field(default=None, ge=0)
    """Videos that are measured, of each class as many; 0 for all. By default all that have a ground
    truth, and 200 that the model is asked about."""
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
    """Do all in this process, without Ray. Ground truth is held against clips here anyway where it
    takes less than a minute, which 300 earth mover's distances or 17,000 clips do."""
    local_cpus: int | None = Field(default=None, ge=2)
    """CPUs of the Ray that is started on this machine; by default all."""
    overwrite: bool = False
    """Delete what an earlier sample, or a call that was cut off, has left; for one call."""

    @model_validator(mode="after")
    def _something_is_asked_for(self) -> Self:
        if self.ground_truth is None and not self.groups:
            raise ValueError("ground_truth: is required, or --faithfulness, --time or --sanity")
        return self

    @property
    def groups(self) -> "tuple[Group, ...]":
        """Groups of figures that are asked for."""
        given: dict[Group, bool] = {
            "faithfulness": self.faithfulness,
            "time": self.time,
            "sanity": self.sanity,
        }
        return tuple(group for group, is_asked in given.items() if is_asked)


def evaluate(config: EvaluateConfig, *, worth_ray_s: float = _WORTH_RAY_S) -> int:
    """Print what is asked for, and store the values per clip.

    Parameters
    ----------
    worth_ray_s
        CPU seconds of work against ground truth from which on it is done on Ray.
    """
    code = 0
    if config.ground_truth is not None:
        _localise(config, config.ground_truth, worth_ray_s)
    if config.groups:
        code = _ask(config)
    return code


def _localise(config: EvaluateConfig, ground_truth: str, worth_ray_s: float) -> None:
    """Print the lift of each method, the effect of sharpening, and the scores."""
    from jobs.sample_text import interval
    from pipeline.evaluation.evaluate import METHODS, evaluate_run
    from pipeline.logs import set_up_logging
    from pipeline.store.ground_truth import open_ground_truth
    from pipeline.store.measured import marked

    set_up_logging("text", logging.WARNING)
    truth = open_ground_truth(ground_truth)
    with owned_run(config, "evaluate") as (_, lease):
        evaluation = evaluate_run(
            config.run,
            truth,
            kind=config.kind,
            n_transported=config.emd_clips,
            chosen=_chosen_rows(config, truth),
            resume=not config.overwrite,
            before_writing=lease.check,
            compute=partial(_computed, config, worth_ray_s),
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
            f"{marked(metric, metric.replace('_', ' ')):<22}"
            + "".join(f"{_mean(of_methods[name]):>16}" for name in METHODS)
            + (f" {undefined:>4} n/a" if undefined else "")
        )
    if config.by_class:
        print()
        print(f"{'class':<28} {'on mask':>8} {'covered':>8} {'ratio':>6}  (95 % interval)   clips")
        for name, each in sorted(evaluation.classes.items(), key=lambda item: item[1].ratio):
            print(
                f"{name:<28} {each.share:>8.1%} {each.covered:>8.1%} {each.ratio:>6.2f}  "
                f"{interval(*each.interval, 2):<14} {each.n_clips:>9}"
            )
        if not evaluation.classes:
            print("no clip with something marked has a label")
    print()
    of_kind = f" with {config.kind or truth.kinds[0]}" if len(truth.kinds) > 1 else ""
    print(
        f"evaluate: {evaluation.n_clips} clips{of_kind}; values per clip in "
        f"{metrics_url(config.run)}"
    )


def _computed(
    config: EvaluateConfig, worth_ray_s: float, localiser: "Localiser", shards: Sequence[int]
) -> "Generator[tuple[int, Values]]":
    """Compute shards here, or on Ray where that is worth its start; shows how far it is."""
    from pipeline.evaluation.evaluate import in_turn
    from pipeline.run.progress_bar import counted_bar

    measured, distances = localiser.n_clips(shards)
    is_long = _ROW_S * measured + _TRANSPORT_S * distances > worth_ray_s
    here = config.serial or not is_long or len(shards) < 2
    each = in_turn if here else partial(_on_ray, config)
    with (
        # What `--overwrite` deletes is gone.
        flags_carried_out(config),
        # Closed whatever comes, as Ray goes on for as long as the generator lives.
        closing(each(localiser, shards)) as done,
        counted_bar(unit="shard", desc="evaluate") as show,
    ):
        if is_long:
            show(0, len(shards))
        for n_done, shard_and_values in enumerate(done, start=1):
            if is_long:
                show(n_done, len(shards))
            yield shard_and_values


def _on_ray(
    config: EvaluateConfig, localiser: "Localiser", shards: Sequence[int]
) -> "Generator[tuple[int, Values]]":
    """Compute shards on Ray, or in turn where other nodes don't read what it reads."""
    listen_on_loopback()
    from pipeline.evaluation.evaluate import in_turn
    from pipeline.execution.cluster import ray_there, read_everywhere
    from pipeline.execution.shards import each_on_ray
    from pipeline.run.prepare import absolute_url

    # Processes elsewhere have other working folders.
    store = replace(localiser.store, url=absolute_url(localiser.store.url))
    truth = replace(localiser.truth, url=absolute_url(localiser.truth.url))
    with ray_there(config.local_cpus):
        if read_everywhere([f"{url.rstrip('/')}/zarr.json" for url in (store.url, truth.url)]):
            yield from each_on_ray(replace(localiser, store=store, truth=truth), shards)
            return
    print(
        f"evaluate: computing in this process, as {store.url} or {truth.url} isn't on a disk that "
        "all nodes share",
        file=sys.stderr,
    )
    yield from in_turn(localiser, shards)


def _chosen_rows(config: EvaluateConfig, truth: "GroundTruth") -> "NDArray[np.bool_] | None":
    """Choose rows of as many videos of each class, of those that have a truth."""
    if not config.clips:
        return None
    from pipeline.run.sample import stratified_rows
    from pipeline.store.opening import open_store
    from pipeline.store.run_folder import store_url

    store = open_store(store_url(config.run))
    has_truth = truth.known_rows(store.layout.n_rows, config.kind)
    return stratified_rows(store, has_truth, config.clips, config.seed)


def _ask(config: EvaluateConfig) -> int:
    """Measure what isn't measured yet, and print all; 1 if too many clips failed."""
    from jobs.sample_text import print_sample
    from pipeline.logs import set_up_logging
    from pipeline.run.sample import prepare_sample
    from pipeline.store.measured import read_sample

    set_up_logging("text", logging.WARNING)
    out = faithfulness_url(config.run)
    with owned_run(config, "evaluate") as (_, lease):
        plan = planned(config)
        prepare_sample(plan)
        with flags_carried_out(config):
            summary = execute(config, plan, lease)
    if summary.n_pending:
        raise StorageError(f"{summary.n_pending} clips are pending: {summary.broken_by}")
    told = read_sample(config.run, out)
    print_sample(config.run, told, by_class=config.by_class)
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
    from pipeline.evaluation.measures import SHAPLEY_FILL, measures_of
    from pipeline.run.sample import plan_sample
    from pipeline.store.opening import open_store
    from pipeline.store.run_folder import store_url

    options: dict[str, Any] = {"device": config.device, "n_models": config.n_models}
    if config.local_cpus:
        options["local_cpus"] = config.local_cpus
    options |= {name: url for name in ("manifest", "model") if (url := getattr(config, name))}
    groups = config.groups
    measured: dict[str, Any] = {"by": ",".join(groups), "version": 1}
    if "faithfulness" in groups:
        # 2: each clip has random orders of its own.
        measured |= {"version": 2, "n_random": config.n_random}
    if "time" in groups:
        measured["shapley_fill"] = SHAPLEY_FILL
    return plan_sample(
        config.run,
        faithfulness_url(config.run),
        measures_of(groups, open_store(store_url(config.run)).layout),
        measured,
        n_videos=_N_ASKED if config.clips is None else config.clips,
        seed=config.seed,
        options=options,
        overwrite=config.overwrite,
    )


def stages_of(config: EvaluateConfig) -> "StagesOf":
    """Give what makes the stages of a sample: decode as the run has, and measure."""
    from pipeline.evaluation.stage import MeasureClips
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
            # With the numbers of its layers, as the run has resolved them.
            "method": plan.record.identity.method,
            "groups": config.groups,
            # As many versions as clips have gone through together, so that they fit.
            "batch_size": plan.batch_size_of_run,
            "n_random": config.n_random,
        }
        # A model of noise beside the true one.
        noise = plan.checkpoint.weights_bytes if config.sanity else 0
        return replace(
            real,
            attribute=MeasureClips,
            attribute_arguments=arguments,
            attribute_bytes=real.attribute_bytes + noise,
        )

    return stages


def execute(config: EvaluateConfig, plan: "SamplePlan", lease: "Lease | None") -> "RunSummary":
    """Carry the sample out on Ray, or in this process, as `jobs.attribute` does."""
    if config.serial:
        from pipeline.run.serial import check_serial, execute_serially

        check_serial(plan.config)
        return execute_serially(plan, lease, stages_of=stages_of(config))
    listen_on_loopback()
    from pipeline.execution import passes
    from pipeline.execution.cluster import check_target

    check_target(plan.config)
    return passes.execute(plan, lease, stages_of=stages_of(config))


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
            apart=lambda config: not config.serial,
        )
    )
