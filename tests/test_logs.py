"""Log records with fields, as text and as JSON."""

import contextlib
import io
import json
import logging
from datetime import datetime

import pytest

from pipeline.logs import fields, set_up_logging

LOGGER = logging.getLogger("pipeline.test_logs")


def test_text_has_time_level_logger_message_and_fields(pipeline_logger, capsys):
    set_up_logging("text", logging.INFO)
    LOGGER.info("shard %d committed", 3, extra=fields(run="demo", rows=256))
    time, rest = capsys.readouterr().err.rstrip("\n").split(" ", 1)
    assert datetime.fromisoformat(time).utcoffset() is not None
    assert rest == "INFO pipeline.test_logs: shard 3 committed run=demo rows=256"


def test_json_is_one_object_a_line_whatever_the_text(pipeline_logger, capsys):
    set_up_logging("json", logging.INFO)
    LOGGER.warning('a "name"\nof two lines', extra=fields(run="demo", rows=256))
    (line,) = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    del record["time"]
    assert record == {
        "level": "WARNING",
        "logger": "pipeline.test_logs",
        "message": 'a "name"\nof two lines',
        "run": "demo",
        "rows": 256,
    }


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_exception_is_kept(pipeline_logger, capsys, log_format):
    set_up_logging(log_format, logging.INFO)
    try:
        raise ValueError("broken")
    except ValueError:
        LOGGER.exception("failed")
    shown = capsys.readouterr().err
    assert "ValueError: broken" in (
        json.loads(shown)["exception"] if log_format == "json" else shown
    )


def test_setting_up_again_replaces_what_was_set_up(pipeline_logger, capsys):
    set_up_logging("text", logging.INFO)
    set_up_logging("json", logging.WARNING)
    LOGGER.info("not shown")
    LOGGER.warning("shown once")
    assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == [
        "shown once"
    ]


def test_what_takes_the_place_of_stderr_gets_the_records(pipeline_logger):
    set_up_logging("text", logging.INFO)
    stream = io.StringIO()
    with contextlib.redirect_stderr(stream):
        LOGGER.info("heard")
    assert stream.getvalue().endswith("INFO pipeline.test_logs: heard\n")
