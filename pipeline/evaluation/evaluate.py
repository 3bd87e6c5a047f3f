"""Evaluates the attributions of a run and stores a value per clip beside it, row for row."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from uuid import uuid4

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
from pipeline.evaluation.localisation import Lift, lift, relevance_mass
from pipeline.evaluation.partial import PartialMetrics
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
from pipeline.store import by_video
from pipeline.store.ground_truth import GroundTruth, Truth, open_ground_truth
from pipeline.store.objects import CHECKED, note_objects
from pipeline.store.opening import Store, open_store
from pipeline.store.pending import read_status
from pipeline.store.rows import read_explained, read_rows
from pipeline.store.run_folder import PARTIAL_METRICS_NAME, in_run, metrics_url, store_url

_SCHEMA = {"name": "staa-metrics", "version": 1}

METHODS = ("attribution", "uniform", "center_gaussian")
"""The run's attribution, and two maps that don't look at the clip."""

N_TRANSPORTED = 1000
"""Clips of which earth mover's distances are computed: a fifth of a second each."""


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


Values = dict[str, NDArray[np.float64]]
"""Columns of a shard's rows, by name."""


@dataclass(frozen=True)
class Localiser:
    """Computes the values of a shard; sent to other processes by the URLs of what it reads."""

    store: Store
    truth: GroundTruth
    kind: str | None
    counted: NDArray[np.bool_]
    """(rows,): those that are measured."""
    sampled: NDArray[np.bool_]
    """(rows,): those of them that get an earth mover's distance."""
    evaluation: str = field(default_factory=lambda: uuid4().hex)
    """Name of this evaluation: another process opens store and truth once in each."""

    def __call__(self, shard: int) -> Values:
        """Values of a shard's rows; NaN where a row doesn't count.

        Raises
        ------
        StoreError
            As `evaluate_run` says.
        """
        return _of_shard(self.store, self.truth, self.kind, shard, self.counted, self.sampled)

    def __reduce__(self) -> tuple[Any, ...]:
        """Send it without what is open."""
        urls = (self.store.url, self.truth.url)
        return _reopened, (*urls, self.kind, self.counted, self.sampled, self.evaluation)

    def n_clips(self, shards: Sequence[int]) -> tuple[int, int]:
        """Count the clips of shards that are measured, and those that get a distance."""
        layout = self.store.layout
        of_rows = [layout.shard_rows(shard) for shard in shards]
        measured, distances = (
            sum(int(which[rows.start : rows.stop].sum()) for rows in of_rows)
            for which in (self.counted, self.sampled)
        )
        return measured, distances


def _reopened(store_url: str, truth_url: str, *rest: Any) -> Localiser:
    return Localiser(*_opened(store_url, truth_url, rest[-1]), *rest)


@lru_cache(maxsize=1)
def _opened(store_url: str, truth_url: str, _evaluation: str) -> tuple[Store, GroundTruth]:
    return open_store(store_url), open_ground_truth(truth_url, count=False)


def in_turn(localise: Localiser, shards: Sequence[int]) -> Generator[tuple[int, Values]]:
    """Compute shards in this process, one after the other."""
    for shard in shards:
        yield shard, localise(shard)


def evaluate_run(
    run_url: str,
    truth: GroundTruth,
    *,
    kind: str | None = None,
    n_transported: int = N_TRANSPORTED,
    chosen: NDArray[np.bool_] | None = None,
    resume: bool = True,
    before_writing: Callable[[], None] = lambda: None,
    compute: Callable[[Localiser, Sequence[int]], Generator[tuple[int, Values]]] = in_turn,
) -> Evaluation:
    """Lift of a run's attributions, of maps to compare them with, and the effect of sharpening.

    Writes into ``metrics.zarr`` in the run's folder, float32, NaN where the clip has no attribution
    or is pending: ``mask_covered`` and ``mask_share_<method>`` (clip); ``variant_mask_share``,
    ``variant_kept`` and ``variant_entropy`` (clip, variant); and the metrics of
    `pipeline.evaluation.scores` (clip, method), NaN also where they are undefined. ``variant`` and
    ``method`` hold names, and the attribute ``steps`` of the first the variants' parameters. The
    group's attributes tell the ground truth's URL and kind.

    The run is read shard by shard, some clips at a time. The values of a shard are kept beside the
    run as soon as they are there, see `PartialMetrics`; a call that was cut off is gone on with.

    Parameters
    ----------
    kind
        Which of the truth's kinds counts; by default the first.
    n_transported
        Clips, evenly over those that have a truth, of which earth mover's distances are computed.
    chosen
        (rows,): the rows that count; by default all.
    resume
        Go on with what an earlier call of the same has left.
    before_writing
        Is called before anything is written, and raises where that isn't to be.
    compute
        Gives shards and their values, in any order: as `in_turn`, or elsewhere.

    Raises
    ------
    StoreError
        If there is no run at the URL, no clip is ok, one has no attribution or no ground truth, the
        ground truth is of other clips or other frames, or the metrics can't be written.
    """
    store = open_store(store_url(run_url))
    layout = store.layout
    truth.check_made_for(store.record.identity)
    is_ok = read_status(store) == Status.OK
    counted = is_ok if chosen is None else is_ok & chosen
    sampled = _evenly(counted & truth.known_rows(layout.n_rows, kind), n_transported)
    about = {
        "ground_truth": truth.url,
        "kind": kind or truth.kinds[0],
        "identity": store.record.identity.model_dump(mode="json"),
    }
    of = {**about, "rows": _digest(counted), "transported": _digest(sampled)}
    url = in_run(run_url, PARTIAL_METRICS_NAME)
    partial = PartialMetrics(url, of, _COLUMNS, layout, before_writing)
    if not resume:
        partial.discard()
    # Views and segments of a video are much alike: errors and intervals are over videos. Both are
    # read before anything is computed, so that damage is told at once.
    videos, labels = by_video.videos_of_rows(store), read_rows(store, "label", slice(None))
    localiser = Localiser(store, truth, kind, counted, sampled)
    with closing(compute(localiser, partial.pending)) as computed:
        for shard, values in computed:
            partial.write(shard, values)
    covered = partial.read("mask_covered")
    evaluated = np.isfinite(covered)
    if not covered[evaluated].any():
        partial.discard()
        if evaluated.any():
            reason = "the model saw no action"
        else:
            reason = "no clip is ok" if not is_ok.any() else "no clip that is ok has ground truth"
        raise StoreError(f"{run_url}: {reason}, so there is nothing to evaluate")
    before_writing()
    try:
        _write_metrics(metrics_url(run_url), partial, about)
    except OSError as error:
        raise StoreError(f"can't write metrics to {metrics_url(run_url)}: {error}") from error
    names = store.record.class_names
    evaluation = _averaged(partial, covered, evaluated, sampled, videos, labels, names)
    partial.discard()
    return evaluation


_COLUMNS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("mask_covered", *(f"mask_share_{method}" for method in METHODS)), ()),
    **{
        name: (len(VARIANTS),) for name in ("variant_mask_share", "variant_kept", "variant_entropy")
    },
    **{name: (len(METHODS),) for name in (*LOCALISATION, *TRANSPORT, *COMPLEXITY)},
}
_CLIPS_AT_ONCE = 256
"""Clips whose maps are in memory together, in some ten versions."""


def _undefined(n_clips: int) -> Values:
    """NaN for each value of some clips, by `_COLUMNS`."""
    return {name: np.full((n_clips, *sizes), np.nan) for name, sizes in _COLUMNS.items()}


def _of_shard(
    store: Store,
    truth: GroundTruth,
    kind: str | None,
    shard: int,
    counted: NDArray[np.bool_],
    sampled: NDArray[np.bool_],
) -> Values:
    """Values of a shard's rows, by `_COLUMNS`; NaN where a row doesn't count."""
    layout = store.layout
    rows = layout.shard_rows(shard)
    columns = _undefined(len(rows))
    if not counted[rows.start : rows.stop].any():
        return columns
    for start in range(rows.start, rows.stop, _CLIPS_AT_ONCE):
        stop = min(start + _CLIPS_AT_ONCE, rows.stop)
        clips = start + np.flatnonzero(counted[start:stop])
        if len(clips):
            values = _of_clips(store, truth, kind, slice(start, stop), clips, sampled[clips])
            for name, of_clips in values.items():
                columns[name][clips - rows.start] = of_clips
    return columns


def _of_clips(
    store: Store,
    truth: GroundTruth,
    kind: str | None,
    part: slice,
    clips: NDArray[np.int64],
    is_sampled: NDArray[np.bool_],
) -> Values:
    """Values of some rows, ``clips``, out of a part of a shard."""
    layout = store.layout
    grid = (layout.n_times, layout.height, layout.width)
    columns = _undefined(len(clips))
    inside = clips - part.start
    video_ids, frame_index = (
        read_rows(store, name, part)[inside] for name in ("video_id", "frame_index")
    )
    seen = truth.of_rows(clips, video_ids, frame_index, store.record.views, grid, kind)
    mask, known = seen.covered, seen.patches_known
    constant = {"uniform": uniform_attribution(*grid), "center_gaussian": center_gaussian(*grid)}
    maps: dict[str, NDArray[np.floating]] = {
        name: np.broadcast_to(value, mask.shape) for name, value in constant.items()
    }
    maps["attribution"] = joint_attribution(*read_explained(store, part, inside))
    columns["mask_covered"][:] = relevance_mass(np.ones_like(mask), mask, known)
    chosen = np.flatnonzero(is_sampled)
    for index, method in enumerate(METHODS):
        columns[f"mask_share_{method}"][:] = relevance_mass(maps[method], mask, known)
        for name, values in localisation(maps[method], seen).items():
            columns[name][:, index] = values
        for name, values in complexities(maps[method]).items():
            columns[name][:, index] = values
        if len(chosen):
            of_chosen = Truth(mask[chosen], seen.known[chosen])
            for name, values in transported(maps[method][chosen], of_chosen).items():
                columns[name][chosen, index] = values
    for variant, steps in enumerate(VARIANTS):
        sharpened = apply_steps(maps["attribution"], steps)
        columns["variant_mask_share"][:, variant] = relevance_mass(sharpened, mask, known)
        columns["variant_kept"][:, variant] = share_kept(sharpened)
        columns["variant_entropy"][:, variant] = normalised_entropy(sharpened)
    return columns


def _averaged(
    partial: PartialMetrics,
    covered: NDArray[np.float64],
    evaluated: NDArray[np.bool_],
    sampled: NDArray[np.bool_],
    videos: NDArray[np.int64],
    labels: NDArray[np.integer],
    names: Sequence[str],
) -> Evaluation:
    """Average columns, one after the other; ``covered`` is the first of them."""
    rows_of = dict.fromkeys(TRANSPORT, evaluated & sampled)
    of_clip = videos[evaluated]
    # One at a time: these are the largest.
    kept, entropy = (
        partial.read(name)[evaluated].mean(axis=0) for name in ("variant_kept", "variant_entropy")
    )
    on_mask = partial.read("variant_mask_share")[evaluated].T
    scores: dict[str, dict[str, Score]] = {}
    for name in (*LOCALISATION, *TRANSPORT, *COMPLEXITY):
        rows, values = rows_of.get(name, evaluated), partial.read(name)
        scores[name] = {
            method: score(values[rows, index], videos[rows]) for index, method in enumerate(METHODS)
        }
    return Evaluation(
        {
            method: lift(
                partial.read(f"mask_share_{method}")[evaluated], covered[evaluated], of_clip
            )
            for method in METHODS
        },
        {
            steps_name(steps): Effect(
                lift(on_mask[variant], covered[evaluated], of_clip),
                float(kept[variant]),
                float(entropy[variant]),
            )
            for variant, steps in enumerate(VARIANTS)
        },
        scores,
        {
            names[label]: share
            for label, share in class_shares(
                partial.read("mask_share_attribution"),
                covered,
                labels,
                videos,
            ).items()
        },
    )


def _digest(rows: NDArray[np.bool_]) -> str:
    return blake2b(np.packbits(rows).tobytes(), digest_size=8).hexdigest()


def _evenly(ok: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Choose ``count`` of the ok rows, evenly over all of them: (rows,) bool."""
    rows = np.flatnonzero(ok)
    chosen: NDArray[np.bool_] = np.zeros(len(ok), np.bool_)
    if count:
        chosen[rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]] = True
    return chosen


def _write_metrics(url: str, partial: PartialMetrics, attributes: Mapping[str, Any]) -> None:
    group = zarr.create_group(zarr_location(url), overwrite=True)
    for name in _COLUMNS:
        values = partial.read(name)
        array: Any = group.create_array(
            name,
            shape=values.shape,
            dtype="float32",
            fill_value=float("nan"),
            compressors=CHECKED,
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
    note_objects(group)
    group.update_attributes({"schema": _SCHEMA, **attributes})


def _second_dimension(name: str) -> tuple[str, ...]:
    return ("variant",) if name.startswith("variant_") else ("method",)
