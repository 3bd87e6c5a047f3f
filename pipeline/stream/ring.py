"""The newest frames of a stream, decoded and resized once, from which windows are cut.

A window is cut as `pipeline.clips.decode` cuts a segment of a file: the same frames lie in it, and
the same sampling takes from them.
"""

from collections import deque
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.sampling import Sampling
from pipeline.clips.timeline import Timeline, first_from
from pipeline.status import DecodeError, Status


@dataclass(frozen=True)
class RingFrame:
    """A frame in the ring.

    Attributes
    ----------
    tick
        When it is shown, in ticks from the clock's zero.
    number
        Its number in the stream, from 0.
    image
        (height, width, 3) uint8, of the model's size.
    received_s
        When it came, by `time.monotonic`.
    """

    tick: int
    number: int
    image: NDArray[np.uint8]
    received_s: float


@dataclass(frozen=True)
class Cut:
    """The frames of a window that the model sees."""

    frames: tuple[NDArray[np.uint8], ...]
    frame_index: NDArray[np.int32]
    """(T,) their numbers in the stream."""
    frame_time_s: NDArray[np.float64]
    """(T,) in s from the clock's zero."""
    newest_s: float
    """When the newest of them was received, by `time.monotonic`."""


class FrameRing:
    """Frames of one clock, in order of their times.

    Parameters
    ----------
    tick_s
        Length of a tick in s.
    fps
        The stream's mean rate by its header, in frames/s; NaN if it has none.
    max_frames
        Most frames that are kept, whatever the stream's rate.
    """

    def __init__(self, tick_s: Fraction, fps: float, max_frames: int) -> None:
        self.tick_s, self.fps = tick_s, fps
        self._frames: deque[RingFrame] = deque(maxlen=max_frames)
        self.horizon = 0
        """Tick before which no further frame will come."""
        self._lost_tick: int | None = None
        """Tick of the newest frame that there was no room for."""

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, frame: RingFrame, next_tick: int | None = None) -> None:
        """Add the next frame, and say when the one behind it is shown, where that is known."""
        if len(self._frames) == self._frames.maxlen:
            self._lost_tick = self._frames[0].tick
        self._frames.append(frame)
        self.horizon = frame.tick if next_tick is None else next_tick

    def seconds(self, tick: int) -> float:
        """Time of a tick in s from the clock's zero, as `Timeline.seconds` gives it."""
        numerator, denominator = self.tick_s.as_integer_ratio()
        return tick * numerator / denominator

    def holds_until(self, end_s: float) -> bool:
        """Whether every frame before a time has come."""
        return self.horizon >= end_s / float(self.tick_s) - 0.5

    def forget_before(self, start_s: float) -> None:
        """Let go of the frames before a time."""
        bound = start_s / float(self.tick_s) - 0.5
        while self._frames and self._frames[0].tick < bound:
            self._frames.popleft()

    def clear(self) -> None:
        """Let go of all frames."""
        self._frames.clear()
        self._lost_tick = None

    def cut(self, start_s: float, end_s: float, sampling: Sampling) -> Cut:
        """Take the model's frames of the window [start_s, end_s).

        Raises
        ------
        DecodeError
            ``TOO_SHORT``, if the window has fewer frames than the model sees, or more than are
            kept.
        """
        if self._lost_tick is not None and self._lost_tick >= start_s / float(self.tick_s) - 0.5:
            raise DecodeError(Status.TOO_SHORT, "the window has more frames than are kept")
        frames = list(self._frames)
        ticks = np.array([frame.tick for frame in frames], np.int64)
        first = first_from(ticks, start_s, self.tick_s)
        stop = first_from(ticks, end_s, self.tick_s)
        inside = ticks[first:stop]
        zero = int(inside[0]) if len(inside) else 0
        end = int(ticks[stop]) if stop < len(ticks) else self.horizon
        end = max(end - zero, int(inside[-1]) - zero + 1) if len(inside) else 0
        taken = sampling.take(Timeline(inside - zero, end, self.tick_s, self.fps)) + first
        chosen = [frames[position] for position in taken.tolist()]
        return Cut(
            tuple(frame.image for frame in chosen),
            np.array([frame.number for frame in chosen], np.int32),
            np.array([self.seconds(frame.tick) for frame in chosen]),
            max(frame.received_s for frame in chosen),
        )
