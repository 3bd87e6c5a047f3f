"""The windows of a stream: as long as the model was trained on, one each hop, numbered from 0."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.errors import ConfigError
from pipeline.status import DecodeError
from pipeline.stream.ring import Cut, FrameRing

_USUAL_FPS = 30
"""Of a camera, by which memory is planned."""


@dataclass(frozen=True)
class WindowPlan:
    """How windows are cut from a stream and made the model's input.

    Window k is [k hop_s, k hop_s + window_s), in s of the stream's clock.

    Attributes
    ----------
    input_size
        (height, width) that the model takes, pixels.
    """

    sampling: Sampling
    preprocessing: Preprocessing
    input_size: tuple[int, int]
    window_s: float
    hop_s: float

    def __post_init__(self) -> None:
        for name in ("window_s", "hop_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name.removesuffix('_s')}: {value} s, expected above 0")

    def bounds_s(self, number: int) -> tuple[float, float]:
        """Start and end of a window in s."""
        start = number * self.hop_s
        return start, start + self.window_s

    def first_from(self, time_s: float) -> int:
        """Find the first window that begins at a time or later."""
        return max(0, math.ceil(time_s / self.hop_s - 1e-9))

    @property
    def max_frames(self) -> int:
        """Most frames that are kept of a stream: those of a window at 120 frames/s."""
        return math.ceil((self.window_s + self.hop_s) * 120) + self.sampling.n_samples

    def check_memory(self, n_streams: int, memory_bytes: int) -> None:
        """Refuse windows whose frames, of so many streams, take more than half of a memory.

        Raises
        ------
        ConfigError
        """
        height, width = self.input_size
        n_bytes = n_streams * self.window_s * _USUAL_FPS * 3 * height * width
        if n_bytes > memory_bytes / 2:
            longest_s = self.window_s * memory_bytes / 2 / n_bytes
            streams = f"{n_streams} stream{'s' if n_streams > 1 else ''}"
            raise ConfigError(
                f"window: {self.window_s:g} s of {streams} at "
                f"{_USUAL_FPS} frames/s take {n_bytes / 1e9:.1f} GB of the "
                f"{memory_bytes / 1e9:.1f} GB that are here: expected {longest_s:.0f} s or less"
            )

    def fit(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop a frame, (H, W, 3) uint8, as `pipeline.clips.decode` does: (h, w, 3).

        Raises
        ------
        ValueError
            If it comes in another size than the model takes.
        """
        resized = self.preprocessing.geometry.resize_frame(image)
        fitted = self.preprocessing.crop_resized(resized, image.shape[:2])
        if fitted.shape[:2] != self.input_size:
            raise ValueError(
                f"frames of {image.shape[1]}x{image.shape[0]} pixels become "
                f"{fitted.shape[1]}x{fitted.shape[0]}, the model takes "
                f"{self.input_size[1]}x{self.input_size[0]}"
            )
        return fitted


def window_of(sampling: Sampling, asked_s: float | None) -> float:
    """Length of a window in s: as asked for, or that of a strided sampling.

    Raises
    ------
    ConfigError
        If nothing says how long it is, or it is shorter than the frames that are sampled.
    """
    own_s = None if sampling.stride is None else _strided_s(sampling)
    if asked_s is None and own_s is None:
        raise ConfigError(
            "window: the model takes its frames evenly from a clip of any length, which doesn't "
            "say how long a window is; expected a time such as --window 3s, that of its training "
            "clips"
        )
    if asked_s is not None and own_s is not None and asked_s < own_s - 1e-9:
        raise ConfigError(
            f"window: {asked_s:g} s, expected {own_s:g} s or more: the model's "
            f"{sampling.n_samples} frames lie {sampling.stride} apart at {sampling.target_fps:g} "
            "frames/s"
        )
    return asked_s if asked_s is not None else float(own_s or 0)


def _strided_s(sampling: Sampling) -> float:
    return (sampling.stride or 0) * sampling.n_samples / sampling.target_fps


@dataclass(frozen=True)
class Window:
    """A window that is due.

    Attributes
    ----------
    start_s, end_s
        In s of the stream's clock.
    frame_time_s
        (T,) float64, in s of the stream's clock.
    """

    stream: str
    number: int
    start_s: float
    end_s: float
    cut: Cut
    frame_time_s: NDArray[np.float64]


class WindowCutter:
    """Cuts the windows of a stream as its frames come.

    The stream's clock goes on when a source's begins anew: ``offset_s`` is the time of the ring's
    zero on it.
    """

    def __init__(self, stream: str, plan: WindowPlan) -> None:
        self.stream, self.plan = stream, plan
        self.next_number = 0
        self.n_due = 0
        """Windows so far whose frames had all come."""
        self.n_too_short = 0
        """Those of them with fewer frames than the model sees."""

    def resume_at(self, time_s: float) -> None:
        """Go on with the first window that begins at a time of the stream's clock or later."""
        self.next_number = max(self.next_number, self.plan.first_from(time_s))

    def due(self, ring: FrameRing, offset_s: float = 0.0) -> list[Window]:
        """Cut the windows whose frames have all come; the ring lets go of what none will need."""
        windows = []
        while True:
            start, end = self.plan.bounds_s(self.next_number)
            # Without an offset not even a rounding parts these from a manifest's.
            bounds = (start - offset_s, end - offset_s) if offset_s else (start, end)
            if not ring.holds_until(bounds[1]):
                break
            self.n_due += 1
            try:
                cut = ring.cut(*bounds, self.plan.sampling)
                times = cut.frame_time_s + offset_s if offset_s else cut.frame_time_s
                windows.append(Window(self.stream, self.next_number, start, end, cut, times))
            except DecodeError:
                self.n_too_short += 1
            self.next_number += 1
        ring.forget_before(self.plan.bounds_s(self.next_number)[0] - offset_s)
        return windows
