"""When each frame of a clip is shown: the frames' times, from either decoder."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


class ContradictionError(Exception):
    """Decoding contradicts the packets: not every packet is a frame, or the order is another."""


@dataclass(frozen=True)
class Timeline:
    """Times of a clip's frames in presentation order, starting with its first frame.

    Attributes
    ----------
    ticks
        (n_frames,) int64, strictly increasing from 0, in units of ``tick_s``.
    end
        When the last frame ends, in ticks; later than the last of ``ticks``.
    tick_s
        Length of a tick in s, the container's time base; None if times are unknown.
    fps
        The clip's mean rate by its header, in frames/s; NaN if the header has none.
    """

    ticks: NDArray[np.int64]
    end: int
    tick_s: Fraction | None
    fps: float

    def __post_init__(self) -> None:
        if self.ticks.ndim != 1 or self.ticks.dtype != np.int64:
            raise ValueError(
                f"ticks are {self.ticks.dtype} {self.ticks.shape}, expected int64 (n,)"
            )
        if len(self.ticks) and (self.ticks[0] or (np.diff(self.ticks) <= 0).any()):
            raise ValueError("ticks don't increase strictly from 0")
        if len(self.ticks) and self.end <= self.ticks[-1]:
            raise ValueError(f"the last frame ends at {self.end}, and begins at {self.ticks[-1]}")

    @classmethod
    def of_rate(cls, n_frames: int, fps: Fraction | None) -> "Timeline":
        """Frames at a constant rate; with None, their times in seconds are unknown."""
        return cls(
            np.arange(n_frames, dtype=np.int64),
            n_frames,
            1 / fps if fps else None,
            float(fps) if fps else float("nan"),
        )

    @classmethod
    def of_times(
        cls, times: NDArray[np.int64], last_duration: int | None, tick_s: Fraction, fps: float
    ) -> "Timeline":
        """Frames at the times given by their packets, (n_frames,) int64, strictly increasing.

        If the last frame's duration isn't known, the others' mean is taken.
        """
        ticks = times - times[0]
        mean = round(float(ticks[-1]) / (len(ticks) - 1)) if len(ticks) > 1 else 1
        return cls(ticks, int(ticks[-1]) + max(last_duration or mean, 1), tick_s, fps)

    @property
    def n_frames(self) -> int:
        """Frames in the clip."""
        return len(self.ticks)

    @property
    def rate(self) -> float:
        """Frames/s by the header, or else by the frames' times; NaN without both."""
        if np.isfinite(self.fps) and self.fps > 0:
            return self.fps
        if self.tick_s is None or not self.n_frames:
            return float("nan")
        return self.n_frames / (self.end * float(self.tick_s))

    @property
    def clock_rate(self) -> float:
        """Frames/s by the frames' times, if the header's differs by more than a tenth; else `rate`.

        An AVI file may tell twice the rate and leave out every second frame; DV tells its clock's.
        """
        if self.tick_s is None or self.n_frames < 3:
            return self.rate
        n_steps, n_ticks = self.n_frames - 1, int(self.ticks[-1])
        by_header = n_steps / (self.rate * float(self.tick_s))
        if abs(by_header - n_ticks) <= max(1, 0.1 * n_ticks):
            return self.rate
        return n_steps / (n_ticks * float(self.tick_s))

    def seconds(self, frame_index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the times of some frames in s from the first frame, float64; NaN if unknown."""
        if self.tick_s is None:
            return np.full(len(frame_index), np.nan)
        numerator, denominator = self.tick_s.as_integer_ratio()
        seconds: NDArray[np.float64] = self.ticks[frame_index] * numerator / denominator
        return seconds

    @property
    def is_constant(self) -> bool:
        """Whether, for a single rate, the time of every frame k lies within a tick of k / rate.

        So a constant rate whose times were rounded to the container's ticks counts as constant.
        """
        if self.n_frames < 3:
            return True
        numbers = np.arange(self.n_frames)
        spacings = [self.ticks[-1] / (self.n_frames - 1), self.end / self.n_frames]
        if self.tick_s is not None and self.fps > 0:
            spacings.append(1 / (self.fps * float(self.tick_s)))
        return any(bool((np.abs(self.ticks - numbers * s) <= 1 + 1e-6).all()) for s in spacings)

    def segment(self, start_s: float | None, end_s: float | None) -> tuple["Timeline", int]:
        """Cut to the frames whose times lie in [start_s, end_s), to half a tick.

        Parameters
        ----------
        start_s, end_s
            In s from the clip's first frame; None or NaN for the clip's own start and end.

        Returns
        -------
        The frames of the segment, possibly none, and the position of the first.
        """
        first, stop = 0, self.n_frames
        if self.tick_s is not None:
            first = self._first_from(start_s, otherwise=0)
            stop = self._first_from(end_s, otherwise=self.n_frames)
        if first >= stop:
            return Timeline(np.empty(0, np.int64), 0, self.tick_s, self.fps), first
        end = int(self.ticks[stop]) if stop < self.n_frames else self.end
        ticks = self.ticks[first:stop]
        return Timeline(ticks - ticks[0], end - int(ticks[0]), self.tick_s, self.fps), first

    def _first_from(self, time_s: float | None, *, otherwise: int) -> int:
        if time_s is None or np.isnan(time_s) or self.tick_s is None:
            return otherwise
        return first_from(self.ticks, time_s, self.tick_s)


def first_from(ticks: NDArray[np.int64], time_s: float, tick_s: Fraction) -> int:
    """Position of the first frame that is shown at a time in s, or later.

    Each time was rounded to a tick, up or down: half a tick earlier still counts.
    """
    return int(np.searchsorted(ticks, time_s / float(tick_s) - 0.5, "left"))
