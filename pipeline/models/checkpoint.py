"""A checkpoint: its config, processor and weights, read from one commit and checked."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig
from transformers.utils import CONFIG_NAME, logging
from transformers.utils.hub import cached_file, extract_commit_hash

from pipeline.attribution.method import FOR_TARGETS, Method
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.dataset.labels import class_index
from pipeline.errors import ConfigError, ModelError, StaaError
from pipeline.models.adapter import Adapter
from pipeline.models.checkpoint_files import (
    check_classes,
    check_sizes,
    check_tokens,
    read_json,
    told,
)
from pipeline.models.geometry import Geometry
from pipeline.models.registry import FAMILIES, _family
from pipeline.models.weight_files import digest_of_files, weight_files

_OF_TRAINING = (
    *("dropout", "drop_path", "initializer"),
    # These belong to the decoder of VideoMAE's pretraining, and to V-JEPA 2's predictor.
    *("decoder_", "norm_pix_loss", "pred_"),
)
"""Config keys whose names contain one of these mean nothing to a trained classifier."""


@dataclass(frozen=True)
class Checkpoint:
    """What a run must know about a checkpoint before any weights are loaded."""

    name: str
    """Hub id or folder."""
    revision: str | None
    """Commit of a hub checkpoint; None for a folder."""
    weights_digest: str
    """SHA-256 over the safetensors files."""
    config: Mapping[str, Any]
    """The config's values, by key, that decide what the weights compute and what the classes
    mean."""
    weights_bytes: int
    family: str
    class_names: tuple[str, ...]
    n_layers: int
    """Layers that `Method.layers` chooses from."""
    n_heads: int
    """Heads of each of these layers."""
    n_channels: int
    """Channels of the vector that the classifier reads."""
    has_temporal_attention: bool
    """Whether attention over time is a step of its own."""
    pools_mean: bool
    """Whether the classifier reads the mean of the final tokens instead of a readout token."""
    geometry: Geometry
    sampling: Sampling
    """How the family's published checkpoints are tested."""
    preprocessing: Preprocessing

    def n_layers_of(self, method: Method) -> int:
        """Count the layers that `Method.layers` chooses from; the mean of final tokens is one."""
        return 1 if method.name == "evidence" and self.pools_mean else self.n_layers

    def check_method(self, method: Method) -> None:
        """Refuse a method that can't explain the model.

        Raises
        ------
        ConfigError
            Names the option, and why it means nothing to this model.
        """
        has_steps = self.has_temporal_attention
        for key, asked in (("residual", method.residual), ("name", method.name == "space")):
            if asked and not has_steps:
                raise ConfigError(
                    f"method.{key}: {self.name} has no temporal attention of its own to mix or to "
                    "leave out; only TimeSformer with divided space-time attention has"
                )
        if method.step_back and not self.pools_mean:
            raise ConfigError(
                f"method.step_back: {self.name} is read by a token of its own; only a model that "
                "is read by the mean of its final tokens is followed back"
            )
        if method.name == "evidence" and self.pools_mean and method.heads == "keep":
            raise ConfigError(
                f"method.heads: {self.name} is read by the mean of its final tokens, which has no "
                "heads; expected mean"
            )
        if method.target == "top2" and len(self.class_names) < 2:
            raise ConfigError(f"method.target: {self.name} has no second best class")
        self.class_of(method)
        method.chosen_layers(self.n_layers_of(method))

    def class_of(self, method: Method) -> int | None:
        """Index of the class that a method names; None if each clip has a class of its own.

        Raises
        ------
        ConfigError
            If the model has no such class.
        """
        if method.target in FOR_TARGETS:
            return None
        index = class_index(self.class_names)(method.target)
        if index is None:
            raise ConfigError(
                f"method.target: {method.target!r} is not a class of {self.name}, which has "
                f"{len(self.class_names)} ({', '.join(self.class_names[:3])}, ...); expected one "
                f"of these, or {', '.join(FOR_TARGETS)}"
            )
        return index


def read_checkpoint(name: str, revision: str | None = None) -> Checkpoint:
    """Read a checkpoint's config, processor and weight hash, all from one commit.

    Raises
    ------
    ModelError
        If there is no such checkpoint, it isn't a video classifier of a known family, or it has no
        safetensors weights.
    """
    # Whoever only loads a model does without transformers' processors.
    from pipeline.models.processor import processor_parameters

    content: dict[str, Any] = {}
    with _quiet(), _refused(name, content):
        # A branch may move on between two files: every file is read at the first one's commit.
        path = cached_file(name, CONFIG_NAME, revision=revision)
        commit = extract_commit_hash(path, None)
        revision = commit or revision
        if path is None:
            raise ModelError(f"model: {name!r} can't be loaded: there is no {CONFIG_NAME} in it")
        content |= read_json(Path(path), name)
        check_classes(content, name)
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
        processor = processor_parameters(name, revision)
        adapter = _family(name, config)
        check_sizes(config, name)
        geometry = adapter.geometry(config)
        check_tokens(geometry.n_times * geometry.height * geometry.width, config, name)
        weights = weight_files(name, revision)
        return _facts(name, commit, config, processor, weights, adapter, geometry)


def _facts(
    name: str,
    commit: str | None,
    config: PretrainedConfig,
    processor: Mapping[str, Any],
    weights: list[Path],
    adapter: type[Adapter],
    geometry: Geometry,
) -> Checkpoint:
    return Checkpoint(
        name=name,
        revision=commit,
        weights_digest=digest_of_files(weights),
        config=_deciding(config),
        weights_bytes=sum(file.stat().st_size for file in weights),
        family=config.model_type,
        class_names=_class_names(name, config),
        n_layers=adapter.n_layers(config),
        n_heads=adapter.n_heads(config),
        n_channels=adapter.n_channels(config),
        has_temporal_attention=adapter.has_temporal_attention(config),
        pools_mean=adapter.pools_mean(config),
        geometry=geometry,
        sampling=adapter.published_sampling(config),
        preprocessing=Preprocessing.from_processor_dict(processor),
    )


def load_adapter(checkpoint: Checkpoint, *, device: str) -> Adapter:
    """Load a checkpoint's weights, from safetensors only, in float32 and evaluation mode.

    Raises
    ------
    ModelError
        If the weights can't be read, don't have the config's shapes, or lack some that the model
        needs. transformers would fill those in at random: the classifier of a backbone, for
        example.
    """
    adapter, name = FAMILIES[checkpoint.family], checkpoint.name
    with _quiet(), _refused(name):
        _check_weights_fit(checkpoint)
        model, report = adapter.model_class.from_pretrained(
            name,
            revision=checkpoint.revision,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    made_up = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if made_up:
        raise ModelError(
            f"model: {checkpoint.name!r} has no weights, or weights of another shape, for "
            f"{made_up[0]} and {len(made_up) - 1} more: "
            f"expected a whole {adapter.model_class.__name__}"
        )
    return adapter(model.to(device).eval())


def _check_weights_fit(checkpoint: Checkpoint) -> None:
    """Refuse a config whose model is far larger than the weights, before building any of it."""
    name, adapter = checkpoint.name, FAMILIES[checkpoint.family]
    config = AutoConfig.from_pretrained(name, revision=checkpoint.revision, trust_remote_code=False)
    with torch.device("meta"):
        model = adapter.model_class(config)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    # A weight takes at least a byte. If only a few are absent, `load_adapter` names them.
    if n_parameters > 2 * checkpoint.weights_bytes + 1_000_000:
        raise ModelError(
            f"model: config.json of {name!r} asks for a model of {n_parameters:,} parameters, and "
            f"its weights are {checkpoint.weights_bytes:,} bytes: expected those of one model"
        )


@contextmanager
def _refused(name: str, content: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Turn whatever a library raises into a line that says why the checkpoint can't be loaded.

    ``content`` is the config; it is filled in once it has been read.
    """
    try:
        yield
    except StaaError:
        raise
    # Files can be damaged in any way, and libraries may raise anything when they meet it.
    except Exception as error:
        raise ModelError(
            f"model: {name!r} can't be loaded: {_reason(name, error, content)}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' progress bars and warnings, so that the user sees our line alone."""
    verbosity, shows_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_bar:
            logging.enable_progress_bar()


def _deciding(config: PretrainedConfig) -> dict[str, Any]:
    """Keep the parts of a config that decide results; class names, which may be many, as a digest.

    Values equal to the class's defaults are left out, as a later transformers may have more keys.
    """
    # Keys of every config: the version and dtype it was saved with, its path, what it returns.
    common = PretrainedConfig().to_dict().keys() - {"model_type"}
    defaults = {**type(config)().to_dict(), "model_type": None}
    deciding = {
        key: value
        for key, value in config.to_dict().items()
        if key not in common
        and value != defaults.get(key)
        and not any(part in key for part in _OF_TRAINING)
    }
    names = json.dumps([config.id2label[index] for index in sorted(config.id2label)])
    return deciding | {"id2label": hashlib.sha256(names.encode()).hexdigest()}


def _class_names(name: str, config: PretrainedConfig) -> tuple[str, ...]:
    """Names of the classes, in the order of the logits."""
    n_classes = len(config.id2label)
    for index in range(n_classes):
        if index not in config.id2label:
            raise ModelError(
                f"model: the config of {name!r} names {n_classes} classes in id2label, but none of "
                f"them is {index}: expected 0 to {n_classes - 1}"
            )
    return tuple(config.id2label[index] for index in range(n_classes))


def _reason(name: str, error: Exception, content: Mapping[str, Any] | None) -> str:
    if not Path(name).exists() and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        return "there is no such folder, and no hub id has this form"
    return told(error, content)
