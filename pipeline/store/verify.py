"""Reads every object of a store, names what is damaged or lost, and sets such rows pending.

A chunk carries a checksum and is written also where it holds nothing but fill values
(`StoreLayout.checksums`). So an object that can't be decoded is damaged, and one that isn't there
is lost. An earlier store has neither: only an object that can't be decoded is seen in it, and an ok
clip that has no attribution.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.common import concurrent_map
from zarr.core.sync import sync

from pipeline.errors import StoreError, reason_of
from pipeline.status import Status
from pipeline.storage.files import delete_file
from pipeline.store.append import finish_append
from pipeline.store.create import create_array, unconsolidate
from pipeline.store.opening import DAMAGE, STORAGE_ERRORS, Store, open_store

REMEDY = "jobs.verify names all damage, and with --repair sets such rows pending"
"""End of every message of a damaged store. It doesn't repeat where, so that a long path leaves it
whole."""

_N_READERS = 8
"""Shards that are read at once: the time is that of the storage's answers."""
_N_REPAIRS = 4
"""How often a store is repaired: metadata, then what they describe, and the rest in reserve."""


@dataclass(frozen=True)
class Damage:
    """An object of a store that can't be used."""

    url: str
    """Where the object is, or should be."""
    array: str
    shard: int | None
    """None for an array's metadata, which every shard needs."""
    rows: range | None
    """Rows whose values the object holds."""
    reason: str

    def __str__(self) -> str:
        rows = f", rows {self.rows.start} to {self.rows.stop - 1}" if self.rows else ""
        return f"{self.url}{rows}: {self.reason}"


def lost_attributions_error(where: str, classes: Sequence[str] = ()) -> StoreError:
    """Say of a run that ok clips of it have no attribution.

    Parameters
    ----------
    where
        The run's URL.
    classes
        Classes of these clips, where they are known.
    """
    of = f" of {', '.join(name[:40] for name in classes[:3])}" if classes else ""
    return StoreError(f"{where} has lost objects: ok clips{of} have no attribution; {REMEDY}")


def verify_store(
    store: Store, *, on_shard: Callable[[int], None] = lambda shard: None
) -> list[Damage]:
    """Read everything that is committed.

    Parameters
    ----------
    on_shard
        Is told of each shard that was read, in order.

    Returns
    -------
    What is damaged or lost, array by array and shard by shard. Objects of an array whose metadata
    are damaged aren't looked at, and none at all where those of ``status`` are: see `repair_all`.

    Raises
    ------
    StorageError
        If the storage stays away.
    """
    metadata = list(_damaged_metadata(store))
    readable = store.layout.arrays().keys() - {damage.array for damage in metadata}
    if "status" not in readable:
        return metadata
    damages = list(metadata)
    with ThreadPoolExecutor(_N_READERS) as pool:
        shards = range(store.layout.n_shards)
        found = pool.map(lambda shard: _damages_of(store, shard, sorted(readable)), shards)
        for shard, of_shard in zip(shards, found, strict=True):
            damages += of_shard
            on_shard(shard)
    return damages


def check_store(store: Store) -> None:
    """Read everything that is committed.

    Raises
    ------
    StoreError
        Names the first object that is damaged or lost, and says how many are.
    """
    if damages := verify_store(store):
        more = f", and {len(damages) - 1} more" if len(damages) > 1 else ""
        raise StoreError(f"{damages[0]}{more}; {REMEDY}")


def repair_store(store: Store, damages: list[Damage]) -> NDArray[np.int64]:
    """Set the rows of damaged objects pending, so that the command that made the run goes on.

    An object that can't be decoded is deleted first: cut off in between, the next `verify_store`
    finds it lost. Metadata of an array are written again from the template.

    Returns
    -------
    Rows that are pending now, in order

    Raises
    ------
    StoreError
        If the storage refuses.
    StorageError
        If it stays away.
    """
    layout = store.layout
    try:
        for damage in damages:
            delete_file(damage.url)
            if damage.shard is None:
                create_array(store.group, damage.array, layout.arrays()[damage.array], layout)
        # Arrays are opened once in a store, and some have new metadata.
        reopened = open_store(store.url, mode="r+")
        if damages:
            unconsolidate(reopened)
        shards = sorted({damage.shard for damage in damages if damage.shard is not None})
        for shard in shards:
            rows = layout.shard_rows(shard)
            reopened.array("status")[rows.start : rows.stop] = _repaired(reopened, rows)
    except STORAGE_ERRORS as error:
        raise StoreError(f"can't repair {store.url}: {reason_of(error)}") from error
    if not shards:
        return np.empty(0, np.int64)
    rows_of = [np.asarray(layout.shard_rows(shard), np.int64) for shard in shards]
    return np.concatenate(
        [
            rows[reopened.array("status")[rows[0] : rows[-1] + 1] == Status.PENDING]
            for rows in rows_of
        ]
    )


@dataclass(frozen=True)
class Repair:
    """What became of a damaged store."""

    rows: NDArray[np.int64]
    """Rows that are pending now, in order."""
    left: list[Damage]
    """What is damaged still."""


def repair_all(
    store: Store,
    damages: list[Damage],
    *,
    verify: Callable[[Store], list[Damage]] = verify_store,
    check: Callable[[], None] = lambda: None,
) -> Repair:
    """Repair a store and look at it again, until no damage is found.

    Metadata are repaired first: only then can be seen whether the objects that they describe are
    whole.

    Parameters
    ----------
    damages
        What `verify_store` has found.
    verify
        How it is looked at again.
    check
        Called before each repair; raises where nothing may be written any more.

    Raises
    ------
    StoreError
        If the storage refuses.
    StorageError
        If it stays away.
    """
    rows = np.empty(0, np.int64)
    for _ in range(_N_REPAIRS):
        if not damages:
            break
        check()
        repair_store(store, [damage for damage in damages if damage.shard is None])
        store = open_store(store.url, mode="r+")
        finish_append(store)
        of_rows = [damage for damage in damages if damage.shard is not None]
        rows = np.union1d(rows, repair_store(store, of_rows))
        store = open_store(store.url, mode="r+")
        damages = verify(store)
    return Repair(rows, damages)


def _repaired(store: Store, rows: range) -> NDArray[np.uint8]:
    """Status that the rows of a damaged shard get: what has no clip stays so, if that is known.

    Where it isn't, `pipeline.run.prepare` takes these rows out again before any is computed.
    """
    status = np.full(len(rows), Status.PENDING, np.uint8)
    with suppress(*DAMAGE):
        stored = store.array("status")[rows.start : rows.stop]
        for code in (Status.REMOVED, Status.UNUSED):
            status[stored == code] = code
    return status


def _damaged_metadata(store: Store) -> Iterator[Damage]:
    for name in store.layout.arrays():
        try:
            store.array(name)
        except StoreError:
            url = f"{store.url}/{name}/zarr.json"
            yield Damage(url, name, None, None, "the array's metadata is lost or damaged")


def _damages_of(store: Store, shard: int, names: list[str]) -> list[Damage]:
    rows = store.layout.shard_rows(shard)
    part = slice(rows.start, rows.stop)
    try:
        status = store.array("status")[part]
    except DAMAGE as error:
        return [_damage(store, "status", shard, reason_of(error))]
    # Rows behind those that ``status`` is enlarged by are pending.
    done = np.flatnonzero(status != Status.PENDING)
    if not len(done):
        return []
    damages = []
    for name in names:
        try:
            values = store.array(name)[part]
        except DAMAGE as error:
            damages.append(_damage(store, name, shard, reason_of(error)))
            continue
        if _is_lost(store, name, shard, values, status):
            damages.append(_damage(store, name, shard, "the object is lost"))
    unknown = set(np.unique(status).tolist()) - {int(code) for code in Status}
    if unknown:
        damages.append(_damage(store, "status", shard, f"holds codes {sorted(unknown)}"))
    return damages


def _is_lost(
    store: Store, name: str, shard: int, values: NDArray[Any], status: NDArray[np.uint8]
) -> bool:
    """Whether what was read is what Zarr makes up for an object that isn't there."""
    if store.layout.checksums:
        # Only where it looks so is the storage asked.
        looks_lost = bool(is_filled(store, name, values).all())
        return looks_lost and bool(shards_without(store, name, [shard]))
    return name in ("spatial", "temporal") and bool(np.isnan(values[status == Status.OK]).any())


def _damage(store: Store, name: str, shard: int, reason: str) -> Damage:
    url = store.object_url(name, shard)
    return Damage(url, name, shard, store.layout.shard_rows(shard), reason)


def is_filled(store: Store, name: str, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which values of an array are what Zarr makes up for an object that isn't there."""
    filled = store.layout.arrays()[name].fill_value
    return np.asarray(np.isnan(values) if filled != filled else values == filled, np.bool_)


def shards_without(store: Store, name: str, shards: Sequence[int]) -> list[int]:
    """Ask the storage which shards' objects of an array it doesn't have, of many at once.

    A byte of each is read: whether a path exists is answered with no by some filesystems that
    couldn't ask.

    Raises
    ------
    StorageError
        If the storage stays away.
    """
    array = store.array(name)
    keys = [store.object_key(name, shard) for shard in shards]

    async def begins(key: str) -> Buffer | None:
        prototype = default_buffer_prototype()
        first: Buffer | None = await array.store.get(key, prototype, RangeByteRequest(0, 1))
        return first

    at_once = zarr.config.get("async.concurrency")
    found = sync(concurrent_map([(key,) for key in keys], begins, at_once))
    return [shard for shard, first in zip(shards, found, strict=True) if first is None]
