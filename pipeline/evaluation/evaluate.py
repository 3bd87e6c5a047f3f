"""Evaluates the attributions of a run and stores a value per clip beside it, row for row."""

from collections.abc import Callable, Mapping
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
from pipeline.evaluation import by_video
from pipeline.evaluation.localisation import Lift, lift, relevance_mass
from pipeline.evaluation.scores import (
    COMPLEXITY,
    LOCALISATION,
    TRANSPORT,
    ClassShare,
    Score,
    class_shares,
    complexities,
    localisation,
    score,
    transported,
)
from pipeline.status import Status
from pipeline.storage.zarr_store import zarr_location
from pipeline.store.ground_truth import GroundTruth, Truth
from pipeline.store.opening import open_store
from pipeline.store.run_folder import metrics_url, store_url

_SCHEMA = {"name": "staa-metrics", "version": 1}

METHODS = ("attribution", "uniform", "center_gaussian")
"""The run's attribution, and two maps that don't look at the clip."""

N_TRANSPORTED = 1000
"""Clips of which the earth mover's distance in space is computed: some milliseconds each."""


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
    scores: dict[str, dict[str, Score]]
    """By metric, then by the names in `METHODS`."""
    classes: dict[str, ClassShare]
    """Share of the attribution on the mask by labelled class; of persons, the human share."""

    @property
    def n_clips(self) -> int:
        """Clips that were evaluated: those that are ok."""
        return self.methods["attribution"].n_clips


def evaluate_run(
    run_url: str,
    truth: GroundTruth,
    *,
    kind: str | None = None,
    n_transported: int = N_TRANSPORTED,
    before_writing: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Lift of a run's attributions, of maps to compare them with, and the effect of sharpening.

    Writes into ``metrics.zarr`` in the run's folder, float32, NaN where the clip has no attribution
    or is pending: ``mask_covered`` and ``mask_share_<method>`` (clip); ``variant_mask_share``,
    ``variant_kept`` and ``variant_entropy`` (clip, variant); and the metrics of
    `pipeline.evaluation.scores` (clip, method), NaN also where they are undefined. ``variant`` and
    ``method`` hold names, and the attribute ``steps`` of the first the variants' parameters. The
    group's attributes tell the ground truth's URL and kind.

    Parameters
    ----------
    kind
        Which of the truth's kinds counts; by default the first.
    n_transported
        Clips, evenly over those that have a truth, of which the earth mover's distance in space is
        computed.
    before_writing
        Is called before anything is written, and raises where that isn't to be.

    Raises
    ------
    StoreError
        If there is no run at the URL, no clip is ok, one has no attribution or no ground truth, the
        ground truth is of other clips or other frames, or the metrics can't be written.
    """
    store = open_store(store_url(run_url))
    layout, views = store.layout, store.record.views
    truth.check_made_for(store.record.identity)
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
    columns |= {
        name: np.full((layout.n_rows, len(METHODS)), np.nan)
        for name in (*LOCALISATION, *TRANSPORT, *COMPLEXITY)
    }
    is_ok = np.asarray(store.array("status")[:]) == Status.OK
    sampled = _evenly(is_ok & truth.known_rows(layout.n_rows, kind), n_transported)
    for shard in range(layout.n_shards):
        rows = layout.shard_rows(shard)
        part = slice(rows.start, rows.stop)
        ok = np.flatnonzero(store.array("status")[part] == Status.OK)
        if not len(ok):
            continue
        video_ids, frame_index = (
            store.array(name)[part][ok] for name in ("video_id", "frame_index")
        )
        clips = rows.start + ok
        seen = truth.of_rows(clips, video_ids, frame_index, views, grid, kind)
        mask, known = seen.covered, seen.patches_known
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
        columns["mask_covered"][clips] = relevance_mass(np.ones_like(mask), mask, known)
        chosen = np.flatnonzero(sampled[clips])
        for index, method in enumerate(METHODS):
            columns[f"mask_share_{method}"][clips] = relevance_mass(maps[method], mask, known)
            for name, values in localisation(maps[method], seen).items():
                columns[name][clips, index] = values
            for name, values in complexities(maps[method]).items():
                columns[name][clips, index] = values
            if len(chosen):
                of_chosen = Truth(mask[chosen], seen.known[chosen])
                for name, values in transported(maps[method][chosen], of_chosen).items():
                    columns[name][clips[chosen], index] = values
        for variant, steps in enumerate(VARIANTS):
            sharpened = apply_steps(maps["attribution"], steps)
            columns["variant_mask_share"][clips, variant] = relevance_mass(sharpened, mask, known)
            columns["variant_kept"][clips, variant] = share_kept(sharpened)
            columns["variant_entropy"][clips, variant] = normalised_entropy(sharpened)
    evaluated = np.isfinite(columns["mask_covered"])
    if not evaluated.any():
        reason = "no clip is ok" if not is_ok.any() else "no clip that is ok has ground truth"
        raise StoreError(f"{run_url}: {reason}, so there is nothing to evaluate")
    covered = columns["mask_covered"][evaluated]
    if not covered.any():
        raise StoreError(f"{run_url}: the model saw no action, so there is nothing to evaluate")
    before_writing()
    try:
        _write_metrics(
            metrics_url(run_url),
            columns,
            {
                "ground_truth": truth.url,
                "kind": kind or truth.kinds[0],
                "identity": store.record.identity.model_dump(mode="json"),
            },
        )
    except OSError as error:
        raise StoreError(f"can't write metrics to {metrics_url(run_url)}: {error}") from error

    rows_of = dict.fromkeys(TRANSPORT, evaluated & sampled)
    # Views and segments of a video are much alike: errors and intervals are over videos.
    videos = by_video.videos_of_rows(store)
    of_clip = videos[evaluated]
    names = store.record.class_names
    on_mask, kept, entropy = (
        columns[name][evaluated].T
        for name in ("variant_mask_share", "variant_kept", "variant_entropy")
    )
    return Evaluation(
        {
            method: lift(columns[f"mask_share_{method}"][evaluated], covered, of_clip)
            for method in METHODS
        },
        {
            steps_name(steps): Effect(
                lift(on_mask[variant], covered, of_clip),
                float(kept[variant].mean()),
                float(entropy[variant].mean()),
            )
            for variant, steps in enumerate(VARIANTS)
        },
        {
            name: {
                method: score(columns[name][rows, index], videos[rows])
                for index, method in enumerate(METHODS)
            }
            for name in (*LOCALISATION, *TRANSPORT, *COMPLEXITY)
            for rows in [rows_of.get(name, evaluated)]
        },
        {
            names[label]: share
            for label, share in class_shares(
                columns["mask_share_attribution"],
                columns["mask_covered"],
                np.asarray(store.array("label")[:]),
                videos,
            ).items()
        },
    )


def _evenly(ok: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Choose ``count`` of the ok rows, evenly over all of them: (rows,) bool."""
    rows = np.flatnonzero(ok)
    chosen: NDArray[np.bool_] = np.zeros(len(ok), np.bool_)
    if count:
        chosen[rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]] = True
    return chosen


def _write_metrics(
    url: str, columns: dict[str, NDArray[np.float64]], attributes: Mapping[str, Any]
) -> None:
    group = zarr.create_group(zarr_location(url), overwrite=True)
    for name, values in columns.items():
        array: Any = group.create_array(
            name,
            shape=values.shape,
            dtype="float32",
            fill_value=float("nan"),
            dimension_names=("clip", *_second_dimension(name))[: values.ndim],
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
    method: Any = group.create_array(
        "method", shape=(len(METHODS),), dtype="str", dimension_names=("method",)
    )
    method[:] = np.array(METHODS, object)
    group.update_attributes({"schema": _SCHEMA, **attributes})


def _second_dimension(name: str) -> tuple[str, ...]:
    return ("variant",) if name.startswith("variant_") else ("method",)
