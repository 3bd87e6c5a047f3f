"""Evaluates the attributions of a run and stores a value per clip beside it, row for row."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.attribution.baselines import center_gaussian, uniform_attribution
from pipeline.attribution.focus import (
    Focus,
    Step,
    Threshold,
    apply_steps,
    joint_attribution,
    steps_name,
)
from pipeline.attribution.measures import normalised_entropy, share_kept
from pipeline.errors import StoreError
from pipeline.evaluation.localisation import Lift, lift, share_covered, share_on_mask
from pipeline.status import Status
from pipeline.storage.zarr_store import zarr_location
from pipeline.store.ground_truth import GroundTruth
from pipeline.store.opening import open_store
from pipeline.store.run_folder import metrics_url, store_url

_SCHEMA = {"name": "staa-metrics", "version": 1}

METHODS = ("attribution", "uniform", "center_gaussian")
"""The run's attribution, and two maps that don't look at the clip."""


_THRESHOLDS = (
    Threshold(percentile=50),
    Threshold(percentile=90),
    Threshold(kind="sigma", n_sigma=1),
    Threshold(kind="otsu"),
)

VARIANTS: tuple[tuple[Step, ...], ...] = (
    (),
    *((threshold,) for threshold in _THRESHOLDS),
    *((replace(threshold, per_frame=True),) for threshold in _THRESHOLDS),
    (Focus(temperature=0.5),),
    (Focus(smoothing=1),),
    (Focus(smoothing=1, temperature=0.5),),
    (Threshold(kind="otsu"), Focus(temperature=0.5)),
)
"""What the run's attribution is sharpened by, to see the effect; the first leaves it as it is."""


@dataclass(frozen=True)
class Effect:
    """What a variant makes of the run's attribution, over the clips of a dataset."""

    lift: Lift
    kept: float
    """Mean share of the clip's patches whose value isn't 0."""
    entropy: float
    """Mean of `pipeline.attribution.measures.normalised_entropy`."""


@dataclass(frozen=True)
class Evaluation:
    """A run's attributions against ground truth."""

    methods: dict[str, Lift]
    """By the names in `METHODS`."""
    variants: dict[str, Effect]
    """By `pipeline.attribution.focus.steps_name` of `VARIANTS`."""

    @property
    def n_clips(self) -> int:
        """Clips that were evaluated: those that are ok."""
        return self.methods["attribution"].n_clips


def evaluate_run(run_url: str, truth: GroundTruth) -> Evaluation:
    """Lift of a run's attributions, of maps to compare them with, and the effect of sharpening.

    Writes into ``metrics.zarr`` in the run's folder, float32, NaN where the clip has no attribution
    or is pending: ``mask_covered`` and ``mask_share_<method>`` (clip), and ``variant_mask_share``,
    ``variant_kept`` and ``variant_entropy`` (clip, variant). ``variant`` holds the variants' names,
    and its attribute ``steps`` their parameters.

    Raises
    ------
    StoreError
        If there is no run at the URL, no clip is ok, one has no attribution or no ground truth, the
        ground truth is of other clips, or the metrics can't be written.
    """
    store = open_store(store_url(run_url))
    layout, views = store.layout, store.record.views
    grid = (layout.n_times, layout.height, layout.width)
    constant = {"uniform": uniform_attribution(*grid), "center_gaussian": center_gaussian(*grid)}
    columns = {
        name: np.full(layout.n_rows, np.nan)
        for name in ("mask_covered", *(f"mask_share_{method}" for method in METHODS))
    }
    columns |= {
        name: np.full((layout.n_rows, len(VARIANTS)), np.nan)
        for name in ("variant_mask_share", "variant_kept", "variant_entropy")
    }
    for shard in range(layout.n_shards):
        rows = layout.shard_rows(shard)
        part = slice(rows.start, rows.stop)
        ok = np.flatnonzero(store.array("status")[part] == Status.OK)
        if not len(ok):
            continue
        video_ids, frame_index = (
            store.array(name)[part][ok] for name in ("video_id", "frame_index")
        )
        mask = np.stack(
            [
                truth.patches(str(video_id), frames, views.of(int(row)).preprocessing, grid)
                for row, video_id, frames in zip(
                    rows.start + ok, video_ids, frame_index, strict=True
                )
            ]
        )
        maps: dict[str, NDArray[np.floating]] = {
            name: np.broadcast_to(value, mask.shape) for name, value in constant.items()
        }
        maps["attribution"] = joint_attribution(
            *(store.array(name)[part][ok] for name in ("spatial", "temporal"))
        )
        if np.isnan(maps["attribution"]).any():
            raise StoreError(
                f"{run_url}: ok clips in rows {rows.start} to {rows.stop - 1} have no attribution: "
                "the store has lost objects"
            )
        clips = rows.start + ok
        columns["mask_covered"][clips] = share_covered(mask)
        for method in METHODS:
            columns[f"mask_share_{method}"][clips] = share_on_mask(maps[method], mask)
        for variant, steps in enumerate(VARIANTS):
            sharpened = apply_steps(maps["attribution"], steps)
            columns["variant_mask_share"][clips, variant] = share_on_mask(sharpened, mask)
            columns["variant_kept"][clips, variant] = share_kept(sharpened)
            columns["variant_entropy"][clips, variant] = normalised_entropy(sharpened)
    evaluated = np.isfinite(columns["mask_covered"])
    if not evaluated.any():
        raise StoreError(f"{run_url}: no clip is ok, so there is nothing to evaluate")
    covered = columns["mask_covered"][evaluated]
    if not covered.any():
        raise StoreError(f"{run_url}: the model saw no action, so there is nothing to evaluate")
    try:
        _write_metrics(metrics_url(run_url), columns, store.record.identity.model_dump(mode="json"))
    except OSError as error:
        raise StoreError(f"can't write metrics to {metrics_url(run_url)}: {error}") from error
    on_mask, kept, entropy = (
        columns[name][evaluated].T
        for name in ("variant_mask_share", "variant_kept", "variant_entropy")
    )
    return Evaluation(
        {method: lift(columns[f"mask_share_{method}"][evaluated], covered) for method in METHODS},
        {
            steps_name(steps): Effect(
                lift(on_mask[variant], covered),
                float(kept[variant].mean()),
                float(entropy[variant].mean()),
            )
            for variant, steps in enumerate(VARIANTS)
        },
    )


def _write_metrics(url: str, columns: dict[str, NDArray[np.float64]], identity: Any) -> None:
    group = zarr.create_group(zarr_location(url), overwrite=True)
    for name, values in columns.items():
        array: Any = group.create_array(
            name,
            shape=values.shape,
            dtype="float32",
            fill_value=float("nan"),
            dimension_names=("clip", "variant")[: values.ndim],
        )
        array[:] = values
    names = [steps_name(steps) for steps in VARIANTS]
    variant: Any = group.create_array(
        "variant",
        shape=(len(names),),
        dtype="str",
        dimension_names=("variant",),
        attributes={"steps": [[step.parameters for step in steps] for steps in VARIANTS]},
    )
    variant[:] = np.array(names, object)
    group.update_attributes({"schema": _SCHEMA, "identity": identity})
