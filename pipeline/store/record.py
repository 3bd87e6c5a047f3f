"""What a store says of its making: one frozen, versioned record, written and read here alone."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.attribution.method import Method, Precision
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.recording import DecoderName
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import Views, ViewsConfig
from pipeline.errors import ConfigError, StoreError
from pipeline.status import Status
from pipeline.store.conventions import NAME as DECLARATION
from pipeline.store.conventions import VERSION as CONVENTION_VERSION
from pipeline.store.conventions import Attributions
from pipeline.store.schema import StoreLayout

SCHEMA_NAME = "staa"
"""Marks a group as a store of this product."""
SCHEMA_VERSION = 2
"""Version of the record and of the arrays' meaning. This release reads each up to this one."""

SCHEMA: dict[str, Any] = {"name": SCHEMA_NAME, "version": SCHEMA_VERSION}
"""Attribute of the group by which a store is known."""

_DECLARED = ("schema", "zarr_conventions", DECLARATION)
"""Attributes beside the record: what the store is, for this product and for others."""


class _Recorded(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelIdentity(_Recorded):
    """What decides the numbers that a model computes."""

    weights: str
    """SHA-256 over the safetensors files."""
    config: dict[str, Any]
    """What of its config decides what the weights compute and what the classes mean."""


class RunIdentity(_Recorded):
    """Everything that a stored number depends on, except the machine."""

    manifest: str
    """Digest of the manifest's rows."""
    model: ModelIdentity
    decoder: DecoderName = "decord"
    """What decoded the clips; decord, in runs from before there was a choice."""
    segments: bool = False
    """Whether rows are the parts of their files that the manifest tells."""
    sampling: Sampling
    preprocessing: Preprocessing
    views: ViewsConfig
    method: Method
    """With the numbers of its layers; see `Method.resolved`."""
    precision: Precision
    compile_model: bool
    batch_size: int
    """Batches of another size give other last bits."""
    rows_per_shard: int
    attribution_version: int
    """Raised when the same input would give other attributions."""
    measured: dict[str, Any] | None = None
    """How the attributions were measured, in a store of that."""

    def differences(self, other: "RunIdentity") -> list[tuple[str, Any, Any]]:
        """Key, value here and value there of everything that differs, by key."""
        here, there = (
            _flatten(self.model_dump(mode="json")),
            _flatten(other.model_dump(mode="json")),
        )
        return [
            (key, here.get(key), there.get(key))
            for key in sorted(here.keys() | there.keys())
            if here.get(key) != there.get(key)
        ]

    @classmethod
    def from_recorded(cls, recorded: Mapping[str, Any]) -> "RunIdentity":
        """Read an identity that this or an earlier release has recorded.

        Raises
        ------
        ValidationError
            If it isn't one, or a later release's.
        """
        return cls.model_validate(_spelled_out(recorded))


class ModelFacts(_Recorded):
    """Where a model came from."""

    name: str
    """Hub id or folder."""
    revision: str | None
    """Commit of a hub checkpoint; None for a folder."""
    weights_digest: str
    family: str


class RunRecord(_Recorded):
    """Answers what a reader of a store may ask about how it was made."""

    layout: StoreLayout
    identity: RunIdentity
    config: dict[str, Any]
    """The configuration as it was given, for provenance."""
    class_names: tuple[str, ...]
    model: ModelFacts
    layers: tuple[int, ...]
    """Numbers of the layers that were read, from 0."""
    status_codes: dict[str, int]
    packages: dict[str, str]
    """Versions of the packages that decide results, by name."""
    taken_in: Attributions | None = None
    """What another tool's store says of its attributions, in a run that was made of it: sampling,
    preprocessing, method and precision of the identity mean nothing then."""

    @property
    def views(self) -> Views:
        """How the frames of each view of a video are taken and cropped."""
        identity = self.identity
        return Views.of_config(identity.views, identity.sampling, identity.preprocessing)

    @property
    def method_name(self) -> str:
        """Name of the attribution method, also of another tool's."""
        return self.taken_in.method if self.taken_in else self.identity.method.name

    @property
    def class_specific(self) -> bool:
        """Whether an attribution says what speaks for a class, or only where the model looks."""
        if self.taken_in:
            return self.taken_in.class_specific
        return self.identity.method.explains_class

    def check_has_model(self, run_url: str) -> None:
        """Refuse a run that was made of another tool's attributions, where a model is asked.

        Raises
        ------
        StoreError
            Says so.
        """
        if self.taken_in is not None:
            raise StoreError(
                f"run: {run_url} was made of another tool's attributions "
                f"({self.method_name}): it has no model and no manifest"
            )

    def run_id(self, run_url: str) -> str:
        """Short name of the run for logs and metrics: its folder's name and a digest."""
        # Without defaults, so that an option that a later release adds leaves the name as it is.
        identity = self.identity.model_dump(mode="json", exclude_defaults=True)
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return f"{run_url.rstrip('/').rpartition('/')[2] or 'run'}-{digest[:8]}"

    def to_attributes(self) -> dict[str, Any]:
        """Attributes of the store's group, all of them."""
        declared = {} if self.layout.measures else self.declaration.to_attributes()
        return {"schema": dict(SCHEMA), **declared, **self.model_dump(mode="json")}

    @property
    def declaration(self) -> Attributions:
        """What a store of the run's attributions declares to other tools."""
        return Attributions(
            version=CONVENTION_VERSION,
            method=self.method_name,
            class_specific=self.class_specific,
            class_names=self.class_names,
        )

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any], where: str) -> "RunRecord":
        """Read the record from the attributes of a store, or of a dataset that was opened from it.

        Parameters
        ----------
        where
            What the attributes belong to, for messages.

        Raises
        ------
        StoreError
            On one line: a key is missing, unknown or of another type, or the schema is of a later
            release.
        """
        schema = attributes.get("schema")
        if not isinstance(schema, Mapping) or schema.get("name") != SCHEMA_NAME:
            raise StoreError(
                f"{where}: its attributes hold no record of a run: expected a schema named "
                f"{SCHEMA_NAME!r}, got {schema!r}"
            )
        version = schema.get("version")
        if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
            raise StoreError(
                f"{where}: its schema is version {version!r}; this release reads versions 1 to "
                f"{SCHEMA_VERSION}"
            )
        values = {key: value for key, value in attributes.items() if key not in _DECLARED}
        try:
            values = _from_version_1(values) if version == 1 else values
            return cls.model_validate(_with_method_of_then(values))
        except ValidationError as error:
            raise StoreError(f"{where}: its record {_first_problem(error)}") from error
        except (ConfigError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{where}: its record can't be used: {error}") from error


def told_differences(differences: Iterable[tuple[str, Any, Any]]) -> str:
    """Tell what `RunIdentity.differences` gives, on one line."""
    return "; ".join(
        f"{key} is {there!r} there and {here!r} here" for key, there, here in differences
    )


def status_codes() -> dict[str, int]:
    """Codes of ``status`` by name, as the record has them."""
    return {status.label: int(status) for status in Status}


def _from_version_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """Bring a record of schema 1 to today's keys.

    It had sampling, preprocessing and views twice, the number of views among the sizes, and the
    numbers of the layers in the place of the method's option also for rollout, which has no such
    option.
    """
    repeated = ("sampling", "preprocessing", "views")
    current = {key: value for key, value in values.items() if key not in repeated}
    if isinstance(current.get("layout"), Mapping):
        current["layout"] = {k: v for k, v in current["layout"].items() if k != "n_views"}
    identity = current.get("identity")
    if isinstance(identity, Mapping) and isinstance(identity.get("method"), Mapping):
        method = dict(identity["method"])
        if method.get("name") == "rollout":
            method["layers"] = "last"
        current["identity"] = {**identity, "method": method}
    return current


_LAST_OTHER_DEFAULT = 2
"""Version of the attributions until which defaults of the method were others. By the same options,
version 3 computes what it did."""


def _with_method_of_then(values: Mapping[str, Any]) -> dict[str, Any]:
    """Name in full the method of a run from when defaults were others, wherever it stands."""
    identity, config = values.get("identity"), values.get("config")
    if not isinstance(identity, Mapping) or not _had_other_defaults(identity):
        return dict(values)
    current = {**values, "identity": _spelled_out(identity)}
    if isinstance(config, Mapping) and isinstance(config.get("method"), Mapping):
        current["config"] = {**config, "method": Method.as_recorded(config["method"])}
    return current


def _spelled_out(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the method and version of an identity to today's."""
    current = dict(identity)
    if _had_other_defaults(identity):
        if isinstance(method := identity.get("method"), Mapping):
            current["method"] = Method.as_recorded(method)
        if identity["attribution_version"] == _LAST_OTHER_DEFAULT:
            current["attribution_version"] = _LAST_OTHER_DEFAULT + 1
    return current


def _had_other_defaults(identity: Mapping[str, Any]) -> bool:
    version = identity.get("attribution_version")
    return isinstance(version, int) and version <= _LAST_OTHER_DEFAULT


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"lacks the key {key!r}"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"has the unknown key {key!r}; was it written by a later release?"
    return f"has {key}={first['input']!r:.60}: {first['msg']}"


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat
