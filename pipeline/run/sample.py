"""A sample of a finished run's clips, planned to go through the model again.

It is a run of its own in a folder below the run's, with a manifest of the chosen clips, a store of
what is measured of each, and failures. So it is carried out, resumed and committed as any run is.
The clips are decoded as the run has decoded them, and seen by the same model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.reachable import find_witness
from pipeline.dataset.labels import resolve_labels
from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.errors import ConfigError, RunMismatchError, StoreError, reason_of
from pipeline.models.checkpoint import read_checkpoint
from pipeline.run.config import AttributeConfig, OneCall
from pipeline.run.frames import reading_frames
from pipeline.run.plan import Plan
from pipeline.status import Status
from pipeline.storage.files import delete_tree, open_filesystem
from pipeline.store.create import create_store
from pipeline.store.opening import (
    Absent,
    Found,
    Store,
    Unfinished,
    check_same_run,
    find_store,
    open_store,
)
from pipeline.store.pending import read_status
from pipeline.store.record import told_differences
from pipeline.store.rows import read_rows
from pipeline.store.run_folder import (
    FAILURES_NAME,
    FAITHFULNESS_MANIFEST,
    METRICS_NAME,
    PACE_NAME,
    in_run,
    metrics_url,
    store_url,
)
from pipeline.store.schema import Measure

_BATCH, _ROWS_PER_SHARD = 2, 16
"""Clips that go to a model at a time, and those that are committed together: each takes hundreds of
forward passes."""


@dataclass(frozen=True)
class SamplePlan(Plan):
    """A sample of a run's videos, checked."""

    run_url: str = ""
    """Folder of the run that the sample is drawn from."""
    batch_size_of_run: int = 1
    """Clips that went through the model together."""
    videos: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), compare=False)
    """(videos,): rows of the run's manifest, ascending."""

    @property
    def store_url(self) -> str:
        """Where what is measured is kept."""
        return metrics_url(self.config.out)

    @property
    def run_rows(self) -> NDArray[np.int64]:
        """(rows,): the run's row of each row of the sample."""
        n_views = len(self.views)
        return (self.videos[:, None] * n_views + np.arange(n_views)).reshape(-1)


def stratified(labels: NDArray[np.integer], n_videos: int, seed: int) -> NDArray[np.int64]:
    """Choose videos so that each class has as many, as far as it has them: positions, ascending.

    Parameters
    ----------
    labels
        (videos,): classes; negative ones are a class of their own.
    n_videos
        How many to choose; 0 for all.
    """
    if not 0 < n_videos < len(labels):
        return np.arange(len(labels))
    rng = np.random.default_rng([seed, 801])
    order = rng.permutation(len(labels))
    # A video's place among those of its class, and then at random among those of that place.
    by_class = order[np.argsort(labels[order], kind="stable")]
    _, starts = np.unique(labels[by_class], return_index=True)
    place = np.arange(len(labels)) - np.repeat(starts, np.diff([*starts, len(labels)]))
    rank = np.lexsort((rng.random(len(labels)), place))
    return np.sort(by_class[rank[:n_videos]]).astype(np.int64)


def stratified_rows(
    store: Store, usable: NDArray[np.bool_], n_videos: int, seed: int
) -> NDArray[np.bool_]:
    """Choose the rows of as many videos of each class, out of those with a usable row that is ok.

    Parameters
    ----------
    usable
        (rows,)

    Returns
    -------
    (rows,): every view of a video that is chosen
    """
    n_views = len(store.record.views)
    ok = usable & (read_status(store) == Status.OK)
    videos = np.flatnonzero(ok.reshape(-1, n_views).any(axis=1))
    labels = read_rows(store, "label", slice(None))[::n_views]
    chosen = np.zeros(len(labels), np.bool_)
    chosen[videos[stratified(labels[videos], n_videos, seed)]] = True
    return np.repeat(chosen, n_views)


def plan_sample(
    run_url: str,
    out: str,
    measures: tuple[Measure, ...],
    measured: Mapping[str, Any],
    *,
    n_videos: int,
    seed: int,
    options: Mapping[str, Any],
    overwrite: bool = False,
    rows_per_shard: int = _ROWS_PER_SHARD,
) -> SamplePlan:
    """Choose videos of a run whose every view is ok, write their manifest, and plan.

    Parameters
    ----------
    out
        Folder of the sample.
    measured
        How the clips are measured; part of the sample's identity.
    options
        Keys of the run's configuration that have other values now, as ``device`` or ``manifest``.
    overwrite
        Delete what is kept of a sample there, once run, manifest, model and clips were checked.
    rows_per_shard
        Clips that are committed together.

    Raises
    ------
    StoreError
        If the run has rows that are pending, or none that is ok.
    RunMismatchError
        If manifest or model aren't the run's any more, or another sample is in the folder.
    """
    store = open_store(store_url(run_url))
    record, status = store.record, read_status(store)
    record.check_has_model(run_url)
    n_pending = int((status == Status.PENDING).sum())
    if n_pending:
        raise StoreError(
            f"run: {run_url} has {n_pending} rows that are pending; expected a finished run, which "
            "jobs.attribute makes of it"
        )
    given = {**record.config, **options, "out": out}
    config = AttributeConfig.model_validate(
        {**given, "batch_size": _BATCH, "rows_per_shard": rows_per_shard}
    )
    whole = read_manifest(config.manifest)
    checkpoint = read_checkpoint(config.model, config.revision)
    for what, there, here in (
        ("manifest", record.identity.manifest, whole.digest),
        ("model", record.identity.model.weights, checkpoint.weights_digest),
    ):
        if there != here:
            raise RunMismatchError(
                f"{what}: {getattr(config, what)} is another one than the run's: its digest is "
                f"{here[:12]}, expected {there[:12]}"
            )
    n_views = len(record.views)
    is_ok = (status == Status.OK).reshape(-1, n_views).all(axis=1)
    ok = np.flatnonzero(is_ok)
    if not len(ok):
        raise StoreError(f"run: {run_url} has no clip that is ok, so there is nothing to measure")
    labels = read_rows(store, "label", slice(None))[::n_views]
    videos = ok[stratified(labels[ok], n_videos, seed)]
    url = in_run(out, FAITHFULNESS_MANIFEST)
    table = whole.take(videos).replace_schema_metadata(
        {
            "staa.manifest_version": "1",
            "staa.root": whole.root,
            "staa.layout": whole.layout,
            **({"staa.segments": "true"} if whole.segments else {}),
        }
    )
    if overwrite:
        if find_witness(whole, videos) is None:
            raise StoreError(
                f"overwrite: none of the {len(videos)} clips of {out} is there any more, so they "
                "couldn't be measured again; what was measured is kept"
            )
        _discard_sample(out)
    filesystem, path = open_filesystem(url)
    if not filesystem.exists(path):
        try:
            write_manifest(table, url)
        except OSError as error:
            raise StoreError(f"can't write {url}: {reason_of(error)}") from error
    manifest = read_manifest(url)
    if manifest.n_rows != len(videos) or manifest.rows(0, manifest.n_rows) != table:
        raise RunMismatchError(
            f"{url} lists {manifest.n_rows} clips of another sample than the {len(videos)} that "
            "are asked for: give the same number and seed, or --overwrite"
        )
    identity = record.identity.model_copy(
        update={
            "manifest": manifest.digest,
            "batch_size": _BATCH,
            "rows_per_shard": rows_per_shard,
            "measured": {**measured, "run": record.identity.manifest, "seed": seed},
        }
    )
    layout = replace(
        record.layout,
        n_rows=record.views.n_rows(manifest.n_rows),
        rows_per_shard=rows_per_shard,
        checksums=True,
        measures=measures,
    )
    plan = SamplePlan(
        config=config.model_copy(update={"manifest": url}),
        call=OneCall(),
        manifest=manifest,
        checkpoint=checkpoint,
        views=record.views,
        class_of_label=resolve_labels(
            manifest, class_names=checkpoint.class_names, model=checkpoint.name
        ),
        record=record.model_copy(update={"layout": layout, "identity": identity}),
        witness=find_witness(manifest),
        run_url=run_url,
        batch_size_of_run=record.identity.batch_size,
        videos=videos,
    )
    return reading_frames(plan, whole, plan.run_rows)


def prepare_sample(plan: SamplePlan) -> None:
    """Create the store of what is measured, or go on with the one that is there.

    Raises
    ------
    RunMismatchError
        Names what the one that is there has measured in another way.
    StoreError
        If something else is there, or the storage refuses.
    """
    target = find_store(plan.store_url, mode="r+")
    if isinstance(target, Found):
        _check_same_sample(target.store, plan)
    elif isinstance(target, Absent | Unfinished):
        create_store(plan.store_url, plan.record)
    else:
        raise StoreError(f"{plan.store_url} is {target.reason}")


def _check_same_sample(store: Store, plan: SamplePlan) -> None:
    """Refuse to go on with a sample that was measured in another way, or of another run.

    Raises
    ------
    RunMismatchError
        Names each difference.
    """
    differences = store.record.identity.differences(plan.record.identity)
    if differences and all(key.startswith("measured.") for key, *_ in differences):
        raise RunMismatchError(
            f"{store.url} holds what another sample has told: {told_differences(differences)}. Ask "
            "for the same, or start over with --overwrite"
        )
    check_same_run(store, plan.record.identity)


def _discard_sample(out: str) -> None:
    """Delete what is kept of a sample, if anything.

    Raises
    ------
    ConfigError
        If the storage refuses.
    StorageError
        If it stays away.
    """
    try:
        for name in (METRICS_NAME, FAITHFULNESS_MANIFEST, FAILURES_NAME, PACE_NAME):
            delete_tree(in_run(out, name))
    except (OSError, ValueError) as error:
        raise ConfigError(f"overwrite: can't delete {out}: {reason_of(error)}") from error
