"""Read every object of a run's store: ``python -m jobs.verify --help``."""

import sys
from typing import TYPE_CHECKING, Any

from pydantic import Field

from jobs.cli import RunWriter, owned_run, run_job
from pipeline.text import printable

if TYPE_CHECKING:
    from tqdm import tqdm

    from pipeline.store.lease import Lease
    from pipeline.store.opening import Store
    from pipeline.store.verify import Damage

_N_NAMED = 20


class VerifyConfig(RunWriter):
    """Read every object of a run's store, and name what is damaged or lost.

    The exit code is 0 if nothing is, or all of it was repaired, and 1 if something is damaged, or
    still is after repairs.
    """

    repair: bool = False
    """Set the rows of damaged objects pending; the command that made the run then computes them."""
    sample: int = Field(default=0, ge=0)
    """Also compute so many rows again, drawn at random, and hold their bits against what is stored;
    needs the run's model, manifest and clips. Another kind of device, or other versions of
    libraries, may give other last bits."""


def verify(config: VerifyConfig) -> int:
    """Read the store, say what is damaged, and repair it if that is asked for."""
    from pipeline.store.opening import open_store
    from pipeline.store.run_folder import store_url

    if config.repair:
        with owned_run(config, "verify --repair") as (store, lease):
            return _verify(config, store, lease)
    return _verify(config, open_store(store_url(config.run)), None)


def _verify(config: VerifyConfig, store: "Store", lease: "Lease | None") -> int:
    if not store.layout.checksums:
        print(
            f"verify: {store.url} was written without checksums: a value that was changed on the "
            "disk is seen only if it can't be decoded",
            file=sys.stderr,
        )
    damages = _read(store)
    if damages:
        if lease is None:
            return _advise(config)
        if _repair(config, store, damages, lease):
            return 1
    return _compare(config, store) if config.sample else 0


def _read(store: "Store") -> "list[Damage]":
    """Read the store and say what is damaged."""
    from pipeline.run.progress_bar import progress_bar
    from pipeline.store.verify import verify_store

    with progress_bar(total=store.layout.n_shards, unit="shard", desc="verify") as bar:
        damages = verify_store(store, on_shard=lambda shard: _advance(bar))
    for damage in damages[:_N_NAMED]:
        print(f"verify: {damage}")
    if len(damages) > _N_NAMED:
        print(f"verify: and {len(damages) - _N_NAMED} more")
    objects = len(store.layout.arrays()) * store.layout.n_shards
    print(f"verify: {len(damages)} damaged of up to {objects} objects in {store.url}")
    return damages


def _advance(bar: "tqdm[Any]") -> None:
    bar.update(1)


def _advise(config: VerifyConfig) -> int:
    print(
        f"verify: error: {config.run} is damaged; with --repair, jobs.verify sets the rows of "
        "damaged objects pending",
        file=sys.stderr,
    )
    return 1


def _repair(
    config: VerifyConfig, store: "Store", damages: "list[Damage]", lease: "Lease"
) -> "list[Damage]":
    """Repair the store: what is damaged still."""
    from pipeline.store.verify import repair_all

    repair = repair_all(store, damages, verify=_read, check=lease.check)
    print(
        f"verify: {len(repair.rows)} rows are pending; the jobs.attribute command that made the "
        "run computes them again"
    )
    if repair.left:
        print(
            f"verify: error: {config.run} is damaged still, after each repair: "
            f"{len(repair.left)} objects, the first is {repair.left[0].url}",
            file=sys.stderr,
        )
    return repair.left


def _compare(config: VerifyConfig, store: "Store") -> int:
    """Compute a sample of rows again: 1 if any isn't what is stored."""
    import numpy as np

    from pipeline.run.recompute import plan_again, recompute, sample_rows
    from pipeline.store.opening import open_store

    store = open_store(store.url)
    rows = sample_rows(store, config.sample, np.random.default_rng())
    found = recompute(plan_again(config.run, store), store, rows)
    for difference in found[:_N_NAMED]:
        print(f"verify: {printable(str(difference))}")
    print(f"verify: {len(rows) - len(found)} of {len(rows)} rows have equal bits, computed again")
    if not found:
        return 0
    print(
        f"verify: error: {len(found)} of {len(rows)} rows of {config.run} are not what is computed "
        "now; the run was made with "
        + ", ".join(f"{name} {version}" for name, version in _made_with(store)),
        file=sys.stderr,
    )
    return 1


def _made_with(store: "Store") -> list[tuple[str, str]]:
    """Give packages whose version was another one when the run was made; all, where none was."""
    from importlib.metadata import PackageNotFoundError, version

    def now(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return ""

    packages = sorted(store.record.packages.items())
    return [(name, there) for name, there in packages if now(name) != there] or packages


if __name__ == "__main__":
    sys.exit(run_job(VerifyConfig, verify, verb="verify"))
