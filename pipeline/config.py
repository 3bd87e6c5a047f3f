"""The configuration of a run: one frozen, validated object, recorded in the store it made."""

from typing import Literal, Self

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

from pipeline.credentials import holds_credentials

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16", "float16"]


class FrozenConfig(BaseModel):
    """Base of every configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="after")
    def _texts_can_be_recorded(self) -> Self:
        for name, value in self:
            if value == "":
                raise ValueError(f"{name}: is empty")
            # What is in a configuration is recorded in the store, and shown in reports.
            if isinstance(value, str) and holds_credentials(value):
                raise ValueError(
                    f"{name}: the URL holds credentials or a signature, which belong into the "
                    "environment or fsspec's configuration"
                )
        return self


class SamplingConfig(FrozenConfig):
    """Which frames of a clip the model sees; how many, the model says."""

    kind: Literal["published", "uniform", "strided"] = "published"
    """As the checkpoint's family is tested, evenly, or in a centred window of strides."""
    stride: int | None = Field(default=None, ge=1)
    """Frames from one sample to the next at `target_fps`; for `strided` only."""
    target_fps: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Rate that the stride is counted at, by default 30; a clip of another rate keeps the same time
    between two samples; for `strided` only."""

    @model_validator(mode="after")
    def _stride_goes_with_strided(self) -> "SamplingConfig":
        if (self.kind == "strided") != (self.stride is not None):
            raise ValueError(
                f"stride={self.stride} with kind={self.kind!r}: a stride goes with "
                "'strided', and only with it"
            )
        if self.kind != "strided" and self.target_fps is not None:
            raise ValueError(
                f"target_fps={self.target_fps} with kind={self.kind!r}: a rate goes with 'strided'"
            )
        return self


class Method(FrozenConfig):
    """How attention becomes an attribution."""

    name: Literal["staa"] = "staa"
    """The attribution method."""
    layer: int = -1
    """Block whose attention is read, from the last if negative; an attentive pooler is one."""
    residual: bool = False
    """Count the skip connection around divided temporal attention, as (B + I) / 2."""


class AttributeConfig(FrozenConfig):
    """Attribute every clip of a manifest with a video classifier and store the result."""

    manifest: str
    """Parquet manifest, any fsspec URL; `python -m jobs.manifest` writes one."""
    model: str
    """Checkpoint of a video classifier: a hub id or a local folder."""
    out: str
    """Folder of the run, any fsspec URL; an unfinished run in it is resumed."""
    revision: str | None = None
    """Branch, tag or commit of a hub checkpoint."""
    sampling: SamplingConfig = SamplingConfig()
    """Which frames of a clip the model sees."""
    method: Method = Method()
    """How attention becomes an attribution."""
    precision: Precision = "float32"
    """Precision of the forward pass; captured attention is float32 always."""
    device: Device = "auto"
    """Where the model runs; `auto` takes GPUs if the cluster has any."""
    n_models: int | None = Field(default=None, ge=1)
    """Copies of the model that run at once; by default one per GPU, or on half of the CPUs."""
    cpus_per_model: float = Field(default=1, gt=0, allow_inf_nan=False)
    """CPUs, and torch threads, of each copy of the model."""
    batch_size: int = Field(default=8, ge=1, le=4096)
    """Clips in one forward pass; with another size, last bits of the results may be others."""
    rows_per_shard: int = Field(default=256, ge=1, le=65_536)
    """Clips in one shard: the unit of writing and of resuming; a multiple of `batch_size`."""
    max_failed_fraction: float = Field(default=0.1, ge=0, le=1)
    """Share of failed clips above which the job ends with exit code 1."""
    local_cpus: int | None = Field(default=None, ge=2, le=1024)
    """CPUs of the Ray that is started where no cluster is given: by default all, 2 or more."""
    local_object_store: ByteSize = Field(default=ByteSize(1_000_000_000), ge=80_000_000)
    """Object store of the Ray that is started where no cluster is given, for example 2GB."""

    @model_validator(mode="after")
    def _batches_fill_shards(self) -> "AttributeConfig":
        if self.rows_per_shard % self.batch_size:
            raise ValueError(
                f"rows_per_shard={self.rows_per_shard} is not a multiple of "
                f"batch_size={self.batch_size}: a batch must not span two shards"
            )
        return self
