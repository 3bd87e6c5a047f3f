"""One progress bar for every job: quick on a terminal, a line now and then in a log."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

_LOG_EVERY_S = 10.0
"""Seconds between lines where the output is a log and not a terminal."""


def progress_bar(
    iterable: Iterable[Any] | None = None, *, total: int, initial: int = 0, unit: str, desc: str
) -> "tqdm[Any]":
    """Show items done, their rate and the time left, around an iterable or updated by hand."""
    return tqdm(
        iterable,
        total=total,
        initial=initial,
        unit=unit,
        desc=desc,
        smoothing=0.1,
        mininterval=0.1 if sys.stderr.isatty() else _LOG_EVERY_S,
        dynamic_ncols=True,
    )
