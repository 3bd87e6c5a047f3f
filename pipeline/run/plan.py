"""A run as it can be carried out: its configuration, checked against manifest, model and target.

Everything here goes on without a cluster; what is wrong is said before one is started.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version

from transformers.utils import logging as transformers_logging

from pipeline import __version__
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import inputs_of_views
from pipeline.dataset.labels import resolve_labels
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.errors import ConfigError, ManifestError, ModelError
from pipeline.execution.cluster import check_object_store, check_resources
from pipeline.models.checkpoint import Checkpoint, load_adapter, read_checkpoint
from pipeline.run.config import AttributeConfig
from pipeline.status import Status
from pipeline.store.append import check_appended
from pipeline.store.create import check_writable, open_store, store_exists
from pipeline.store.record import check_identity, run_id
from pipeline.store.run_folder import store_url
from pipeline.store.schema import StoreLayout

ATTRIBUTION_VERSION = 2
"""Part of a run's identity: raised when the same input would give other attributions."""

_RECORDED_PACKAGES = ("torch", "transformers", "av", "decord2", "ray", "zarr", "numpy")
_N_RANKS = 5


@dataclass(frozen=True)
class Plan:
    """A run that can be carried out: everything was checked, and the store is there."""

    config: AttributeConfig
    manifest: Manifest
    checkpoint: Checkpoint
    views: tuple[tuple[Sampling, Preprocessing], ...]
    """How the frames of each view of a video are taken and cropped."""
    class_of_label: dict[str, int]
    layout: StoreLayout
    store_url: str
    run: str
    """Short name of the run, in logs and metrics."""
    retried: Mapping[Status, int] = field(default_factory=dict)
    """Rows that had failed in an earlier run and are pending anew, by their status there."""


def _check_run(config: AttributeConfig) -> tuple[Plan, dict[str, object], dict[str, object]]:
    """Plan of a run, its identity and its store's attributes; nothing is changed yet."""
    check_resources(config)
    manifest = read_manifest(config.manifest)
    for key, url in (("out", config.out), ("manifest", config.manifest), ("clips", manifest.root)):
        if url.startswith("memory://"):
            raise ConfigError(f"{key}: {url} is seen by one process alone, and workers are others")
    if manifest.n_rows == 0:
        raise ManifestError(f"manifest: {config.manifest} has no rows")
    checkpoint = read_checkpoint(config.model, config.revision)
    layers = _check_model(config, checkpoint)
    sampling = _sampling(config, checkpoint)
    views = inputs_of_views(config.views, sampling, checkpoint.preprocessing)
    class_of_label = resolve_labels(manifest, checkpoint)
    geometry = checkpoint.geometry
    layout = StoreLayout(
        n_rows=manifest.n_rows * len(views),
        rows_per_shard=config.rows_per_shard,
        n_frames=geometry.n_frames,
        n_times=geometry.n_times,
        height=geometry.height,
        width=geometry.width,
        n_ranks=min(_N_RANKS, len(checkpoint.class_names)),
        n_layers=len(layers) if config.method.name == "staa" else 1,
        n_heads=checkpoint.n_heads if config.method.heads == "keep" else 0,
        n_views=len(views),
        has_frame_time=True,
    )
    check_object_store(config, clip_bytes=geometry.clip_bytes, row_bytes=layout.row_bytes)
    identity = {
        "manifest": manifest.digest,
        # The same weights compute something else with other heads, and mean other classes.
        "model": {"weights": checkpoint.weights_digest, "config": dict(checkpoint.config)},
        "decoder": config.decoder,
        "segments": manifest.segments,
        "sampling": asdict(sampling),
        "preprocessing": asdict(checkpoint.preprocessing),
        "views": config.views.model_dump(),
        "method": config.method.model_dump() | {"layers": layers},
        "precision": config.precision,
        "compile_model": config.compile_model,
        # Batches of another size give other last bits. So may another device or number of threads:
        # they are the machine's, and a run may go on elsewhere.
        "batch_size": config.batch_size,
        "rows_per_shard": config.rows_per_shard,
        "attribution_version": ATTRIBUTION_VERSION,
    }
    url, run = store_url(config.out), run_id(config.out, identity)
    if store_exists(url) and not config.overwrite:
        group = open_store(url, mode="r+")
        if config.append:
            check_appended(group, manifest, identity)
        else:
            check_identity(group, identity)
        check_writable(group, url)
    elif config.append:
        raise ConfigError(f"append: there is no run in {config.out} to add to")
    else:
        # Those of a store that is there are known by their digest to be whole.
        _check_weights(checkpoint)
    plan = Plan(config, manifest, checkpoint, views, class_of_label, layout, url, run)
    return plan, identity, _attributes(config, checkpoint, sampling, layers)


def _check_model(config: AttributeConfig, checkpoint: Checkpoint) -> tuple[int, ...]:
    """Refuse a method that the model can't be explained by; gives the layers that are read."""
    layers = config.method.chosen_layers(checkpoint.n_layers)
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
    return layers


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
        load_adapter(checkpoint, device="cpu")
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shows_bar:
            transformers_logging.enable_progress_bar()


def _sampling(config: AttributeConfig, checkpoint: Checkpoint) -> Sampling:
    if config.sampling.kind == "published":
        return replace(checkpoint.sampling, clock=config.sampling.clock)
    return Sampling(
        kind=config.sampling.kind,
        n_samples=checkpoint.geometry.n_frames,
        stride=config.sampling.stride,
        target_fps=config.sampling.target_fps or Sampling.target_fps,
        clock=config.sampling.clock,
    )


def _attributes(
    config: AttributeConfig, checkpoint: Checkpoint, sampling: Sampling, layers: tuple[int, ...]
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
        "layers": list(layers),
        "decoder": config.decoder,
        "sampling": asdict(sampling),
        "preprocessing": asdict(checkpoint.preprocessing),
        "views": config.views.model_dump(),
        "status_codes": {status.label: int(status) for status in Status},
        "packages": {"staa": __version__} | {name: version(name) for name in _RECORDED_PACKAGES},
    }
