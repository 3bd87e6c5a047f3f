"""One model for many streams: batches of the newest windows, latest wins.

Each stream has a place for one window that is due. A newer one takes the place of one that still
waits, which is counted as skipped: whatever the model's speed, neither memory nor age grows.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from pipeline.clips.columns import DIGEST_BYTES, Columns
from pipeline.status import Status
from pipeline.stream.explained import Explained, Picture, StreamStatus, Viewer
from pipeline.stream.feed import Backoff, Feed, Listener
from pipeline.stream.health import Patience
from pipeline.stream.source import Source
from pipeline.stream.windows import Window, WindowPlan

STATUS_S = 0.5
"""Between two looks at the streams' states."""
_RATE_S = 10.0
"""Over which the rate of explained windows is taken."""

_LOGGER = logging.getLogger(__name__)

Explain = Callable[[Columns], Columns]
"""As `pipeline.models.attributor.Attributor`."""


class Recorder(Protocol):
    """Who keeps explained windows. No call blocks while streams are played."""

    def record(self, window: Window, columns: Columns) -> None:
        """Take a window, and its row: the store's columns, each of one row."""


@dataclass
class _Stream:
    """What the engine knows of a stream."""

    feed: Feed
    waiting: Window | None = None
    n_explained: int = 0
    n_skipped: int = 0
    """Windows that a newer one took the place of."""
    n_failed: int = 0
    """Windows for which the model gave NaN or infinity."""
    newest_s: float | None = None
    """When the newest frame of the newest map was received."""
    explained_s: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    told: tuple[Any, ...] = ()
    """State that was told last."""

    @property
    def skipped(self) -> int:
        """Windows that were due and weren't explained, whatever the reason."""
        return self.n_skipped + self.n_failed + self.feed.n_too_short


@dataclass(frozen=True)
class Settings:
    """How an engine works.

    Attributes
    ----------
    batch_size
        Windows in one forward pass at most; of more, the longest waiting come first.
    paced
        Whether files are played at their own speed. Else each window is waited for: a file is gone
        through as fast as the model is, and nothing is skipped.
    """

    batch_size: int = 8
    paced: bool = True
    patience: Patience = field(default_factory=Patience)
    backoff: Backoff = field(default_factory=Backoff)


class Engine:
    """Explains the windows of several sources with one model.

    Parameters
    ----------
    explain
        The model.
    class_names
        Of the model, for what is shown.
    viewers
        Are given windows, pictures and states, see `Viewer`.
    recorder
        Keeps windows; None if they aren't kept.
    event
        Is told what happens: the stream, the kind, and particulars.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        plan: WindowPlan,
        explain: Explain,
        class_names: Sequence[str],
        *,
        viewers: Sequence[Viewer] = (),
        recorder: Recorder | None = None,
        event: Callable[[str, str, dict[str, Any]], None] = lambda stream, kind, values: None,
        settings: Settings | None = None,
    ) -> None:
        self._settings = settings or Settings()
        self._explain, self._class_names = explain, tuple(class_names)
        self._viewers, self._recorder, self._event = tuple(viewers), recorder, event
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._streams: dict[str, _Stream] = {}
        for source in sources:
            listener = Listener(self._offer, self._show_picture, self._event)
            feed = Feed(
                source,
                plan,
                listener,
                paced=self._settings.paced,
                patience=self._settings.patience,
                backoff=self._settings.backoff,
            )
            self._streams[source.name] = _Stream(feed)

    def run(self) -> None:
        """Explain what the sources give, until all have ended or `stop` is called.

        Errors of the model are raised as they are.
        """
        for stream in self._streams.values():
            stream.feed.start()
        watching = threading.Thread(target=self._watch, name="stream-states", daemon=True)
        watching.start()
        try:
            while not self._stop.is_set():
                # Before the windows are looked for: the last ones come before a source has ended.
                ended = all(stream.feed.has_ended for stream in self._streams.values())
                if batch := self._next_batch():
                    self._explain_batch(batch)
                elif ended:
                    break
        finally:
            self.stop()
            for stream in self._streams.values():
                stream.feed.close()
            watching.join(2 * STATUS_S)
            self._tell_states()

    def stop(self) -> None:
        """Have `run` return after the batch that is being explained."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()

    @property
    def broken_off(self) -> list[str]:
        """Names of the streams whose file couldn't be read to its end."""
        return [name for name, stream in self._streams.items() if stream.feed.broke_off]

    def _offer(self, window: Window) -> None:
        """Take a window that is due, in the thread of its source."""
        stream = self._streams[window.stream]
        with self._changed:
            while not self._settings.paced and stream.waiting is not None:
                if self._stop.is_set():
                    return
                self._changed.wait(STATUS_S)
            if stream.waiting is not None:
                stream.n_skipped += 1
            stream.waiting = window
            self._changed.notify_all()

    def _next_batch(self) -> list[Window]:
        """Take the windows that wait, those of the oldest frames first; wait a little for one."""
        with self._changed:
            if not any(stream.waiting for stream in self._streams.values()):
                self._changed.wait(0.1)
            waiting = [s.waiting for s in self._streams.values() if s.waiting is not None]
            waiting.sort(key=lambda window: window.cut.newest_s)
            batch = waiting[: self._settings.batch_size]
            for window in batch:
                self._streams[window.stream].waiting = None
            if batch and not self._settings.paced:
                self._changed.notify_all()
        return batch

    def _explain_batch(self, batch: Sequence[Window]) -> None:
        columns = self._explain(model_input(batch))
        now = time.monotonic()
        for place, window in enumerate(batch):
            stream = self._streams[window.stream]
            row = {name: values[place : place + 1] for name, values in columns.items()}
            if self._recorder is not None:
                self._recorder.record(window, row)
            if row["status"][0] != Status.OK:
                stream.n_failed += 1
                reason = str(row["message"][0])
                self._event(window.stream, "failed", {"window": window.number, "reason": reason})
                continue
            stream.n_explained += 1
            stream.newest_s = window.cut.newest_s
            stream.explained_s.append(now)
            explained = self._explained(window, row, stream)
            for viewer in self._viewers:
                viewer.shown(explained)

    def _explained(self, window: Window, row: Columns, stream: _Stream) -> Explained:
        ranks = zip(row["top_classes"][0], row["top_probabilities"][0], strict=True)
        return Explained(
            stream=window.stream,
            window=window.number,
            start_s=window.start_s,
            end_s=window.end_s,
            frame_time_s=window.frame_time_s,
            spatial=row["spatial"][0].astype(np.float32),
            temporal=row["temporal"][0].astype(np.float32),
            top=tuple((self._class_names[index], float(p)) for index, p in ranks),
            newest_frame_s=window.cut.newest_s,
            n_skipped=stream.skipped,
            n_frames_dropped=stream.feed.n_dropped,
        )

    def _show_picture(self, picture: Picture) -> None:
        for viewer in self._viewers:
            viewer.picture(picture)

    def _watch(self) -> None:
        while not self._stop.wait(STATUS_S):
            self._tell_states()

    def _tell_states(self) -> None:
        for status in self.states():
            stream = self._streams[status.stream]
            if (told := (status.state,)) != stream.told:
                stream.told = told
                values = {"state": str(status.state), "reason": status.reason}
                self._event(status.stream, "state", values)
            for viewer in self._viewers:
                viewer.status(status)

    def states(self) -> list[StreamStatus]:
        """Say how each stream is doing now."""
        now = time.monotonic()
        states = []
        for name, stream in self._streams.items():
            state, reason = stream.feed.health.state(now)
            rate = explained_per_s(tuple(stream.explained_s), now)
            age = None if stream.newest_s is None else now - stream.newest_s
            states.append(
                StreamStatus(name, state, reason, age, stream.n_explained, stream.skipped, rate)
            )
        return states


def explained_per_s(at_s: Sequence[float], now_s: float) -> float:
    """Rate of windows of late, from when the newest were explained, the oldest first.

    If these don't reach back far enough, as of a stream that has just begun or one that is very
    fast, it is what came behind the oldest over the time since it.
    """
    if not at_s:
        return 0.0
    since_oldest_s = now_s - at_s[0]
    if since_oldest_s < _RATE_S:
        return (len(at_s) - 1) / since_oldest_s if since_oldest_s > 0 else 0.0
    return sum(now_s - at <= _RATE_S for at in at_s) / _RATE_S


def model_input(batch: Sequence[Window]) -> Columns:
    """Columns of windows as `pipeline.clips.loader.ClipLoader` gives those of clips."""
    n_windows = len(batch)
    return {
        "row": np.arange(n_windows, dtype=np.int64),
        "video_id": np.array([window_id(window) for window in batch], object),
        "start_time": np.array([window.start_s for window in batch]),
        "label": np.full(n_windows, -1, np.int32),
        "frames": np.stack([np.stack(window.cut.frames) for window in batch]),
        "frame_index": np.stack([window.cut.frame_index for window in batch]),
        "frame_time": np.stack([window.frame_time_s for window in batch]),
        "clip_digest": np.zeros((n_windows, DIGEST_BYTES), np.uint8),
        "status": np.full(n_windows, Status.OK, np.uint8),
        "message": np.full(n_windows, "", object),
    }


def window_id(window: Window) -> str:
    """Name a window in manifests and stores."""
    return f"{window.stream}-{window.number:08d}"
