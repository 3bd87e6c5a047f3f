"""A source's thread: it reads frames, follows their clock, and hands on windows and pictures.

Whatever a source does has a name and is told; nothing that it does ends the thread, except its own
end. A source that broke off is opened again, after a wait that doubles each time.
"""

import logging
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.stream.explained import Picture, SourceState
from pipeline.stream.health import Health, Patience
from pipeline.stream.ring import FrameRing, RingFrame
from pipeline.stream.source import (
    OpenSource,
    Pace,
    Source,
    SourceError,
    SourceFrame,
    opened,
)
from pipeline.stream.windows import Window, WindowCutter, WindowPlan

PICTURE_WIDTH = 320
"""Pixels; wider frames are made this wide for viewers."""
_PICTURE_S = 0.1
"""Between two pictures."""
_BACK_S = 1.0
"""By which a clock may go back without being taken for another: such frames are left out."""
_ARRIVAL = Fraction(1, 1000)
"""Tick of a source that has no times, whose frames get those of their arrival."""

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backoff:
    """Waits before a source is opened again, s."""

    first_s: float = 0.5
    longest_s: float = 30.0

    def wait_s(self, n_failed: int) -> float:
        """Wait after so many failures in a row."""
        return min(self.first_s * 2.0 ** min(n_failed, 32), self.longest_s)


@dataclass
class Listener:
    """Who is told what comes of a source, in its thread."""

    window: Callable[[Window], None]
    picture: Callable[[Picture], None] = lambda picture: None
    event: Callable[[str, str, dict[str, Any]], None] = lambda stream, kind, values: None
    """Gets the stream's name, what has happened, and particulars."""


@dataclass
class _Clock:
    """How a source's times become those of the stream, until it jumps."""

    ring: FrameRing
    base: int
    """Time of the source, in ticks, at the ring's zero."""
    offset_s: float
    """Time of the stream at the ring's zero."""
    kind: str
    """What ticks are: ``pts``, ``count`` or ``arrival``."""
    n_frames: int = 0
    last: int = -1
    """Tick of the newest frame."""


@dataclass
class Feed:
    """Reads one source in a thread of its own.

    Attributes
    ----------
    paced
        Whether a file is played at its own speed; else as fast as windows are taken.
    open_source
        Opens the source, as `opened` does.
    """

    source: Source
    plan: WindowPlan
    listener: Listener
    paced: bool = True
    patience: Patience = field(default_factory=Patience)
    backoff: Backoff = field(default_factory=Backoff)
    open_source: Callable[[Source], AbstractContextManager[OpenSource]] = opened

    def __post_init__(self) -> None:
        self.health = Health(self.patience)
        self.n_frames = self._n_dropped = 0
        self.broke_off = False
        """Whether it is a file that couldn't be read to its end, and isn't tried again."""
        self._open: OpenSource | None = None
        self.stop = threading.Event()
        self._cutter = WindowCutter(self.source.name, self.plan)
        self._time_s, self._received_s = 0.0, 0.0
        self._size: tuple[int, ...] | None = None
        self._pictured_s = -_PICTURE_S
        self._n_failed = 0
        self._pace = Pace()
        self._thread = threading.Thread(
            target=self._run, name=f"feed-{self.source.name}", daemon=True
        )

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def close(self, wait_s: float = 1.0) -> None:
        """Stop reading; a thread that waits for its source is left to its time limit."""
        self.stop.set()
        if self._thread.ident is not None:
            self._thread.join(wait_s)

    @property
    def n_dropped(self) -> int:
        """Frames so far that were received and couldn't be used."""
        return self._n_dropped + (self._open.n_damaged if self._open is not None else 0)

    @contextmanager
    def _counted(self, source: OpenSource) -> Iterator[None]:
        """Count a source's damaged frames, while open and from then on."""
        self._open = source
        try:
            yield
        finally:
            self._open = None
            self._n_dropped += source.n_damaged

    @property
    def n_too_short(self) -> int:
        """Windows so far in which there were fewer frames than the model sees."""
        return self._cutter.n_too_short

    @property
    def has_ended(self) -> bool:
        """Whether the source won't be read any more."""
        return self.health.state(time.monotonic())[0] is SourceState.ENDED

    def _run(self) -> None:
        while not self.stop.is_set():
            try:
                ended = self._read()
            except SourceError as error:
                self._lose(str(error))
            except Exception as error:
                # The thread must not end; what it is goes to whoever mends it.
                _LOGGER.exception("reading %s failed", self.source.shown)
                self._lose(f"reading failed: {type(error).__name__}")
            else:
                if ended or self.stop.is_set():
                    self.health.ended(ended or "it was closed")
                    return
                self._lose("the source sends no more")
            if self.source.kind == "file":
                self.broke_off = True
                self.health.ended(f"broken off: {self.health.state(time.monotonic())[1]}")
                return
            self.stop.wait(self.backoff.wait_s(self._n_failed))
            self._n_failed += 1

    def _lose(self, reason: str) -> None:
        self.health.lost(reason)
        self._tell("lost", reason=reason, tries=self._n_failed + 1)

    def _tell(self, kind: str, **values: Any) -> None:
        self.listener.event(self.source.name, kind, values)

    def _read(self) -> str:
        """Read the source to its end; why it won't be opened again, or nothing if it will."""
        with self.open_source(self.source) as source, self._counted(source):
            plays = self.source.kind == "file" or source.is_finite
            self._pace.restart()
            clock: _Clock | None = None
            frames = _with_next(source) if plays else ((frame, None) for frame in source.frames())
            for frame, following in frames:
                if self.stop.is_set():
                    return "it was closed"
                fitted = self._fitted(frame.image)
                clock, tick = self._tick(clock, source, frame)
                self.n_frames += 1
                if fitted is None or tick is None:
                    self._n_dropped += 1
                    continue
                next_tick = self._next_tick(clock, tick, frame, following) if plays else None
                time_s = clock.ring.seconds(tick) + clock.offset_s
                if plays and self.paced:
                    self._pace.wait(time_s, self.stop)
                self._take(clock, tick, next_tick, time_s, frame.image, fitted)
            return self._end_of_source() if plays else ""

    def _end_of_source(self) -> str:
        told = "the source has come to its end"
        if self._cutter.n_due:
            return told
        return f"{told} before a window of {self.plan.window_s:g} s was full"

    def _fitted(self, image: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """Give the frame at the model's size; None if it can't have it."""
        try:
            return self.plan.fit(image)
        except ValueError as error:
            if image.shape != self._size:
                self._tell("size", reason=str(error))
            self._size = image.shape
            return None

    def _tick(
        self, clock: _Clock | None, source: OpenSource, frame: SourceFrame
    ) -> tuple[_Clock, int | None]:
        """Tick of a frame, by a clock that begins anew where the source's does.

        None for a frame that is out of turn.
        """
        now = time.monotonic()
        if clock is None:
            kind = "pts" if frame.pts is not None and source.tick_s else "arrival"
            if kind == "arrival" and source.rate:
                kind = "count"
            # Behind a break the stream's clock has gone on meanwhile.
            offset = self._time_s + now - self._received_s if self._received_s else 0.0
            return self._anew(kind, source, frame, offset), 0
        tick: int
        if clock.kind == "count":
            tick = clock.n_frames
        elif clock.kind == "arrival":
            tick = max(round(now * 1000) - clock.base, clock.last + 1)
        elif frame.pts is None:
            return clock, None
        else:
            tick = frame.pts - clock.base
        tick_s = float(clock.ring.tick_s)
        if (back_s := (clock.last - tick) * tick_s) >= 0:
            if back_s < _BACK_S:
                return clock, None
            self._tell("jump", seconds=round(-back_s, 3))
            self._after_jump()
            step = 1 / source.fps if source.fps > 0 else tick_s
            return self._anew(clock.kind, source, frame, self._time_s + step), 0
        if (ahead_s := (tick - clock.last) * tick_s) > self.patience.jump_s:
            self._tell("jump", seconds=round(ahead_s, 3))
            self._after_jump()
            self._break(clock, clock.ring.seconds(tick) + clock.offset_s)
        if self._size is not None and frame.image.shape != self._size:
            height, width = frame.image.shape[:2]
            self._tell("size", reason=f"frames are of {width}x{height} pixels from now on")
            self._break(clock, clock.ring.seconds(tick) + clock.offset_s)
        clock.last = tick
        clock.n_frames += 1
        self._size = frame.image.shape
        return clock, tick

    def _anew(self, kind: str, source: OpenSource, frame: SourceFrame, offset_s: float) -> _Clock:
        tick_s = _ARRIVAL
        base = round(time.monotonic() * 1000)
        if kind == "pts" and source.tick_s is not None and frame.pts is not None:
            tick_s, base = source.tick_s, frame.pts
        elif kind == "count" and source.rate:
            tick_s, base = 1 / source.rate, 0
        self._cutter.resume_at(offset_s)
        self.health.jumped()
        self._size = frame.image.shape
        ring = FrameRing(tick_s, source.fps, self.plan.max_frames)
        return _Clock(ring, base, offset_s, kind, n_frames=1, last=0)

    def _after_jump(self) -> None:
        self._pace.restart()
        self.health.jumped()

    def _break(self, clock: _Clock, time_s: float) -> None:
        """Have no window hold frames from before and from behind a time."""
        clock.ring.clear()
        self._cutter.resume_at(time_s)

    def _next_tick(
        self, clock: _Clock, tick: int, frame: SourceFrame, following: SourceFrame | None
    ) -> int:
        """Tick of the frame behind, or at which the last one ends, as `Timeline` has it."""
        if following is not None and clock.kind == "count":
            return tick + 1
        if following is not None and following.pts is not None and clock.kind == "pts":
            ahead = following.pts - clock.base
            if 0 < (ahead - tick) * float(clock.ring.tick_s) <= self.patience.jump_s:
                return ahead
        mean = round(tick / (clock.n_frames - 1)) if clock.n_frames > 1 else 1
        duration = frame.duration if clock.kind == "pts" else 1
        return tick + max(duration or mean, 1)

    def _take(
        self,
        clock: _Clock,
        tick: int,
        next_tick: int | None,
        time_s: float,
        image: NDArray[np.uint8],
        fitted: NDArray[np.uint8],
    ) -> None:
        now = time.monotonic()
        if self._n_failed:
            self._tell("back", tries=self._n_failed)
            self._n_failed = 0
        self._time_s, self._received_s = time_s, now
        self.health.frame(now, time_s, zlib.crc32(np.ascontiguousarray(fitted).data))
        clock.ring.add(RingFrame(tick, self.n_frames - 1, fitted, now), next_tick)
        for window in self._cutter.due(clock.ring, clock.offset_s):
            self.listener.window(window)
        if now - self._pictured_s >= _PICTURE_S:
            self._pictured_s = now
            self.listener.picture(Picture(self.source.name, time_s, small(image)))


def small(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Make a frame (H, W, 3) uint8 at most `PICTURE_WIDTH` pixels wide."""
    height, width = image.shape[:2]
    if width <= PICTURE_WIDTH:
        return image
    size = (PICTURE_WIDTH, max(1, round(height * PICTURE_WIDTH / width)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def _with_next(source: OpenSource) -> Iterator[tuple[SourceFrame, SourceFrame | None]]:
    """Give the frames, each with the one behind it: a file's are there before they are shown."""
    before: SourceFrame | None = None
    for frame in source.frames():
        if before is not None:
            yield before, frame
        before = frame
    if before is not None:
        yield before, None
