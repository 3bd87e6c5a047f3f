"""What `jobs.live` is told: sources, a model, and where what comes of them goes."""

from collections import Counter
from typing import Self

from pydantic import ByteSize, Field, model_validator
from pydantic_settings import CliPositionalArg

from pipeline.attribution.method import Method, Precision
from pipeline.base_config import FrozenConfig, Seconds
from pipeline.logs import LogFormat
from pipeline.run.config import AttributeConfig, Device, SamplingConfig


class PageConfig(FrozenConfig):
    """Where streams are shown."""

    show: bool = True
    """Serve a page that shows the streams, MJPEG for plain players, and `/metrics`."""
    host: str = "127.0.0.1"
    """Address to listen on; one that other machines reach wants a token, in the environment
    variable STAA_LIVE_TOKEN."""
    port: int = Field(default=8765, ge=0, le=65_535)
    """Port to listen on; 0 takes a free one."""


class PatienceConfig(FrozenConfig):
    """How long something may last before a source's state names it."""

    stall: Seconds = Field(default=3.0, gt=0)
    """Without a frame, until it is `stalled`."""
    freeze: Seconds = Field(default=5.0, gt=0)
    """With the same picture, until it is `stalled`."""
    late: Seconds = Field(default=1.0, gt=0)
    """By which frames lag behind their own times, until it is `late`."""


class KeepConfig(FrozenConfig):
    """What of a folder of sessions is kept. The session that goes on always is."""

    age: Seconds | None = Field(default=None, gt=0)
    """Delete sessions that ended longer ago, for example 168h."""
    size: ByteSize | None = Field(default=None, gt=0)
    """Delete the oldest sessions while all together are larger, for example 10GB."""


class LiveConfig(FrozenConfig):
    """Explain streams as they play: files, cameras and URLs, several at once with one model.

    A source is a video file, a device such as /dev/video0, or a URL (rtsp, rtsps, rtmp, http,
    https, udp, tcp), as it is or as name=source. Credentials of a camera come from the environment:
    rtsp://${USER_OF_CAM}:${PASSWORD_OF_CAM}@host/path.
    """

    sources: CliPositionalArg[tuple[str, ...]]
    """Sources, each shown as a stream of its own, before all flags; a comma parts them, and a URL
    with one stands in double quotes."""
    model: str
    """Checkpoint of a video classifier: a hub id or a local folder."""
    revision: str | None = None
    """Branch, tag or commit of a hub checkpoint."""
    sampling: SamplingConfig = SamplingConfig()
    """Which frames of a window the model sees."""
    window: Seconds | None = Field(default=None, gt=0)
    """Length of a window, for example 3s; by default that of the model's stride."""
    hop: Seconds = Field(default=1.0, ge=0.01)
    """From the start of a window to that of the next; windows overlap where it is shorter. At least
    10ms: windows that begin between the same two frames are the same."""
    fast: bool = False
    """Go through files as fast as the model does, with every window, in place of playing them."""
    method: Method = Method()
    """What an attribution is, and of what class."""
    precision: Precision = "float32"
    """Precision of the forward pass."""
    compile_model: bool = False
    """Compile the model by torch.compile, see `jobs.attribute`."""
    device: Device = "auto"
    """Where the model runs; `auto` takes a GPU if there is one."""
    threads: int = Field(default=1, ge=1, le=256)
    """Torch threads of the model on a CPU."""
    batch_size: int = Field(default=8, ge=1, le=256)
    """Windows in one forward pass at most, of as many streams."""
    out: str | None = None
    """Folder for sessions, any fsspec URL: each start makes a store in it, as of `jobs.attribute`.
    Without it, nothing is kept."""
    rows_per_shard: int = Field(default=64, ge=1, le=65_536)
    """Windows in one shard of the store; a multiple of `batch_size`."""
    flush: Seconds = Field(default=30.0, gt=0)
    """Time after which a shard is committed that isn't full; its other places are `unused`."""
    session: Seconds = Field(default=3600.0, gt=0)
    """Length of a session, after which another store is begun; what is deleted goes by session."""
    keep: KeepConfig = KeepConfig()
    """Which sessions are kept."""
    record_clips: bool = False
    """Keep the frames that the model saw of each window as a small video beside the store."""
    take_over: bool = False
    """Go on although somebody else seems to be writing sessions to the same folder, who then stops;
    whoever has ended without a word is taken over without it, after a minute at most."""
    drift_against: str | None = None
    """Folder of a run of `jobs.attribute` over clips as they should be, or of sessions: an alarm is
    raised where the streams come to differ from it. It must be by the same `method`."""
    drift_false_alarm: float = Field(default=0.02, gt=0, lt=1)
    """Probability of a false alarm within an hour, of all streams together; with a higher one drift
    is found sooner."""
    page: PageConfig = PageConfig()
    """Where streams are shown."""
    patience: PatienceConfig = PatienceConfig()
    """When a source's state names what it does."""
    log_format: LogFormat = "text"
    """Form of the logs; with `json`, events are logged, too."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if not self.sources:
            raise ValueError("sources: give at least one file, device or URL")
        self.method.check_compiled(self.compile_model)
        if self.rows_per_shard % self.batch_size:
            raise ValueError(
                f"rows_per_shard={self.rows_per_shard} is not a multiple of "
                f"batch_size={self.batch_size}"
            )
        if self.out is None:
            for name, given in (
                ("keep", self.keep != KeepConfig()),
                ("record_clips", self.record_clips),
            ):
                if given:
                    raise ValueError(f"{name}: goes with out, the folder of sessions")
        default = type(self).model_fields["drift_false_alarm"].default
        if self.drift_against is None and self.drift_false_alarm != default:
            raise ValueError("drift_false_alarm: goes with drift_against, what streams differ from")
        if self.out is not None and self.out.startswith("memory://"):
            raise ValueError(f"out: {self.out} is seen by one process alone")
        twice = [text for text, count in Counter(self.sources).items() if count > 1]
        if twice:
            raise ValueError("sources: one is given twice")
        return self

    def as_run(self, *, manifest: str, out: str) -> AttributeConfig:
        """Give the configuration of the run that a session's store is like."""
        return AttributeConfig(
            manifest=manifest,
            out=out,
            model=self.model,
            revision=self.revision,
            sampling=self.sampling,
            method=self.method,
            precision=self.precision,
            compile_model=self.compile_model,
            device=self.device,
            cpus_per_model=self.threads,
            batch_size=self.batch_size,
            rows_per_shard=self.rows_per_shard,
        )
