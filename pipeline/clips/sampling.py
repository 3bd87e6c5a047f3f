"""Which frames of a clip the model sees: pure functions from frame times to frame indices.

In a clip of constant rate, counting frames is as good as a clock. If the rate varies, as in
recordings from phones, frames that are evenly spaced by number aren't evenly spaced in time.
Samples then follow the clock, unless frames are asked for.

Both kinds give strictly increasing indices: a frame is never repeated to fill up, because a
repeated frame would share the model's attention with its copy and so halve its attribution.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.timeline import Timeline
from pipeline.errors import ConfigError
from pipeline.status import DecodeError, Status

SamplingKind = Literal["uniform", "strided"]
SamplingClock = Literal["time", "frame"]


def uniform_frame_indices(*, n_frames: int, n_samples: int) -> NDArray[np.int64]:
    """Take the centre frame of each of ``n_samples`` equal segments of the clip.

    The clip is cut into segments of ``n_frames / n_samples`` frames, and the frame at each
    segment's centre is taken. If a centre falls between two frames, it is the later one::

        n_frames=12, n_samples=4: segments of 3 frames

        frame     0  1  2 | 3  4  5 | 6  7  8 | 9 10 11
        taken        ^         ^         ^         ^        -> [1, 4, 7, 10]

    Parameters
    ----------
    n_frames
        Frames in the clip.
    n_samples
        Frames to take, 1 or more.

    Returns
    -------
    (n_samples,) int64, strictly increasing, in ``[0, n_frames)``.

    Raises
    ------
    DecodeError
        ``TOO_SHORT``, when the clip has fewer frames than are to be taken.
    """
    _require_frames(n_frames, n_samples)
    # floor((i + 1/2) * n_frames / n_samples) in integers: floats would round at exact halves.
    return (2 * np.arange(n_samples, dtype=np.int64) + 1) * n_frames // (2 * n_samples)


def strided_frame_indices(
    *,
    n_frames: int,
    n_samples: int,
    stride: int,
    fps: float,
    target_fps: float = 30.0,
    position: float = 0.5,
) -> NDArray[np.int64]:
    """Take frames at a fixed interval in a window at the clip's centre, as TimeSformer is tested.

    The window is as long as ``stride * n_samples`` frames at ``target_fps``, whatever the clip's
    own rate. Samples are spread from its first frame to its last and truncated to whole indices::

        n_frames=20, n_samples=4, stride=4, fps=target_fps=30: a window of 4 * 4 = 16 frames

        frame     0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15 16 17 18 19
        window          |--------------------------------------------|
        taken           ^              ^              ^              ^   -> [2, 7, 12, 17]

    A window longer than the clip becomes the whole clip, and one shorter than ``n_samples`` frames
    (in a clip of very low rate) becomes ``n_samples`` adjacent frames. The original code instead
    clamps indices outside the clip, and so repeats frames. The indices are stored and show when the
    interval was narrower or wider than asked for.

    Parameters
    ----------
    n_frames
        Frames in the clip.
    n_samples
        Frames to take, 1 or more.
    stride
        Interval between two taken frames, in frames at ``target_fps``; 32 for TimeSformer's 8
        frames, 4 for VideoMAE's 16.
    fps
        The clip's own rate, in frames/s.
    target_fps
        The rate that ``stride`` counts in, in frames/s.
    position
        Where the window lies: 0 at the clip's start, 1/2 in its middle, 1 at its end.

    Returns
    -------
    (n_samples,) int64, strictly increasing, in ``[0, n_frames)``.

    Raises
    ------
    DecodeError
        ``TOO_SHORT``, if the clip has fewer frames than are to be taken; ``UNREADABLE``, if ``fps``
        is not a positive number, as in some broken headers.

    References
    ----------
    ``decode``, ``get_start_end_idx`` and ``temporal_sampling`` in timesformer/datasets/decoder.py,
    https://github.com/facebookresearch/TimeSformer, which takes them from SlowFast.
    """
    _require_frames(n_frames, n_samples)
    if not (np.isfinite(fps) and fps > 0):
        raise DecodeError(Status.UNREADABLE, f"the clip's frame rate is {fps}, not above 0")
    window = stride * n_samples / target_fps * fps
    return _spread(n_frames, n_samples, window, position).astype(np.int64)


def frame_indices_by_time(
    timeline: Timeline,
    *,
    n_samples: int,
    window_s: float | None = None,
    position: float = 0.5,
) -> NDArray[np.int64]:
    """Take frames at evenly spaced times, in a clip of any rate.

    The times are those at which `uniform_frame_indices` (without ``window_s``) and
    `strided_frame_indices` would find their frames if the clip had its mean rate throughout::

        uniform, 3 samples of a clip of 5 s: its frames last 3 s, 1 s and 1 s

        seconds   0    1    2    3    4    5
        frame     |0             |1   |2   |
        times         0.83   2.5      4.17          -> frames 0, 0 and 2: taken are [0, 1, 2]

    A frame that lasts for several samples is taken once, for the first of them; the next samples
    take the frames behind it. So frames are never repeated.

    Returns
    -------
    (n_samples,) int64, strictly increasing, in ``[0, timeline.n_frames)``.

    Raises
    ------
    DecodeError
        ``TOO_SHORT``, when the clip has fewer frames than are to be taken.
    """
    n_frames = timeline.n_frames
    _require_frames(n_frames, n_samples)
    # Use whole numbers as far as possible: floats would round at the start of a frame.
    if window_s is None or timeline.tick_s is None:
        shown_at = (2 * np.arange(n_samples, dtype=np.int64) + 1) * timeline.end
        begins: NDArray[np.int64] = timeline.ticks * (2 * n_samples)
    else:
        frame_ticks = timeline.end / n_frames
        window = window_s / (frame_ticks * float(timeline.tick_s))
        spread = _spread(n_frames, n_samples, window, position)
        shown_at = np.floor(spread * frame_ticks + 1e-6).astype(np.int64)
        begins = timeline.ticks
    taken = np.searchsorted(begins, shown_at, "right") - 1
    steps = np.arange(n_samples)
    taken = np.maximum.accumulate(taken - steps) + steps
    return np.minimum(taken, n_frames - n_samples + steps).astype(np.int64)


def _spread(n_frames: int, n_samples: int, window: float, position: float) -> NDArray[np.float64]:
    """Spread samples over a window of ``window`` frames: (n_samples,) float64, in frames."""
    window = min(max(window, n_samples), n_frames)
    start = (n_frames - window) * position
    # Bound the last sample by the clip's end: `start + window - 1` may round up beyond it.
    return np.linspace(start, min(start + window - 1, n_frames - 1), n_samples)


@dataclass(frozen=True)
class Sampling:
    """How frames are taken from a clip; part of a run's identity.

    Attributes
    ----------
    kind
        ``uniform`` (`uniform_frame_indices`) or ``strided`` (`strided_frame_indices`).
    n_samples
        Frames that the model sees.
    stride
        Interval for ``strided``, in frames at ``target_fps``; None for ``uniform``.
    target_fps
        The rate that ``stride`` counts in, in frames/s.
    position
        Where the window of ``strided`` lies, from 0 (start) to 1 (end); see `pipeline.clips.views`.
    clock
        What samples are evenly spaced in if a clip's rate varies: ``time`` or ``frame``. Older runs
        that don't record it used ``frame``, as there was no other clock.
    """

    kind: SamplingKind
    n_samples: int
    stride: int | None = None
    target_fps: float = 30.0
    position: float = 0.5
    clock: SamplingClock = "frame"

    def __post_init__(self) -> None:
        kinds = get_args(SamplingKind)
        if self.kind not in kinds:
            raise ConfigError(f"sampling kind is {self.kind!r}, expected one of {', '.join(kinds)}")
        if self.n_samples < 1:
            raise ConfigError(f"sampling n_samples is {self.n_samples}, expected 1 or more")
        if self.kind == "strided" and (self.stride is None or self.stride < 1):
            raise ConfigError(f"sampling stride is {self.stride}, expected 1 or more for strided")
        if self.kind == "uniform" and self.stride is not None:
            raise ConfigError(f"sampling stride is {self.stride}, expected none for uniform")
        if not (np.isfinite(self.target_fps) and self.target_fps > 0):
            raise ConfigError(f"sampling target_fps is {self.target_fps}, expected above 0")
        if not 0 <= self.position <= 1:
            raise ConfigError(f"sampling position is {self.position}, expected 0 to 1")
        if self.clock not in get_args(SamplingClock):
            raise ConfigError(f"sampling clock is {self.clock!r}, expected time or frame")

    def take(self, timeline: Timeline) -> NDArray[np.int64]:
        """Frame indices for a clip: (n_samples,) int64, strictly increasing.

        Raises
        ------
        DecodeError
            ``TOO_SHORT``, if the clip has fewer frames than are to be taken; ``UNREADABLE``, if a
            stride is asked for and the clip has no rate.
        """
        if self.clock == "frame" or timeline.tick_s is None:
            return self.indices(n_frames=timeline.n_frames, fps=timeline.rate)
        if timeline.is_constant:
            return self.indices(n_frames=timeline.n_frames, fps=timeline.clock_rate)
        window_s = None if self.stride is None else self.stride * self.n_samples / self.target_fps
        return frame_indices_by_time(
            timeline, n_samples=self.n_samples, window_s=window_s, position=self.position
        )

    def indices(self, *, n_frames: int, fps: float) -> NDArray[np.int64]:
        """Frame indices for a clip of ``n_frames`` at ``fps`` frames/s: (n_samples,) int64.

        Raises
        ------
        DecodeError
            ``TOO_SHORT``, when the clip has fewer frames than are to be taken.
        """
        if self.stride is None:
            return uniform_frame_indices(n_frames=n_frames, n_samples=self.n_samples)
        return strided_frame_indices(
            n_frames=n_frames,
            n_samples=self.n_samples,
            stride=self.stride,
            fps=fps,
            target_fps=self.target_fps,
            position=self.position,
        )


def _require_frames(n_frames: int, n_samples: int) -> None:
    if n_frames < n_samples:
        raise DecodeError(
            Status.TOO_SHORT, f"the clip has {n_frames} frames, the model sees {n_samples}"
        )
