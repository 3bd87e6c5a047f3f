"""Hold a store, also another tool's, against the convention: ``python -m jobs.validate --help``."""

import sys

from pydantic_settings import CliPositionalArg

from jobs.cli import run_job, writing
from pipeline.base_config import FrozenConfig
from pipeline.errors import ConfigError
from pipeline.text import printable


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
    from pipeline.run.progress_bar import counted_bar
    from pipeline.store.conforming import problems_of
    from pipeline.store.foreign import take_in
    from pipeline.store.opening import Absent, find_store
    from pipeline.store.run_folder import store_url

    url = config.store
    if not isinstance(find_store(store_url(url)), Absent):
        url = store_url(url)
    with counted_bar(unit="rows", desc="validate: read") as show:
        problems = problems_of(url, on_rows=show)
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
        with writing("out", config.out), counted_bar(unit="rows", desc="validate: copy") as show:
            made = take_in(url, config.out, on_rows=show)
        print(f"validate: run in {made}")
    return 0


if __name__ == "__main__":
    sys.exit(run_job(ValidateConfig, validate, verb="validate"))
