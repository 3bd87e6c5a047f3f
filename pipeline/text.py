"""Text as it is printed: on one line, without characters that would do something to a terminal."""

import re

LINE_LENGTH = 300
"""Characters of an error's line at the most."""

_UNPRINTABLE = re.compile(
    # Controls (C0, C1, delete), separators of lines, marks of direction, halves of surrogates: a
    # name that has them could clear a screen, forge a line, or show itself backwards.
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Tell each unprintable character by its number, as in Python's own texts."""
    return _UNPRINTABLE.sub(_escaped, text)


def one_line(text: str, *, at_most: int = LINE_LENGTH) -> str:
    """Put a text on one line; of a long one the middle goes.

    What was expected stands at the end of a message, and what is meant at its start.
    """
    line = printable(" ".join(part.strip() for part in text.splitlines() if part.strip()))
    if len(line) <= at_most:
        return line
    mark = " ... "
    n_end = (at_most - len(mark)) // 2
    return line[: at_most - len(mark) - n_end] + mark + line[-n_end:]


def _escaped(found: "re.Match[str]") -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"
