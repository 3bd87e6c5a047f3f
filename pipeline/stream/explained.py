"""What the engine gives to whoever shows it: explained windows, pictures, and states of sources."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class SourceState(StrEnum):
    """What a source is doing."""

    LIVE = "live"
    """Frames arrive as they should."""
    LATE = "late"
    """Frames arrive, more slowly than their own times say."""
    STALLED = "stalled"
    """No new frame for a while, or the same picture all the time; the source is open."""
    LOST = "lost"
    """The source can't be opened or broke off; it is tried again."""
    ENDED = "ended"
    """The source has no more frames, and isn't tried again."""


@dataclass(frozen=True)
class Explained:
    """One window of one stream, explained.

    Attributes
    ----------
    stream
        Name of the stream.
    window
        Number of the window in its stream, from 0; skipped windows keep their numbers.
    start_s, end_s
        The window in s of the stream's own clock.
    frame_time_s
        (n_frames,) float64, when the model's frames are shown, in s of the stream's clock.
    spatial
        (grid_t, grid_h, grid_w) float32, S of each time, as it is stored.
    temporal
        (grid_t,) float32, T.
    top
        Labels and their probabilities, best first.
    newest_frame_s
        `time.monotonic` when the newest frame of the window was received; the age of the map is
        now less this.
    n_skipped
        Windows of this stream that were skipped so far.
    n_frames_dropped
        Frames of this stream that were received and couldn't be used so far.
    """

    stream: str
    window: int
    start_s: float
    end_s: float
    frame_time_s: NDArray[np.float64]
    spatial: NDArray[np.float32]
    temporal: NDArray[np.float32]
    top: tuple[tuple[str, float], ...]
    newest_frame_s: float
    n_skipped: int
    n_frames_dropped: int

    def __post_init__(self) -> None:
        if self.spatial.ndim != 3 or self.temporal.shape != self.spatial.shape[:1]:
            raise ValueError(
                f"spatial is {self.spatial.shape} and temporal {self.temporal.shape}, expected "
                "(T, H, W) and (T,)"
            )


@dataclass(frozen=True)
class StreamStatus:
    """How a stream is doing.

    Attributes
    ----------
    reason
        Why it is in this state, on one line and without credentials; empty where it is live.
    age_s
        Age of the newest map in s; None before the first.
    windows, skipped
        Windows that were explained and skipped so far.
    rate
        Explained windows per s, of late.
    """

    stream: str
    state: SourceState
    reason: str
    age_s: float | None
    windows: int
    skipped: int
    rate: float


@dataclass(frozen=True)
class Picture:
    """A decoded frame for viewers: at most about ten a second, at most 320 pixels wide.

    Attributes
    ----------
    time_s
        When it is shown, in s of the stream's clock.
    image
        (height, width, 3) uint8, RGB.
    """

    stream: str
    time_s: float
    image: NDArray[np.uint8]


class Viewer(Protocol):
    """Whoever shows it. No call blocks: a viewer that is behind keeps the latest only."""

    def shown(self, explained: Explained) -> None:
        """Take an explained window."""

    def picture(self, picture: Picture) -> None:
        """Take a frame as it plays."""

    def status(self, status: StreamStatus) -> None:
        """Take the state of a stream."""
