"""Hold a store, also another tool's, against the convention: ``python -m jobs.validate --help``."""

import sys
from typing import TYPE_CHECKING, Any

from pydantic_settings import CliPositionalArg

from jobs.cli import run_job, writing
from pipeline.base_config import FrozenConfig
from pipeline.errors import ConfigError
from pipeline.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable


class ValidateConfig(FrozenConfig):
    """Hold a store of attributions against the Zarr convention that it declares.

    The exit code is 0 if it keeps the convention, and 1 if something breaks it.
    """

    store: CliPositionalArg[str]
    """The Zarr store, or a run's folder; any fsspec URL."""
    out: str | None = None
    """Folder to make a run of it in, with which jobs.aggregate, jobs.audit and analysis.open_run
    work: for the attributions of another tool."""


def validate(config: ValidateConfig) -> int:
    """Tell what breaks the convention; make a run of the store if that is asked for."""
    from pipeline.store.conforming import problems_of
    from pipeline.store.foreign import take_in
    from pipeline.store.opening import Absent, find_store
    from pipeline.store.run_folder import store_url

    url = config.store
    if not isinstance(find_store(store_url(url)), Absent):
        url = store_url(url)
    problems = problems_of(url, on_rows=bar("validate: read", "rows"))
    for problem in problems:
        print(f"validate: {printable(problem)}")
    if problems:
        print(
            f"validate: error: {url} breaks the convention in {len(problems)} ways",
            file=sys.stderr,
        )
        return 1
    print(f"validate: {url} keeps the convention")
    if config.out is not None:
        if not isinstance(find_store(store_url(config.out)), Absent):
            raise ConfigError(f"out: a store is in {config.out} already: choose another folder")
        with writing("out", config.out):
            made = take_in(url, config.out, on_rows=bar("validate: copy", "rows"))
        print(f"validate: run in {made}")
    return 0


def bar(what: str, unit: str) -> "Callable[[int, int], None]":
    """Give what is told how much is done, and of how much, and shows a bar unless that is all."""
    from pipeline.progress_bar import progress_bar

    bars: list[Any] = []

    def show(done: int, total: int) -> None:
        if done == total and not bars:
            return
        if not bars:
            bars.append(progress_bar(total=total, unit=unit, desc=what))
        bars[0].update(done - bars[0].n)
        if done == total:
            bars[0].close()

    return show


if __name__ == "__main__":
    sys.exit(run_job(ValidateConfig, validate, verb="validate"))
