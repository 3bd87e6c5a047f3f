"""Log records with fields, as text or as one JSON object a line, in the driver and in workers.

Ray keeps what a worker writes to stderr in a file of the session's folder on its node
(``/tmp/ray/session_latest/logs/worker-*.err``), and the dashboard shows it.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from pipeline.text import printable

LogFormat = Literal["text", "json"]


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """``extra`` of a log call: values that are kept apart from the message, under their names."""
    return {"fields": values}


def set_up_logging(log_format: LogFormat, level: int) -> None:
    """Have this process write the pipeline's log records to stderr; what was set up before goes."""
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
        """One line, and a traceback below it where there is one."""
        head = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}"
        # Names and reasons are others': they may hold what does something to a terminal.
        line = printable(
            " ".join([head, *(f"{key}={value}" for key, value in _fields(record).items())])
        )
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """The same as an object: ``time``, ``level``, ``logger``, ``message``, and each field."""

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


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what stderr is at the time; the handler that `set_up_logging` replaces."""

    def __init__(self) -> None:
        # Not StreamHandler's, which keeps the stderr of now.
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "fields", {})


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
