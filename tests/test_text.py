"""Text as it is printed: nothing that a terminal would act upon, nothing lost unmarked."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.text import LINE_LENGTH, one_line, printable


@given(st.text())
def test_nothing_that_a_terminal_acts_upon_is_left(text):
    cleaned = printable(text)
    assert "\x1b" not in cleaned
    assert len(cleaned.splitlines()) <= 1
    assert not set(cleaned) & set("\x9b\u202e\x07\u2028")
    cleaned.encode()


@given(st.text(st.characters(categories=("L", "N", "P", "S"), include_characters=" ")))
def test_what_can_be_printed_stays(text):
    assert printable(text) == text


@given(st.text(max_size=2000), st.integers(20, 400))
def test_a_line_is_one_and_no_longer_than_asked(text, at_most):
    line = one_line(text, at_most=at_most)
    assert len(line) <= at_most
    assert "\n" not in line


def test_start_and_end_of_a_long_line_stay():
    line = one_line("out: " + "x" * 1000 + "\n  expected a folder")
    assert len(line) == LINE_LENGTH
    assert line.startswith("out: xxx")
    assert line.endswith("xxx expected a folder")
    assert " ... " in line
