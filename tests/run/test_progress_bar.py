"""Progress as a bar on a terminal, as lines in a log, and as records."""

import io
import logging

from pipeline.run.progress_bar import counted_bar, progress_bar

LOGGER = logging.getLogger("pipeline.test_logs")


def test_a_log_gets_whole_lines_of_progress(capsys):
    with progress_bar(total=20, initial=8, unit="clip", desc="attribute") as bar:
        bar.set_postfix(failed=1, refresh=False)
        bar.update(12)
    text = capsys.readouterr().err
    assert "\r" not in text
    first, *_, last = text.splitlines()
    assert text.endswith("\n")
    assert "" not in text.splitlines()
    assert first.startswith("attribute:  40% 8/20")
    assert last.startswith("attribute: 100% 20/20")
    assert "failed=1" in last


def test_lines_go_around_an_iterable_too(capsys):
    assert list(progress_bar(iter("abc"), total=3, unit="clip", desc="synthesize")) == list("abc")
    assert capsys.readouterr().err.splitlines()[-1].startswith("synthesize: 100% 3/3")


def test_with_a_logger_progress_is_records_alone(pipeline_logger, capsys, caplog):
    caplog.set_level(logging.INFO, logger=LOGGER.name)
    with progress_bar(total=20, initial=8, unit="clip", desc="attribute", logger=LOGGER) as bar:
        bar.set_postfix(failed=1, refresh=False)
        bar.update(12)
    assert capsys.readouterr().err == ""
    last = caplog.records[-1]
    assert last.getMessage() == "progress"
    assert (last.fields["done"], last.fields["total"], last.fields["failed"]) == (20, 20, 1)
    assert last.fields["per_second"] > 0
    assert last.fields["seconds_left"] == 0


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress_bar(total=20, unit="clip", desc="attribute") as bar:
        bar.update(20)
    assert "\rattribute: 100%|" in terminal.getvalue()


def test_a_counted_bar_shows_what_it_is_told_and_nothing_of_what_is_done_in_one_go(capsys):
    with counted_bar(unit="rows", desc="at once") as show:
        show(7, 7)
    assert capsys.readouterr().err == ""
    with counted_bar(unit="rows", desc="read") as show:
        show(3, 7)
        show(7, 7)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("read: 100% 7/7")
