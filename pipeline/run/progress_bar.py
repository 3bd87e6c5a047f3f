"""Show how far a job is: a bar on a terminal, a line now and then in a log."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from pipeline.logs import fields

_LOG_EVERY_S = 10.0
"""Seconds between lines if the output is a log and not a terminal."""
_LINE = (
    "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
)


def progress_bar(
    iterable: Iterable[Any] | None = None,
    *,
    total: int,
    initial: int = 0,
    unit: str,
    desc: str,
    logger: logging.Logger | None = None,
) -> "tqdm[Any]":
    """Show items done, their rate and the time left; wraps an iterable or is updated by hand.

    With a logger, these are fields of its records, and nothing else is shown.
    """
    shown: dict[str, Any] = {"total": total, "initial": initial, "unit": unit, "desc": desc}
    if logger is not None:
        return _Records(iterable, **shown, mininterval=_LOG_EVERY_S, miniters=0, logger=logger)
    if sys.stderr.isatty():
        return tqdm(iterable, **shown, smoothing=0.1, mininterval=0.1, dynamic_ncols=True)
    return _Lines(iterable, **shown, mininterval=_LOG_EVERY_S, miniters=0, bar_format=_LINE)


@contextmanager
def counted_bar(*, unit: str, desc: str) -> Iterator[Callable[[int, int], None]]:
    """While open, give what shows how much is done when it is called with (done, total).

    What is done in one go needs no bar.
    """
    bars: list[Any] = []

    def show(done: int, total: int) -> None:
        if not bars:
            if done == total:
                return
            bars.append(progress_bar(total=total, unit=unit, desc=desc))
        bars[0].update(done - bars[0].n)

    try:
        yield show
    finally:
        for bar in bars:
            bar.close()


# tqdm is generic in its stubs alone, and can't be subscripted as the program runs.
class _Lines(tqdm):  # type: ignore[type-arg]
    """Writes whole lines: in a log, a bar that redraws itself would pile up in one line."""

    def __init__(self, iterable: Iterable[Any] | None, **kwargs: Any) -> None:
        # With `leave`, tqdm would add a line break when it closes.
        super().__init__(iterable, **kwargs, leave=False)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write the current state, except for the empty message, with which tqdm clears a bar."""
        if msg is None:
            self._write()

    def close(self) -> None:
        """Write the final state."""
        if not self.disable:
            self.display()
        super().close()

    def _write(self) -> None:
        print(self, file=sys.stderr, flush=True)


class _Records(_Lines):
    """Writes log records with fields."""

    def __init__(
        self, iterable: Iterable[Any] | None, *, logger: logging.Logger, **kwargs: Any
    ) -> None:
        self._logger = logger
        self._more: dict[str, Any] = {}
        super().__init__(iterable, **kwargs)

    def set_postfix(
        self, ordered_dict: Any = None, refresh: bool | None = True, **values: Any
    ) -> None:
        """Keep what a bar shows behind the rate as fields."""
        self._more = values

    def _write(self) -> None:
        state = self.format_dict
        done, rate = state["n"] - state["initial"], state["rate"]
        rate = rate or (done / state["elapsed"] if state["elapsed"] else 0.0)
        self._logger.info(
            "progress",
            extra=fields(
                done=state["n"],
                total=state["total"],
                per_second=round(rate, 3),
                seconds_left=round((state["total"] - state["n"]) / rate) if rate else None,
                **self._more,
            ),
        )
