"""Log records with fields, as text or as one JSON object per line, in the driver and in workers.

Ray keeps a worker's stderr in a file on its node (``/tmp/ray/session_latest/logs/worker-*.err``),
and the dashboard shows it.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from pipeline.text import printable

LogFormat = Literal["text", "json"]


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """Make the ``extra`` of a log call: named values that are kept apart from the message."""
    return {"fields": values}


def set_up_logging(log_format: LogFormat, level: int) -> None:
    """Write this process's log records of the pipeline to stderr, in place of any earlier setup."""
    logger = logging.getLogger("pipeline")
    for handler in logger.handlers:
        if isinstance(handler, _Handler):
            logger.removeHandler(handler)
    handler = _Handler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logger.addHandler(handler)
    logger.setLevel(level)


class TextFormatter(logging.Formatter):
    """Time, level, logger, message, and the fields as ``key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, with a traceback below it if there is one."""
        head = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}"
        # Names and reasons come from elsewhere and may hold codes that a terminal obeys.
        line = printable(
            " ".join([head, *(f"{key}={value}" for key, value in _fields(record).items())])
        )
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """The same as one object: ``time``, ``level``, ``logger``, ``message``, and each field."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        values = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return json.dumps(values)


# Handlers of streams are generic in the stubs alone.
class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever stderr is at the time; `set_up_logging` replaces this handler."""

    def __init__(self) -> None:
        # Skip StreamHandler's, which would keep the stderr of this moment.
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "fields", {})


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
