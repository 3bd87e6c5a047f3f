"""An attribution over playing pictures: its levels, overlapping windows, and when each is shown.

The page does the same in the browser (site/live.js); here it is for what is burnt into MJPEG.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.stream.explained import Explained

COLORMAP = "inferno"
OPACITY = 0.85
"""Of the highest level."""
_SCALE = (0.02, 0.99)
"""Quantiles of S at the ends of the scale."""
_LEAST_WEIGHT = 1e-3
"""At a window's very ends, so that what is covered by one window alone is shown there, too."""
_LONGEST_S = 10.0
"""That a playhead stays behind the newest window's end."""
_FASTEST, _SLOWEST = 2.0, 0.5
"""Rates of play at which a playhead that is behind or ahead gets to where it should be."""


def levels_of(spatial: NDArray[np.floating], temporal: NDArray[np.floating]) -> NDArray[np.float32]:
    """Levels in [0, 1] to draw a map by: sqrt((S - low) / (high - low) * T / max T).

    ``low`` and ``high`` are the map's own quantiles at 2 and 99 %, as on the page of a run: neither
    a logo nor a nearly uniform map leaves it without contrast. Values that aren't finite are 0.

    Parameters
    ----------
    spatial
        (time, y, x), S.
    temporal
        (time,), T.
    """
    where = np.nan_to_num(np.asarray(spatial, np.float64), posinf=0, neginf=0)
    when = np.nan_to_num(np.asarray(temporal, np.float64), posinf=0, neginf=0)
    low, high = np.quantile(where, _SCALE)
    of_place = np.clip((where - low) / (high - low or 1.0), 0, 1)
    of_time = np.maximum(when, 0) / (when.max() if when.max() > 0 else 1.0)
    levels: NDArray[np.float32] = np.sqrt(of_place * of_time[:, None, None]).astype(np.float32)
    return levels


def step_times(explained: Explained) -> NDArray[np.float64]:
    """Time of each step of the map in s of the stream's clock: the mean of its frames' times."""
    n_steps = len(explained.temporal)
    times = np.asarray(explained.frame_time_s, np.float64)
    return np.array([part.mean() for part in np.array_split(times, n_steps)])


@dataclass(frozen=True)
class DrawnWindow:
    """What is needed of a window to draw it.

    Attributes
    ----------
    start_s, end_s
        Its ends on the stream's clock.
    step_s
        (time,) float64, time of each step of the map.
    levels
        (time, y, x) float32 in [0, 1].
    """

    start_s: float
    end_s: float
    step_s: NDArray[np.float64]
    levels: NDArray[np.float32]

    @classmethod
    def of(cls, explained: Explained) -> "DrawnWindow":
        """Take it from an explained window."""
        return cls(
            explained.start_s,
            explained.end_s,
            step_times(explained),
            levels_of(explained.spatial, explained.temporal),
        )

    def weight(self, time_s: float) -> float:
        """Triangular: 1 in the window's middle, about 0 at its ends, 0 outside."""
        if not self.start_s <= time_s <= self.end_s:
            return 0.0
        half = (self.end_s - self.start_s) / 2
        return max(_LEAST_WEIGHT, 1 - abs(time_s - self.start_s - half) / half) if half > 0 else 1.0

    def at(self, time_s: float) -> NDArray[np.float32]:
        """Levels (y, x) of the step that is nearest to a time."""
        nearest: NDArray[np.float32] = self.levels[np.abs(self.step_s - time_s).argmin()]
        return nearest


def blended(windows: Sequence[DrawnWindow], time_s: float) -> NDArray[np.float32] | None:
    """Levels (y, x) at a time: the mean over all windows that cover it, by their weights.

    None if no window covers it.
    """
    weights = [window.weight(time_s) for window in windows]
    total = sum(weights)
    if not total:
        return None
    parts = [w * window.at(time_s) for w, window in zip(weights, windows, strict=True) if w]
    mean: NDArray[np.float32] = (np.sum(parts, axis=0) / total).astype(np.float32)
    return mean


class Playhead:
    """Which moment of the stream is on display, so that each picture has a map of its own moment.

    A window's map exists only once the window is over and the model has run. Pictures are therefore
    shown one hop behind the end of the newest window: its last stretch plays while the next one is
    computed. Of a hop that is longer, the last 10 s play with the map, and what follows without
    one.
    """

    def __init__(self) -> None:
        self._end_s: float | None = None
        self._hop_s = 1.0
        self._waits = True
        self._arrived_s = 0.0
        self._position_s: float | None = None
        self._asked_s = 0.0

    def window_arrived(self, end_s: float, now_s: float) -> None:
        """Take a window's end on the stream's clock, and the time now on one's own."""
        if self._end_s is not None and end_s > self._end_s:
            gap_s = end_s - self._end_s
            self._hop_s, self._waits = min(_LONGEST_S, max(0.05, gap_s)), gap_s <= _LONGEST_S
        elif self._end_s is not None and end_s < self._end_s:
            self._position_s = None
        self._end_s, self._arrived_s = end_s, now_s

    def at(self, now_s: float) -> float | None:
        """Moment to be shown, in s of the stream's clock; None before the first window."""
        if self._end_s is None:
            return None
        limit = self._end_s if self._waits else math.inf
        target = min(limit, self._end_s - self._hop_s + now_s - self._arrived_s)
        elapsed_s = max(0.0, now_s - self._asked_s)
        position_s = target if self._position_s is None else self._position_s + elapsed_s
        behind = target - position_s
        if abs(behind) > max(3.0, 2 * self._hop_s):
            self._position_s = target
        else:
            change = min(_FASTEST - 1, max(_SLOWEST - 1, behind))
            self._position_s = min(limit, position_s + change * elapsed_s)
        self._asked_s = now_s
        return self._position_s


class Reel:
    """The latest windows and pictures of one stream, of a bounded number.

    When the stream's clock jumps back, what was before is dropped.
    """

    def __init__(self, *, n_windows: int = 12, n_pictures: int = 120) -> None:
        self.windows: deque[DrawnWindow] = deque(maxlen=n_windows)
        self.pictures: deque[tuple[float, NDArray[np.uint8]]] = deque(maxlen=n_pictures)

    def add_window(self, window: DrawnWindow) -> None:
        """Take a window that is newer than those before it."""
        if self.windows and window.end_s < self.windows[-1].end_s:
            self.windows.clear()
        self.windows.append(window)

    def add_picture(self, time_s: float, image: NDArray[np.uint8]) -> None:
        """Take a picture, (height, width, 3) uint8, that is newer than those before it."""
        if self.pictures and time_s < self.pictures[-1][0]:
            self.pictures.clear()
        self.pictures.append((time_s, image))

    def picture_at(self, time_s: float | None) -> tuple[float, NDArray[np.uint8]] | None:
        """Latest picture at or before a time; without a time, the newest; None if there is none."""
        if not self.pictures:
            return None
        if time_s is None:
            return self.pictures[-1]
        before = [entry for entry in self.pictures if entry[0] <= time_s]
        return before[-1] if before else self.pictures[0]


def burnt_in(image: NDArray[np.uint8], levels: NDArray[np.float32] | None) -> NDArray[np.uint8]:
    """Lay levels (y, x) over a picture (height, width, 3): colour and opacity follow the level."""
    if levels is None:
        return image
    height, width = image.shape[:2]
    enlarged = Image.fromarray(levels).resize((width, height), Image.Resampling.BILINEAR)
    level = np.clip(np.asarray(enlarged), 0, 1)
    color = palette()[(255 * level).round().astype(np.uint8)]
    opacity = OPACITY * level[..., None]
    burnt: NDArray[np.uint8] = (image * (1 - opacity) + color * opacity).round().astype(np.uint8)
    return burnt


@lru_cache(maxsize=1)
def palette() -> NDArray[np.uint8]:
    """Colours of `COLORMAP`, (256, 3) uint8."""
    colors = matplotlib.colormaps[COLORMAP](np.arange(256), bytes=True)[:, :3]
    return np.ascontiguousarray(colors, np.uint8)
