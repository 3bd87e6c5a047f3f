"""A run as it can be carried out: its configuration, checked against manifest, model and target.

Planning reads and checks, and changes nothing; `pipeline.run.prepare` makes the changes.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version

import numpy as np

from pipeline import __version__
from pipeline.clips.frames_cache import FramesCache
from pipeline.clips.reachable import find_witness
from pipeline.clips.sampling import Sampling
from pipeline.clips.shared_decode import SharedReader
from pipeline.clips.views import Views
from pipeline.dataset.labels import resolve_labels
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.errors import ConfigError, ManifestError, ModelError, StoreError
from pipeline.models.checkpoint import Checkpoint, load_adapter, read_checkpoint
from pipeline.models.device import n_gpus
from pipeline.run.config import AttributeConfig, OneCall
from pipeline.run.resources import (
    Machine,
    Sizes,
    check_models,
    chosen_sizes,
    fit_into_store,
    guessed_rate,
)
from pipeline.store.append import check_appended
from pipeline.store.opening import (
    Absent,
    Foreign,
    Found,
    Store,
    Target,
    Unfinished,
    Unreadable,
    check_same_run,
    find_store,
)
from pipeline.store.pending import pending_rows, read_status
from pipeline.store.record import ModelFacts, ModelIdentity, RunIdentity, RunRecord, status_codes
from pipeline.store.run_folder import store_url
from pipeline.store.schema import StoreLayout
from pipeline.store.space import check_space

ATTRIBUTION_VERSION = 3
"""Part of a run's identity: raised when the same input would give other attributions. With 3 the
default method became evidence; what a method computes that is named in full is as with 2."""

_RECORDED_PACKAGES = ("torch", "transformers", "av", "decord2", "ray", "zarr", "numpy")
_N_RANKS = 5


@dataclass(frozen=True)
class Plan:
    """A run that was checked: what it reads, what its store will say, what this call does to it."""

    config: AttributeConfig
    call: OneCall
    manifest: Manifest
    checkpoint: Checkpoint
    views: Views
    class_of_label: dict[str, int]
    record: RunRecord
    witness: str | None = None
    """Path of a clip that can be read, found before anything was started."""
    cache: FramesCache | None = None
    """Where frames are looked for, and left; see `pipeline.run.frames`."""
    shared: tuple[SharedReader, ...] = ()
    """Runs of the same job for which clips are decoded, too."""
    known_digests: Mapping[int, bytes] = field(default_factory=dict)
    """Digests of files that were read before, by row; see `pipeline.run.reread`."""

    @property
    def layout(self) -> StoreLayout:
        """Sizes of the store."""
        return self.record.layout

    @property
    def sizes(self) -> Sizes:
        """How its rows are cut."""
        return Sizes(self.record.identity.batch_size, self.layout.rows_per_shard, len(self.views))

    @property
    def store_url(self) -> str:
        """Where the store is, or will be."""
        return store_url(self.config.out)

    @property
    def run(self) -> str:
        """Short name of the run, in logs and metrics."""
        return self.record.run_id(self.config.out)


def plan_runs(
    configs: Iterable[AttributeConfig],
    call: OneCall | None = None,
    *,
    machine: Machine | None = None,
) -> tuple[Plan, ...]:
    """Plan several runs as `plan_run` does one: all are checked before anything is changed."""
    return tuple(plan_run(config, call, machine=machine) for config in configs)


def plan_run(
    config: AttributeConfig, call: OneCall | None = None, *, machine: Machine | None = None
) -> Plan:
    """Check a configuration against its manifest, model and target.

    Parameters
    ----------
    call
        What this call does to a run that is there; by default it goes on with it.
    machine
        What the Ray that is to be started has; None where that isn't known before, on a cluster.

    Raises
    ------
    StaaError
        One of its kinds, which names what is wrong.
    """
    call = call or OneCall()
    pool = machine and check_models(config, machine)
    target = find_store(store_url(config.out), mode="r+")
    plan = describe_run(config, call, target=target, machine=machine)
    if machine and pool:
        fit_into_store(
            plan.sizes,
            clip_bytes=plan.checkpoint.geometry.clip_bytes,
            row_bytes=plan.layout.row_bytes,
            cpus=machine.cpus,
            n_models=pool.n_models,
            store_bytes=int(config.local_object_store),
        )
    n_pending = _check_target(plan, target)
    if not call.overwrite:  # Deleting a run makes room, and it isn't known how much.
        check_space(config.out, plan.layout, n_pending)
    return replace(plan, witness=find_witness(plan.manifest) if n_pending else None)


def describe_run(
    config: AttributeConfig,
    call: OneCall | None = None,
    *,
    target: Target | None = None,
    machine: Machine | None = None,
) -> Plan:
    """Read what a configuration names, and say what its run is; nothing is held against it.

    Parameters
    ----------
    target
        What is at the run's store; by default it is looked at.
    call, machine
        As in `plan_run`.

    Raises
    ------
    StaaError
        One of its kinds, which names what is wrong.
    """
    call = call or OneCall()
    manifest = read_manifest(config.manifest)
    for key, url in (("out", config.out), ("manifest", config.manifest), ("clips", manifest.root)):
        if url.startswith("memory://"):
            raise ConfigError(f"{key}: {url} is seen by one process alone, and workers are others")
    if manifest.n_rows == 0:
        raise ManifestError(f"manifest: {config.manifest} has no rows")
    checkpoint = read_checkpoint(config.model, config.revision)
    check_model(config, checkpoint)
    sampling = chosen_sampling(config, checkpoint)
    views = Views.of_config(config.views, sampling, checkpoint.preprocessing)
    class_of_label = resolve_labels(
        manifest, class_names=checkpoint.class_names, model=checkpoint.name
    )
    target = target or find_store(store_url(config.out))
    record = run_record(config, manifest, checkpoint, sampling, views, Sizes(1, 1))
    stored = target.store.record if isinstance(target, Found) and not call.overwrite else None
    sizes = _sizes(config, checkpoint, record, stored, machine)
    record = run_record(config, manifest, checkpoint, sampling, views, sizes)
    if stored is not None:
        # A store keeps the arrays that it was made with, whatever a new one would get.
        layout = replace(stored.layout, n_rows=record.layout.n_rows)
        record = record.model_copy(update={"layout": layout})
    return Plan(config, call, manifest, checkpoint, views, class_of_label, record)


def run_record(
    config: AttributeConfig,
    manifest: Manifest,
    checkpoint: Checkpoint,
    sampling: Sampling,
    views: Views,
    sizes: Sizes,
) -> RunRecord:
    """Say how a run over a manifest is made: what its store will record."""
    geometry, method = checkpoint.geometry, config.method
    n_layers = checkpoint.n_layers_of(method)
    layers = method.chosen_layers(n_layers)
    return RunRecord(
        layout=StoreLayout(
            n_rows=views.n_rows(manifest.n_rows),
            rows_per_shard=sizes.rows_per_shard,
            n_frames=geometry.n_frames,
            n_times=geometry.n_times,
            height=geometry.height,
            width=geometry.width,
            n_ranks=min(_N_RANKS, len(checkpoint.class_names)),
            n_layers=method.n_stored_layers(len(layers)),
            n_heads=checkpoint.n_heads if method.heads == "keep" else 0,
            checksums=True,
            n_channels=checkpoint.n_channels if config.pooled else 0,
            optional=(
                *("frame_time", "clip_digest"),
                *(("pooled",) if config.pooled else ()),
                *method.optional_arrays,
            ),
        ),
        identity=RunIdentity(
            manifest=manifest.digest,
            model=ModelIdentity(weights=checkpoint.weights_digest, config=dict(checkpoint.config)),
            decoder=config.decoder,
            segments=manifest.segments,
            sampling=sampling,
            preprocessing=checkpoint.preprocessing,
            views=config.views,
            method=method.resolved(n_layers, pools_mean=checkpoint.pools_mean),
            precision=config.precision,
            compile_model=config.compile_model,
            # Another device or number of threads may also give other last bits. They are the
            # machine's, and a run may go on elsewhere.
            batch_size=sizes.batch_size,
            rows_per_shard=sizes.rows_per_shard,
            attribution_version=ATTRIBUTION_VERSION,
        ),
        config=config.model_dump(mode="json"),
        class_names=checkpoint.class_names,
        model=ModelFacts(
            name=checkpoint.name,
            revision=checkpoint.revision,
            weights_digest=checkpoint.weights_digest,
            family=checkpoint.family,
        ),
        layers=layers,
        status_codes=status_codes(),
        packages={"staa": __version__} | {name: version(name) for name in _RECORDED_PACKAGES},
    )


def _sizes(
    config: AttributeConfig,
    checkpoint: Checkpoint,
    record: RunRecord,
    stored: RunRecord | None,
    machine: Machine | None,
) -> Sizes:
    """Sizes as the configuration has them, or the run that is there, or as this machine likes.

    Parameters
    ----------
    record
        The run's record, with any sizes.
    stored
        Record of the run that is there.
    machine
        As in `plan_run`.
    """
    if stored is not None:
        given = (config.batch_size, config.rows_per_shard)
        kept = (stored.identity.batch_size, stored.identity.rows_per_shard)
        batch_size, rows_per_shard = (
            size or of_run for size, of_run in zip(given, kept, strict=True)
        )
        return Sizes(batch_size, rows_per_shard, len(stored.views))
    gpus = machine.gpus if machine else n_gpus()
    device = config.device if config.device != "auto" else ("cuda" if gpus else "cpu")
    geometry = checkpoint.geometry
    rate = guessed_rate(
        weights_bytes=checkpoint.weights_bytes,
        n_tokens=geometry.n_times * geometry.height * geometry.width,
        cpus=machine.cpus if machine else (os.cpu_count() or 1),
        gpus=gpus if device == "cuda" else 0,
    )
    return chosen_sizes(
        config,
        n_rows=record.layout.n_rows,
        n_views=len(record.views),
        row_bytes=record.layout.row_bytes,
        device=device,
        clips_per_s=rate,
        store_bytes=int(config.local_object_store) if machine else None,
    )


def _check_target(plan: Plan, target: Target) -> int:
    """Refuse a target that holds another run or something else, or that can't be written.

    Returns
    -------
    Rows that are to be computed, at the most
    """
    config, call = plan.config, plan.call
    match target:
        case Foreign(reason):
            raise StoreError(f"out: {plan.store_url} is {reason}")
        case Unreadable(reason) if not call.overwrite:
            raise StoreError(f"out: {reason}")
        case Found(store) if not call.overwrite:
            _check_store(store, call, plan.manifest, plan.record.identity)
            n_more = plan.layout.n_rows - store.layout.n_rows if call.append else 0
            n_again = int(np.isin(read_status(store), call.statuses_to_retry).sum())
            return pending_rows(store).n_rows + n_more + n_again
        case Absent() | Unfinished() if call.append:
            raise ConfigError(f"append: there is no run in {config.out} to add to")
        case _:
            # A store that is there has the digest of weights that could be loaded.
            _check_weights(plan.checkpoint)
    return plan.layout.n_rows


def _check_store(store: Store, call: OneCall, manifest: Manifest, identity: RunIdentity) -> None:
    if call.append:
        check_appended(store, manifest, identity)
    else:
        check_same_run(store, identity)


def check_model(config: AttributeConfig, checkpoint: Checkpoint) -> None:
    """Refuse a method that the model can't be explained by, or frames of a size it doesn't take."""
    checkpoint.check_method(config.method)
    # A frame of any size shows whether the processor brings all of them to the model's size.
    output_size = checkpoint.preprocessing.output_size(1000, 1500)
    if output_size != checkpoint.geometry.input_size:
        raise ModelError(
            f"model: the processor of {config.model} gives frames of {output_size}, its model "
            f"takes {checkpoint.geometry.input_size}"
        )


def _check_weights(checkpoint: Checkpoint) -> None:
    """Load the model once, and drop it: an actor that can't would end the run with a traceback."""
    load_adapter(checkpoint, device="cpu")


def chosen_sampling(config: AttributeConfig, checkpoint: Checkpoint) -> Sampling:
    """Give the sampling that a configuration names."""
    if config.sampling.kind == "published":
        return replace(checkpoint.sampling, clock=config.sampling.clock)
    return Sampling(
        kind=config.sampling.kind,
        n_samples=checkpoint.geometry.n_frames,
        stride=config.sampling.stride,
        target_fps=config.sampling.target_fps or Sampling.target_fps,
        clock=config.sampling.clock,
    )
