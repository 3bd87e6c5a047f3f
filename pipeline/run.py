"""A run from its configuration to a complete store: planned without a cluster, carried out on Ray.

Ray Data reads batches of manifest rows, decodes them in CPU tasks, explains them in a pool of
actors that hold the model, cuts the rows into shards in order, and writes each shard once.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError
from transformers.utils import logging as transformers_logging

from pipeline import __version__
from pipeline.attributor import Attributor
from pipeline.cluster import ModelPool, check_resources, connected
from pipeline.config import AttributeConfig
from pipeline.credentials import without_credentials
from pipeline.errors import ConfigError, ManifestError, ModelError, StorageError, StoreError
from pipeline.load import ClipLoader
from pipeline.manifest import Manifest, read_manifest
from pipeline.models.registry import Checkpoint, load_adapter, read_checkpoint
from pipeline.progress import shown_progress
from pipeline.sampling import Sampling
from pipeline.sink import ShardSink
from pipeline.source import ManifestSource
from pipeline.status import Status
from pipeline.store import (
    StoreLayout,
    check_identity,
    check_writable,
    create_store,
    open_store,
    pending_shards,
    store_exists,
    store_url,
)
from pipeline.summary import RunSummary, summarise, write_failures

ATTRIBUTION_VERSION = 1
"""Part of a run's identity: raised when the same input would give other attributions."""

_LOGGER = logging.getLogger(__name__)
_RECORDED_PACKAGES = ("torch", "transformers", "decord2", "ray", "zarr", "numpy")
_N_RANKS = 5
_PROCESS_BYTES = 1_000_000_000
"""Memory of a process that has loaded torch, with room for the frames of a batch."""
_WRITE_CPUS = 0.25
"""A write task mostly waits for the storage."""


@dataclass(frozen=True)
class Plan:
    """A run that can be carried out: everything was checked, and the store is there."""

    config: AttributeConfig
    manifest: Manifest
    checkpoint: Checkpoint
    sampling: Sampling
    class_of_label: dict[str, int]
    layout: StoreLayout
    store_url: str


def plan_run(config: AttributeConfig) -> Plan:
    """Check a configuration against its manifest, model and target; create the store or find it.

    Raises
    ------
    StaaError
        Of the kind that names what is wrong. Nothing was started, and nothing stored is changed.
    """
    check_resources(config)
    manifest = read_manifest(config.manifest)
    for key, url in (("out", config.out), ("manifest", config.manifest), ("clips", manifest.root)):
        if url.startswith("memory://"):
            raise ConfigError(f"{key}: {url} is seen by one process alone, and workers are others")
    if manifest.n_rows == 0:
        raise ManifestError(f"manifest: {config.manifest} has no rows")
    checkpoint = read_checkpoint(config.model, config.revision)
    _check_model(config, checkpoint)
    sampling = _sampling(config, checkpoint)
    class_of_label = resolve_labels(manifest, checkpoint)
    geometry = checkpoint.geometry
    layout = StoreLayout(
        n_rows=manifest.n_rows,
        rows_per_shard=config.rows_per_shard,
        n_frames=geometry.n_frames,
        n_times=geometry.n_times,
        height=geometry.height,
        width=geometry.width,
        n_ranks=min(_N_RANKS, len(checkpoint.class_names)),
    )
    identity = {
        "manifest": manifest.digest,
        "model": checkpoint.weights_digest,
        "sampling": asdict(sampling),
        "preprocessing": asdict(checkpoint.preprocessing),
        "method": config.method.model_dump(),
        "precision": config.precision,
        "rows_per_shard": config.rows_per_shard,
        "attribution_version": ATTRIBUTION_VERSION,
    }
    url = store_url(config.out)
    if store_exists(url):
        group = open_store(url, mode="r+")
        check_identity(group, identity)
        check_writable(group, url)
    else:
        # Those of a store that is there are known by their digest to be whole.
        _check_weights(checkpoint)
        create_store(url, layout, identity, _attributes(config, checkpoint, sampling))
    return Plan(config, manifest, checkpoint, sampling, class_of_label, layout, url)


def execute(plan: Plan) -> RunSummary:
    """Attribute every shard that is pending, and say what became of every row.

    Starts Ray on this machine unless ``RAY_ADDRESS`` names a cluster, as it does in a Ray job.

    Raises
    ------
    StorageError
        If the storage of the run, which was there when it was planned, isn't any more.
    """
    try:
        return _execute(plan)
    except (StoreError, OSError) as error:
        raise StorageError(str(error)) from error


def _execute(plan: Plan) -> RunSummary:
    shards = pending_shards(open_store(plan.store_url))
    seconds = 0.0
    if len(shards):
        started = time.monotonic()
        with connected(plan.config) as pool:
            _attribute_in_passes(plan, shards, pool)
        seconds = time.monotonic() - started
    group: Any = open_store(plan.store_url)
    status = group["status"][:]
    write_failures(plan.config.out, group, status, plan.manifest)
    return summarise(status, seconds=seconds)


def resolve_labels(manifest: Manifest, checkpoint: Checkpoint) -> dict[str, int]:
    """Class index of each label of a manifest.

    A label is a class name of the model, as it stands or with other case and with underscores for
    spaces, or a class index.

    Raises
    ------
    ManifestError
        Names the first label that the model doesn't have, and its row.
    """
    exact = {name: index for index, name in enumerate(checkpoint.class_names)}
    loose = {_loose(name): index for name, index in exact.items()}
    indices = {str(index): index for index in exact.values()}
    resolved = {}
    for label, row in manifest.distinct_labels():
        index = exact.get(label, loose.get(_loose(label), indices.get(label)))
        if index is None:
            raise ManifestError(
                f"manifest: label {label!r} in row {row} of {manifest.url} is not a class of "
                f"{checkpoint.name}, which has {len(exact)} ({', '.join(list(exact)[:3])}, ...)"
            )
        resolved[label] = index
    return resolved


def _attribute_in_passes(plan: Plan, shards: NDArray[np.int64], pool: ModelPool) -> None:
    """Go on where a pass was broken off, by a storage that failed for example, while it helps."""
    while len(shards):
        try:
            return _attribute(plan, shards, pool)
        except RayError as error:
            left = pending_shards(open_store(plan.store_url))
            reason = without_credentials(str(error).strip().splitlines()[-1])
            _LOGGER.warning("%d of %d shards are left: %s", len(left), len(shards), reason)
            if len(left) == len(shards):
                _LOGGER.debug("the pass got nowhere", exc_info=error)
                return
            shards = left


def _attribute(plan: Plan, shards: NDArray[np.int64], pool: ModelPool) -> None:
    config, checkpoint = plan.config, plan.checkpoint
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # It warns that its progress bars are off; ours is shown in their place.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    batches = list(_batches(plan.layout, shards, config.batch_size))
    n_done = plan.layout.n_rows - sum(len(rows) for rows in batches)
    loader = ClipLoader(
        root=plan.manifest.root,
        sampling=plan.sampling,
        preprocessing=checkpoint.preprocessing,
        input_size=checkpoint.geometry.input_size,
        class_of_label=plan.class_of_label,
    )
    attributor = {
        "checkpoint": checkpoint,
        "method": config.method,
        "device": pool.device,
        "precision": config.precision,
        "n_threads": max(1, int(config.cpus_per_model)),
        "n_ranks": plan.layout.n_ranks,
    }
    with shown_progress(plan.layout.n_rows, n_done) as counter:
        (
            ray.data.read_datasource(
                ManifestSource(plan.manifest, batches),
                override_num_blocks=len(batches),
            )
            .map_batches(loader, batch_size=None, num_cpus=1)
            .map_batches(
                Attributor,
                fn_constructor_kwargs=attributor,
                batch_size=config.batch_size,
                compute=ActorPoolStrategy(size=pool.n_models),
                num_cpus=config.cpus_per_model,
                num_gpus=1 if pool.device == "cuda" else 0,
                # Reserved for the weights, as read and as loaded. It also keeps Ray from fusing the
                # loader into the actors, which it does for operators that ask for the same.
                memory=_PROCESS_BYTES + 2 * checkpoint.weights_bytes,
            )
            .repartition(target_num_rows_per_block=config.rows_per_shard, strict=True)
            .write_datasink(
                ShardSink(plan.store_url, counter), ray_remote_args={"num_cpus": _WRITE_CPUS}
            )
        )


def _batches(layout: StoreLayout, shards: NDArray[np.int64], batch_size: int) -> Iterator[range]:
    for shard in shards:
        rows = layout.shard_rows(int(shard))
        for start in range(rows.start, rows.stop, batch_size):
            yield range(start, min(start + batch_size, rows.stop))


def _check_model(config: AttributeConfig, checkpoint: Checkpoint) -> None:
    layer, n_layers = config.method.layer, checkpoint.n_layers
    if not -n_layers <= layer < n_layers:
        raise ConfigError(
            f"method.layer: {layer} is not in {config.model}, which has {n_layers} layers"
            if n_layers > 1
            else f"method.layer: {layer} is not in {config.model}, which is read in one layer alone"
        )
    if config.method.residual and not checkpoint.has_temporal_attention:
        raise ConfigError(
            f"method.residual: {config.model} has no temporal attention of its own to mix it with; "
            "only TimeSformer with divided space-time attention has"
        )
    # A frame of any size shows whether the processor brings all of them to the model's size.
    output_size = checkpoint.preprocessing.output_size(1000, 1500)
    if output_size != checkpoint.geometry.input_size:
        raise ModelError(
            f"model: the processor of {config.model} gives frames of {output_size}, its model "
            f"takes {checkpoint.geometry.input_size}"
        )


def _check_weights(checkpoint: Checkpoint) -> None:
    """Load the model once, and drop it: an actor that can't would end the run with a traceback."""
    # Its bar and its table of what is missing would stand between the user and the one line.
    verbosity, shows_bar = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        load_adapter(checkpoint, device="cpu", dtype=torch.float32)
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shows_bar:
            transformers_logging.enable_progress_bar()


def _sampling(config: AttributeConfig, checkpoint: Checkpoint) -> Sampling:
    if config.sampling.kind == "published":
        return checkpoint.sampling
    return Sampling(
        kind=config.sampling.kind,
        n_samples=checkpoint.geometry.n_frames,
        stride=config.sampling.stride,
        target_fps=config.sampling.target_fps or Sampling.target_fps,
    )


def _attributes(
    config: AttributeConfig, checkpoint: Checkpoint, sampling: Sampling
) -> dict[str, object]:
    """Answer what a reader of the store may ask about how it was made."""
    return {
        "config": config.model_dump(mode="json"),
        "class_names": list(checkpoint.class_names),
        "model": {
            "name": checkpoint.name,
            "revision": checkpoint.revision,
            "weights_digest": checkpoint.weights_digest,
            "family": checkpoint.family,
        },
        "sampling": asdict(sampling),
        "preprocessing": asdict(checkpoint.preprocessing),
        "status_codes": {status.label: int(status) for status in Status},
        "packages": {"staa": __version__} | {name: version(name) for name in _RECORDED_PACKAGES},
    }


def _loose(label: str) -> str:
    return label.replace("_", " ").casefold()
