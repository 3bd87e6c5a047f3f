"""Text as it is printed: one line, of bounded length, that does nothing to a terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text import LINE_LENGTH, one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü \N{EN DASH} 视频.mp4", "plain ü \N{EN DASH} 视频.mp4"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("fdp\u202e4pm.exe", r"fdp\u202e4pm.exe"),
        ("a\tb", r"a\x09b"),
        ("half \ud800", r"half \ud800"),
    ],
)
def test_what_would_do_something_is_told_by_its_number(text, shown):
    assert printable(text) == shown


@given(st.text())
def test_no_control_character_is_left_and_nothing_else_is_changed(text):
    shown = printable(text)
    assert not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in shown)
    assert shown.isascii() or shown.encode()
    assert printable(shown) == shown


@given(st.text(), st.integers(20, 100))
def test_a_line_is_one_and_no_longer_than_it_may_be(text, at_most):
    line = one_line(text, at_most=at_most)
    assert len(line) <= at_most
    assert len(line.splitlines()) <= 1


def test_of_a_long_line_start_and_end_are_kept():
    line = one_line("manifest: " + "x" * 1000 + " expected a path")
    assert len(line) == LINE_LENGTH
    assert line.startswith("manifest: xxx")
    assert line.endswith("xxx expected a path")
    assert " ... " in line


def test_lines_are_joined_and_empty_ones_go():
    assert one_line("  first\n\n   second \r\n third") == "first second third"
