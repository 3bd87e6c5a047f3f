"""The configuration of a run: one frozen, validated object, recorded in the store it made."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ByteSize,
    Field,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode

from pipeline.attribution.method import Method, Precision
from pipeline.base_config import FrozenConfig, Seconds
from pipeline.clips.recording import DecoderName
from pipeline.clips.sampling import SamplingClock
from pipeline.clips.views import ViewsConfig
from pipeline.logs import LogFormat
from pipeline.status import Status
from pipeline.store.run_folder import RUN_NAMES

Device = Literal["auto", "cpu", "cuda"]


FAILURES = tuple(status.label for status in Status if status.failed)
"""Names of the ways to fail."""


def _split(value: Any) -> Any:
    """Names from ``timeout,crashed``, as a flag and a file may have them."""
    return value.split(",") if isinstance(value, str) else value


class SamplingConfig(FrozenConfig):
    """Which frames of a clip the model sees; how many, the model says."""

    kind: Literal["published", "uniform", "strided"] = "published"
    """As the checkpoint's family is tested, evenly, or in a centred window of strides."""
    stride: int | None = Field(default=None, ge=1)
    """Frames from one sample to the next at `target_fps`; for `strided` only."""
    target_fps: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Rate that the stride is counted at, by default 30; a clip of another rate keeps the same time
    between two samples; for `strided` only."""
    clock: SamplingClock = "time"
    """What samples are even in where a clip's frame rate varies: `time`, or `frame` for its frames.
    Where the rate is constant, both are the same."""

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


class OneCall(FrozenConfig):
    """What one call does to a run that is there; no part of what is recorded.

    Flags, never keys of a file: given again, they undo what the call before has computed, and a
    cluster reads a file again each time that it restarts its job.
    """

    overwrite: bool = False
    """Delete the run in that folder, its statistics, report and metrics, and start over; for one
    call, so a flag alone, which no file may have."""
    append: bool = False
    """Take in rows that were added to the end of the manifest since the run was made; what it has
    stored stays. For one call."""
    retry_failed: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    """Compute failed clips again: `all`, or the names of their statuses, as `timeout,crashed`; for
    one call, so a flag alone, which no file may have."""

    @field_validator("retry_failed")
    @classmethod
    def _failures_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if names == ("all",):
            return FAILURES
        if unknown := [name for name in names if name not in FAILURES]:
            raise ValueError(
                f"{unknown[0]!r} is not a failure status; expected 'all' or any of "
                f"{', '.join(FAILURES)}"
            )
        return names

    @model_validator(mode="after")
    def _overwriting_leaves_nothing(self) -> Self:
        if self.overwrite and self.retry_failed:
            raise ValueError("overwrite and retry_failed: the one deletes what the other computes")
        if self.overwrite and self.append:
            raise ValueError("overwrite and append: the one deletes what the other adds to")
        return self

    @property
    def statuses_to_retry(self) -> tuple[Status, ...]:
        """Statuses whose rows are computed again."""
        return tuple(status for status in Status if status.label in self.retry_failed)


FOR_ONE_CALL = ("overwrite", "retry_failed")
"""Options of `OneCall` that undo what was computed when they are given again, which no file may
have."""


class RunOptions(FrozenConfig):
    """What a run is told beside its model."""

    manifest: str
    """Parquet manifest, any fsspec URL; `python -m jobs.manifest` writes one."""
    out: str
    """Folder of the run, any fsspec URL; an unfinished run in it is resumed."""
    sampling: SamplingConfig = SamplingConfig()
    """Which frames of a clip the model sees."""
    views: ViewsConfig = ViewsConfig()
    """Temporal clips and spatial crops of each video; by default one, of the centre."""
    decoder: DecoderName = "pyav"
    """What decodes the clips: `pyav`, or `decord`, for models that were trained on its frames; part
    of what a run is, so that it is resumed with the same."""
    method: Method = Method()
    """What an attribution is, and of what class."""
    pooled: bool = True
    """Store the vector that the classifier reads of each clip, in half precision, which finds near
    duplicates and clips that look alike to the model."""
    precision: Precision = "float32"
    """Precision of the forward pass; captured attention is float32 always."""
    compile_model: bool = False
    """Compile the model by torch.compile: a minute or more at the start, and faster from then on,
    above all on a GPU; last bits of the results may be others. Needs a C++ compiler (on a GPU, one
    of C) and Python's headers. `libragrad` is refused: what is differentiated isn't compiled."""
    device: Device = "auto"
    """Where the model runs; `auto` takes GPUs if the cluster has any."""
    n_models: int | None = Field(default=None, ge=1)
    """Copies of the model that run at once; by default one per GPU, or, without GPUs, as many as
    decoding waits for, at most one for each CPU."""
    cpus_per_model: float = Field(default=1, gt=0, allow_inf_nan=False)
    """Torch threads of each copy of the model on CPUs, which decoding has while it is idle."""
    batch_size: int | None = Field(default=None, ge=1, le=4096)
    """Clips in one forward pass, by default 8, and 32 where the models run on GPUs (by `libragrad`,
    which keeps a pass in memory to go back through it, 2 and 8); a run that is there keeps its own.
    With another size, last bits of the results may be others."""
    rows_per_shard: int | None = Field(default=None, ge=1, le=65_536)
    """Clips in one shard: the unit of writing and of resuming; a multiple of `batch_size`. By
    default 256 for up to 100,000 rows, and up to 4,096 for more; a run that is there keeps its own.
    """
    decode_timeout: Seconds = Field(default=60.0, gt=0, le=86_400)
    """Time that decoding one file, or one segment of it, may take, for example 30s or 2min, before
    it is stopped, tried once more, and given up as `timeout`; time in which the machine is frozen
    isn't counted. A file that hangs may take twice this time for each of its segments in a task.
    May change when a run is resumed, as it decides of no clip's frames."""
    decode_memory: ByteSize = Field(default=ByteSize(4_000_000_000), ge=500_000_000)
    """Memory that decoding one clip may take, for example 4GB, before it is given up, mostly as
    `crashed`; a file that is larger than this isn't read, and is `crashed` too. May change as
    `decode_timeout` may."""
    frames_cache: str | None = None
    """Cache of frames at the model's size, a folder at any fsspec URL: a clip whose frames are in
    it is neither fetched nor decoded, by this run or a later one that takes the same frames.
    Results are the same with it and without."""
    frames_cache_size: ByteSize = Field(default=ByteSize(100_000_000_000), ge=0)
    """What a cache of frames may hold, for example 500GB; then it stops filling. Several models
    pass frames on through a temporary one of this size at most, if there is no other."""
    max_failed_fraction: float = Field(default=0.1, ge=0, le=1)
    """Share of failed clips above which the job ends with exit code 1; those that are too short for
    the model don't count, as long as others are ok."""
    log_format: LogFormat = "text"
    """Form of the logs, in workers and here; with `json`, progress is logged in place of a bar."""
    local_cpus: int | None = Field(default=None, ge=2, le=1024)
    """CPUs of the Ray that is started where no cluster is given: by default all, 2 or more."""
    local_object_store: ByteSize = Field(default=ByteSize(1_000_000_000), ge=80_000_000)
    """Object store of the Ray that is started where no cluster is given, for example 2GB."""

    @model_validator(mode="after")
    def _batches_fill_shards(self) -> Self:
        if self.rows_per_shard and self.batch_size and self.rows_per_shard % self.batch_size:
            raise ValueError(
                f"rows_per_shard={self.rows_per_shard} is not a multiple of "
                f"batch_size={self.batch_size}: a batch must not span two shards"
            )
        return self

    @model_validator(mode="after")
    def _what_is_compiled_is_not_differentiated(self) -> Self:
        self.method.check_compiled(self.compile_model)
        return self


class AttributeConfig(RunOptions):
    """Attribute every clip of a manifest with a video classifier and store the result."""

    model: str
    """Checkpoint of a video classifier: a hub id or a local folder."""
    revision: str | None = None
    """Branch, tag or commit of a hub checkpoint."""


def _by_name(value: Any) -> Any:
    """Checkpoints by name from ``a=org/model,b=folder``; anything else is left to pydantic."""
    if not isinstance(value, str):
        return value
    models: dict[str, str] = {}
    for part in value.split(","):
        name, equals, model = part.strip().partition("=")
        if not equals:
            raise ValueError(f"{part!r}: expected name=checkpoint, as in a=org/model,b=folder")
        if name in models:
            raise ValueError(f"{name!r} is given twice; each run has a name of its own")
        models[name] = model
    return models


class AttributeJob(RunOptions, OneCall):
    """Attribute every clip of a manifest with a video classifier, or several, and store the result.

    Give model, or models. Each of several models is a run of its own, in a folder of its name below
    out, and all of them are checked before the first is started.
    """

    model: str | None = None
    """Checkpoint of a video classifier: a hub id or a local folder."""
    revision: str | None = None
    """Branch, tag or commit of a hub checkpoint."""
    # As text: decoded by the command line, the second of two of the same name would win silently.
    models: Annotated[dict[str, str], NoDecode, BeforeValidator(_by_name)] = Field(
        default={}, max_length=100
    )
    """Checkpoints by the names of their runs, as `a=org/model,b=folder`; in place of `model`."""
    serial: bool = False
    """Compute in this process alone, without Ray: to debug, for a small run, or where Ray can't
    start. For one call; results are the same."""
    dry_run: bool = False
    """Compute a handful of clips, say what the whole run will take (clips/s, hours, cores that
    decode, bytes and objects), and change nothing."""
    take_over: bool = False
    """Go on with a run that somebody else seems to be working on, who then stops writing. For one
    call; whoever has ended without a word is taken over without it, after a minute at most."""

    @model_validator(mode="after")
    def _one_way_to_name_models(self) -> Self:
        if self.model is None and not self.models:
            raise ValueError("model: is required, or models")
        if self.model is not None and self.models:
            raise ValueError("give model or models, not both")
        if self.models and self.revision:
            raise ValueError(f"revision={self.revision!r} goes with model, not with models")
        for name in self.models:
            if not re.fullmatch(r"\w[\w.-]*", name):
                raise ValueError(
                    f"models: {name!r} names a folder; expected letters, digits, ., _ and -"
                )
            # A run in `out` itself would have it deleted by --overwrite; some disks ignore case.
            if name.casefold() in RUN_NAMES:
                raise ValueError(
                    f"models: {name!r} is a part of a run in {self.out} itself; expected another "
                    f"name than {', '.join(RUN_NAMES)}"
                )
        return self

    def runs(self) -> tuple[AttributeConfig, ...]:
        """Give the configuration of each run, in order."""
        shared = {name: getattr(self, name) for name in RunOptions.model_fields}
        if self.model is not None:
            return (AttributeConfig(**shared, model=self.model, revision=self.revision),)
        return tuple(
            AttributeConfig(**shared | {"out": f"{self.out.rstrip('/')}/{name}"}, model=model)
            for name, model in self.models.items()
        )

    def call(self) -> OneCall:
        """Give what this call does to runs that are there."""
        return OneCall(**{name: getattr(self, name) for name in OneCall.model_fields})
