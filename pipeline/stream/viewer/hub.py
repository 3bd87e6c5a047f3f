"""From the engine's thread to any number of viewers: only the latest of each kind is kept.

The engine puts values, and never waits. The newest value of each kind and stream lies here once,
with its number; a viewer is a position in these numbers. A slow viewer skips what was replaced in
the meantime, and costs nobody memory or time. What is sent is encoded once, when the first viewer
wants it, in the server's thread.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import Any, Literal

from pipeline.stream.explained import Explained, Picture, StreamStatus
from pipeline.stream.viewer import messages
from pipeline.stream.viewer.hysteresis import ClassHysteresis, ShownClass

Kind = Literal["status", "window", "picture", "alarms"]
KINDS: tuple[Kind, ...] = ("status", "window", "picture", "alarms")

MAX_VIEWERS = 100
_MAX_ALARMS = 50


class Entry:
    """The newest value of a kind and a stream.

    Attributes
    ----------
    value
        `Explained`, `Picture`, `StreamStatus`, or the list of alarms.
    shown
        The class on display, with a window.
    """

    def __init__(
        self, kind: Kind, stream: int, version: int, value: Any, shown: ShownClass | None = None
    ) -> None:
        self.kind, self.stream, self.version = kind, stream, version
        self.value, self.shown = value, shown
        self._encoded: str | bytes | None = None

    def message(self) -> str | bytes:
        """Give what is sent to a viewer now: only a window's age differs from one to the next."""
        if self._encoded is None:
            self._encoded = self._encode()
        if self.kind == "window":
            assert isinstance(self._encoded, str)
            return messages.with_age(self._encoded, self.age_s())
        return self._encoded

    def age_s(self) -> float:
        """Age of a window's newest frame."""
        return float(time.monotonic() - self.value.newest_frame_s)

    def _encode(self) -> str | bytes:
        if self.kind == "window":
            assert self.shown is not None
            return messages.window_body(self.stream, self.value, self.shown)
        if self.kind == "picture":
            return messages.picture_bytes(self.stream, self.value)
        if self.kind == "status":
            return messages.status_text(self.stream, self.value)
        return messages.alarms_text(self.value)


class Hub:
    """A `pipeline.stream.explained.Viewer` that passes on to all who follow.

    Parameters
    ----------
    streams
        Names of the streams, each once.

    Raises
    ------
    ValueError
        From `shown`, `picture` and `status`, for a stream that isn't one of them.
    """

    def __init__(self, streams: Sequence[str], *, max_viewers: int = MAX_VIEWERS) -> None:
        self.streams = tuple(streams)
        self.max_viewers = max_viewers
        self._index = {name: index for index, name in enumerate(self.streams)}
        self._classes = [ClassHysteresis() for _ in self.streams]
        self._lock = threading.Lock()
        self._latest: dict[tuple[Kind, int], Entry] = {}
        self._alarms: deque[dict[str, Any]] = deque(maxlen=_MAX_ALARMS)
        self._version = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_waking = False
        self._followers: set[asyncio.Event] = set()
        self._is_closed = False

    # Called by the engine, from any thread.

    def shown(self, explained: Explained) -> None:
        """Take an explained window."""
        stream = self._index_of(explained.stream)
        with self._lock:
            shown = self._classes[stream].update(explained.window, explained.top)
            self._put("window", stream, explained, shown)

    def picture(self, picture: Picture) -> None:
        """Take a frame as it plays."""
        self._put_one("picture", picture.stream, picture)

    def status(self, status: StreamStatus) -> None:
        """Take the state of a stream."""
        self._put_one("status", status.stream, status)

    def alarm(self, event: Mapping[str, Any]) -> None:
        """Take an alarm, a mapping of plain values; the newest 50 are shown."""
        with self._lock:
            self._alarms.append(dict(event))
            self._put("alarms", 0, list(self._alarms))

    # Called in the server's thread.

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake followers in this loop from now on."""
        with self._lock:
            self._loop = loop

    def close(self) -> None:
        """Let all followers end."""
        with self._lock:
            self._is_closed = True
            self._wake()

    @property
    def n_viewers(self) -> int:
        """How many follow."""
        return len(self._followers)

    @property
    def is_full(self) -> bool:
        """Whether there are as many viewers as may be."""
        return self.n_viewers >= self.max_viewers

    async def follow(
        self, kinds: Collection[Kind] = KINDS, stream: int | None = None
    ) -> AsyncGenerator[list[Entry], None]:
        """Give what is new, oldest first, each time that there is something; end with the hub.

        The first time, everything that there is. What is replaced before it is asked for is
        skipped.

        Parameters
        ----------
        stream
            Only what belongs to this stream; by default, all of it.
        """
        event = asyncio.Event()
        event.set()
        self._followers.add(event)
        seen = 0
        try:
            while True:
                await event.wait()
                event.clear()
                if self._is_closed:
                    return
                with self._lock:
                    found = [
                        entry
                        for (kind, index), entry in self._latest.items()
                        if entry.version > seen and kind in kinds and stream in (None, index)
                    ]
                    seen = self._version
                if found:
                    yield sorted(found, key=lambda entry: entry.version)
        finally:
            self._followers.discard(event)

    def _put_one(self, kind: Kind, name: str, value: Any) -> None:
        stream = self._index_of(name)
        with self._lock:
            self._put(kind, stream, value)

    def _index_of(self, name: str) -> int:
        if name not in self._index:
            raise ValueError(f"no stream is named {name!r}, expected one of {self.streams}")
        return self._index[name]

    def _put(self, kind: Kind, stream: int, value: Any, shown: ShownClass | None = None) -> None:
        self._version += 1
        self._latest[kind, stream] = Entry(kind, stream, self._version, value, shown)
        self._wake()

    def _wake(self) -> None:
        """Have the loop wake all followers, once for all that is put until it does."""
        if self._loop is None or self._is_waking or self._loop.is_closed():
            return
        self._is_waking = True
        try:
            self._loop.call_soon_threadsafe(self._woken)
        except RuntimeError:  # the loop was closed in between
            self._is_waking = False

    def _woken(self) -> None:
        with self._lock:
            self._is_waking = False
        for event in self._followers:
            event.set()
