"""Keeps explained windows in stores, in a thread of its own: whoever explains never waits for it.

If the storage is slower than the streams, or away, what waits is bounded; what doesn't fit is left
out, counted and told.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import numpy as np

from pipeline.clips.columns import Columns
from pipeline.errors import LeaseLostError, StaaError, StorageError, reason_of
from pipeline.storage.files import open_filesystem, write_bytes
from pipeline.storage.retries import with_retries
from pipeline.store.lease import Lease
from pipeline.store.run_folder import in_run
from pipeline.stream.session import Row, Session
from pipeline.stream.sessions import ENDED_NAME, ended_note, retain
from pipeline.stream.windows import Window
from pipeline.text import one_line, without_credentials

MAX_SHARDS_WAITING = 4
"""Windows that wait to be written, in shards; more are left out."""
_LOOK_S = 0.2
_MOST_TRIES = 150
"""Tries of a shard for which windows wait, some 30 s beside the storage's own patience."""
_RETAIN_S = 300.0
_LOGGER = logging.getLogger(__name__)

Event = Callable[[str, str, dict[str, Any]], None]


@dataclass(frozen=True)
class Terms:
    """How windows are kept.

    Attributes
    ----------
    flush_s
        Time after which a shard is committed that isn't full.
    session_s
        Length of a session.
    keep_s, keep_bytes
        As `retain` says.
    clips
        Whether the frames that the model saw are kept as small videos.
    waits
        Whether windows wait for a storage that is slower, and none is left out: for files that are
        gone through as fast as may be.
    """

    rows_per_shard: int = 64
    flush_s: float = 30.0
    session_s: float = 3600.0
    keep_s: float | None = None
    keep_bytes: int | None = None
    clips: bool = False
    waits: bool = False


@dataclass
class Recording:
    """Writes windows to one session after the other.

    Parameters
    ----------
    begin
        Makes the next session, in a folder of its own.
    sources
        URL of each stream, as it may be shown.
    """

    out: str
    begin: Callable[[], Session]
    sources: dict[str, str]
    terms: Terms
    event: Event = lambda stream, kind, values: None
    lease: Lease | None = None
    """Held by whoever may write to ``out``; None if it has no owner."""
    gave_up: Callable[[], None] = lambda: None
    """Called when nothing more can be kept: the folder is somebody else's, or its storage stayed
    away while windows waited for it."""
    retain_s: float = _RETAIN_S
    """Time between two looks for sessions that are kept no longer."""
    n_lost: int = 0
    """Windows that were left out."""
    n_written: int = 0
    sessions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[Window, Columns]] = []
        self._trying: list[tuple[Window, Columns]] = []
        """The shard that couldn't be committed yet: it stays what it is."""
        self._closing = False
        self._session: Session | None = None
        self._session_since_s = 0.0
        self._retained_s = 0.0
        self._since_s: float | None = None
        self._fault = ""
        self._is_lost = False
        self._n_tries = 0
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)

    def start(self) -> None:
        """Begin the first session, and the thread; raises as ``begin`` and a lost lease do."""
        self._begin_session()
        self._thread.start()

    def record(self, window: Window, columns: Columns) -> None:
        """Take a window; never waits, unless that is asked for."""
        most = MAX_SHARDS_WAITING * self.terms.rows_per_shard
        if not self.terms.clips:
            # Frames of windows that wait for hours would be gigabytes.
            window = replace(window, cut=replace(window.cut, frames=()))
        with self._changed:
            while self.terms.waits and len(self._waiting) >= most and self._thread.is_alive():
                self._changed.wait(_LOOK_S)
            if len(self._waiting) >= most:
                self.n_lost += 1
                return
            if not self._waiting:
                self._since_s = time.monotonic()
            self._waiting.append((window, columns))
            if len(self._waiting) >= self.terms.rows_per_shard:
                self._changed.notify_all()

    def close(self) -> None:
        """Write what waits, and leave the session complete.

        Raises
        ------
        StorageError
            If what waits can't be written.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        if self._fault:
            raise StorageError(self._fault)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait(_LOOK_S)
                rows = self._due()
                closing = self._closing
            if rows:
                self._write(rows)
            elif closing:
                break
            elif time.monotonic() - self._retained_s > self.retain_s and not self._fault:
                self._guarded(self._retain)
            if self._is_lost:
                self.gave_up()
                # The folder is somebody else's: nothing more is written or deleted there.
                return
            if self.terms.waits and self._n_tries > _MOST_TRIES:
                self.gave_up()
                break
            if closing and self._fault:
                break
        fault = self._fault
        self._guarded(self._end_session)
        self._fault = fault or self._fault

    def _due(self) -> list[tuple[Window, Columns]]:
        """Give the rows of the shard that is to be committed now; nothing if none is."""
        if self._trying:
            return self._trying
        full = len(self._waiting) >= self.terms.rows_per_shard
        waited_s = time.monotonic() - self._since_s if self._since_s is not None else 0.0
        if not self._waiting or not (full or self._closing or waited_s >= self.terms.flush_s):
            return []
        return self._waiting[: self.terms.rows_per_shard]

    def _write(self, rows: list[tuple[Window, Columns]]) -> None:
        """Commit a shard; the same one is tried again while that fails."""
        if not self._guarded(lambda: self._commit(rows)):
            self._trying = rows
            self._n_tries += 1
            # Before the next try: a storage that is away isn't there again at once.
            time.sleep(_LOOK_S)
            return
        self._trying, self._n_tries = [], 0
        self.n_written += len(rows)
        with self._changed:
            del self._waiting[: len(rows)]
            self._since_s = time.monotonic() if self._waiting else None
            self._changed.notify_all()

    def _commit(self, rows: list[tuple[Window, Columns]]) -> None:
        if self.lease is not None:
            self.lease.check()
        if time.monotonic() - self._session_since_s > self.terms.session_s:
            self._end_session()
            self._begin_session()
        session = self._session
        assert session is not None
        session.commit([self._row(session, window, columns) for window, columns in rows])
        self.event("", "committed", {"session": session.url, "rows": len(rows)})

    def _guarded(self, step: Callable[[], None]) -> bool:
        """Carry out what a storage may refuse; it is told once, and whether it went well."""
        try:
            step()
        except (StaaError, StorageError, OSError) as error:
            self._is_lost = isinstance(error, LeaseLostError)
            said = str(error)
            if not isinstance(error, StaaError | StorageError):
                # What the system says names no folder, or one that it was written to beside it.
                said = f"can't write to {self.out}: {reason_of(error)}"
            fault = one_line(without_credentials(said))
            if fault != self._fault:
                self.event("", "storage", {"reason": fault})
                _LOGGER.warning("windows can't be kept: %s", fault)
            self._fault = fault
            return False
        except Exception as error:
            # What isn't foreseen must not end the thread without a word.
            _LOGGER.exception("recording failed")
            self._fault = f"recording failed: {type(error).__name__}"
            return False
        self._fault = ""
        return True

    def _begin_session(self) -> None:
        self._session = self.begin()
        self._session_since_s = time.monotonic()
        self.sessions.append(self._session.url)
        self._retain()

    def _retain(self) -> None:
        """Delete what is to be kept no longer; windows are kept whether that succeeds or not.

        Raises
        ------
        LeaseLostError
            If the folder, and what is deleted there, is somebody else's.
        """
        if self._session is None:
            return
        self._retained_s = time.monotonic()
        terms, current = self.terms, self._session.url
        try:
            if self.lease is not None:
                self.lease.check()
            deleted = retain(self.out, current, age_s=terms.keep_s, n_bytes=terms.keep_bytes)
        except LeaseLostError:
            raise
        except Exception as error:
            # It is tried again, and is no reason to say that windows can't be kept.
            reason = one_line(without_credentials(str(error) or reason_of(error)))
            _LOGGER.warning("old sessions can't be deleted: %s", reason)
            return
        for url in deleted:
            self.event("", "deleted", {"session": url})

    def _end_session(self) -> None:
        if self._session is None:
            return
        self._session.close()
        write_bytes(in_run(self._session.url, ENDED_NAME), ended_note(datetime.now(UTC)))
        self._session = None

    def _row(self, session: Session, window: Window, columns: Columns) -> Row:
        clip = None
        if self.terms.clips:
            clip = f"clips/{window.stream}/{window.number:08d}.mp4"
            write_clip(in_run(session.url, clip), window)
        received_s = time.time() - (time.monotonic() - window.cut.newest_s)
        return Row(
            columns,
            {
                "video_id": str(columns["video_id"][0]),
                "path": session.paths.of_stream[window.stream],
                "start_time": window.start_s,
                "end_time": window.end_s,
                "stream": window.stream,
                "source": self.sources[window.stream],
                "window": window.number,
                "received": round(received_s, 3),
                "clip": clip,
            },
        )


def write_clip(url: str, window: Window) -> None:
    """Write the frames that the model saw as an MP4 that plays as long as the window."""
    import io

    import av

    times = window.frame_time_s
    gap_s = float(np.diff(times).mean()) if len(times) > 1 else 1.0
    written = io.BytesIO()
    with av.open(written, "w", format="mp4") as container:
        rate = Fraction(1 / max(gap_s, 1e-3)).limit_denominator(1000)
        stream = container.add_stream("libx264", rate=rate)
        height, width = window.cut.frames[0].shape[:2]
        stream.height, stream.width = height // 2 * 2, width // 2 * 2
        stream.pix_fmt = "yuv420p"
        for image in window.cut.frames:
            even = image[: height // 2 * 2, : width // 2 * 2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode(None))
    filesystem, path = open_filesystem(url)
    with_retries(url, lambda: filesystem.makedirs(path.rpartition("/")[0], exist_ok=True))
    write_bytes(url, written.getvalue())
