"""Read every object of a run's store: ``python -m jobs.verify --help``."""

import sys
from typing import TYPE_CHECKING, Any

from pydantic_settings import CliPositionalArg

from jobs.cli import run_job
from pipeline.base_config import FrozenConfig
from pipeline.store.run_folder import store_url

if TYPE_CHECKING:
    from tqdm import tqdm

    from pipeline.store.opening import Store
    from pipeline.store.verify import Damage

_N_NAMED = 20


class VerifyConfig(FrozenConfig):
    """Read every object of a run's store, and name what is damaged or lost.

    The exit code is 0 if nothing is, or all of it was repaired, and 1 if something is damaged.
    """

    run: CliPositionalArg[str]
    """Folder of the run, any fsspec URL."""
    repair: bool = False
    """Set the rows of damaged objects pending; the command that made the run then computes them."""


def verify(config: VerifyConfig) -> int:
    """Read the store, say what is damaged, and repair it if that is asked for."""
    from pipeline.progress_bar import progress_bar
    from pipeline.store.opening import open_store
    from pipeline.store.verify import verify_store

    store = open_store(store_url(config.run), mode="r+" if config.repair else "r")
    if not store.layout.checksums:
        print(
            f"verify: {store.url} was written without checksums: a value that was changed on the "
            "disk is seen only if it can't be decoded",
            file=sys.stderr,
        )
    with progress_bar(total=store.layout.n_shards, unit="shard", desc="verify") as bar:
        damages = verify_store(store, on_shard=lambda shard: _advance(bar))
    for damage in damages[:_N_NAMED]:
        print(f"verify: {damage}")
    if len(damages) > _N_NAMED:
        print(f"verify: and {len(damages) - _N_NAMED} more")
    objects = len(store.layout.arrays()) * store.layout.n_shards
    print(f"verify: {len(damages)} damaged of up to {objects} objects in {store.url}")
    if not damages:
        return 0
    return _repair(store, damages, config) if config.repair else _advise(config)


def _advance(bar: "tqdm[Any]") -> None:
    bar.update(1)


def _advise(config: VerifyConfig) -> int:
    print(
        f"verify: error: {config.run} is damaged; jobs.verify {config.run} --repair sets the rows "
        "of damaged objects pending",
        file=sys.stderr,
    )
    return 1


def _repair(store: "Store", damages: "list[Damage]", config: VerifyConfig) -> int:
    from pipeline.store.verify import repair_store

    rows = repair_store(store, damages)
    print(
        f"verify: {len(rows)} rows are pending; the jobs.attribute command that made the run "
        "computes them again"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_job(VerifyConfig, verify, verb="verify"))
