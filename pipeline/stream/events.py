"""What happens, as JSON lines: one object a line, with the time, the stream and the kind."""

import json
import logging
import os
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.logs import fields
from pipeline.text import without_credentials

MAX_BYTES = 50_000_000
"""Size at which the file is begun again, with the one before kept beside it as ``.1``."""

_LOGGER = logging.getLogger(__name__)


class Events:
    """Writes events to a file, and to the log.

    Parameters
    ----------
    path
        A file on this machine, to which lines are added; None for the log alone.
    """

    def __init__(self, path: Path | None = None, *, max_bytes: int = MAX_BYTES) -> None:
        self._path, self._max_bytes = path, max_bytes
        self._lock = threading.Lock()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def tell(self, stream: str, kind: str, values: dict[str, Any]) -> None:
        """Tell an event; ``stream`` is empty for what concerns all of them."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "event": kind, **({"stream": stream} if stream else {}), **values}
        text = without_credentials(json.dumps(line, default=str))
        shown = {name: value for name, value in json.loads(text).items() if name != "time"}
        _LOGGER.info("%s", kind, extra=fields(**shown))
        if self._path is None:
            return
        with self._lock:
            try:
                self._append(self._path, f"{text}\n".encode())
            except OSError as error:
                # A full disk must not end what is explained.
                _LOGGER.warning("events can't be written: %s", error.strerror)

    def _append(self, path: Path, line: bytes) -> None:
        # It isn't there once somebody has moved it away, as rotation of logs does.
        with suppress(FileNotFoundError):
            if path.stat().st_size > self._max_bytes:
                path.replace(path.with_name(f"{path.name}.1"))
        with path.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                # A disk that was full, or a machine that was switched off, leaves a part of a line.
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)
