"""Objects of the stores beside a run's own: what was turned, cut or lost of them is seen.

A checksum sees what was turned or cut. Zarr makes up what isn't there, so how many objects were
written is noted once all are.
"""

import os
from pathlib import Path
from typing import Any

from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.sync import sync
from zarr.storage import LocalStore

from pipeline.errors import CredentialsError
from pipeline.storage.zarr_store import RetryingStore

CHECKED = (ZstdCodec(level=0), Crc32cCodec())
"""Compressors of an array: the checksum is outermost, and sees every flipped bit."""
OBJECTS = "objects"
"""Attribute of a group: how many objects each of its arrays has."""


def n_objects(array: Any) -> int | None:
    """Count the objects of an array's values, by one listing.

    Zarr's own count looks each object up in a list of all.

    Returns
    -------
    None where the storage tells nothing: it would be listed folder by folder, as of a web server,
    or whoever may read an object may not list it.

    Raises
    ------
    StorageError
        If the storage stays away.
    """
    store = array.store
    if isinstance(store, LocalStore):
        # Zarr's own listing goes wrong below a root whose name is also a folder's in it.
        return _n_files(Path(store.root) / array.path)
    if isinstance(store, RetryingStore) and not store.lists_at_once:
        return None
    try:
        names = sync(_listed(store, f"{array.path}/"))
    except CredentialsError:
        raise
    except (OSError, NotImplementedError):
        # Whoever may read a bucket may not always list it, and some filesystems can't list.
        return None
    # The metadata are there, since the array is open.
    if "zarr.json" not in names:
        return None
    return sum(_is_of_values(name) for name in names)


def counted_objects(group: Any) -> dict[str, int]:
    """Count the objects of each array of a group, where the storage tells them."""
    counts = {name: n_objects(array) for name, array in group.arrays()}
    return {name: count for name, count in counts.items() if count is not None}


def note_objects(group: Any) -> None:
    """Note how many objects each array of a group has, once all are written."""
    group.attrs[OBJECTS] = counted_objects(group)


def lost_objects(group: Any) -> str:
    """Say which array has lost objects, and how many; empty if none has.

    A group of an earlier release, which noted nothing, can't tell, nor can a storage that doesn't
    list.

    Raises
    ------
    KeyError
        If an array isn't there.
    """
    for name, n_written in group.attrs.get(OBJECTS, {}).items():
        n_there = n_objects(group[name])
        if n_there is not None and n_there < n_written:
            return f"{name} has {n_there} of {n_written}"
    return ""


def _n_files(folder: Path) -> int | None:
    """Count the objects of an array on a disk; None where one of its folders can't be read."""

    def refuse(error: OSError) -> None:
        raise error

    try:
        found = [
            (Path(path) / name).relative_to(folder).as_posix()
            for path, _, names in os.walk(folder, onerror=refuse)
            for name in names
        ]
    except FileNotFoundError:
        return 0
    except OSError:
        return None
    return sum(map(_is_of_values, found))


async def _listed(store: Any, prefix: str) -> list[str]:
    return [key.removeprefix(prefix) async for key in store.list_prefix(prefix)]


def _is_of_values(name: str) -> bool:
    """Whether an object of an array holds values: a local file that is still written doesn't."""
    first, *places = name.split("/")
    return first == "c" and all(place.isdecimal() for place in places)
