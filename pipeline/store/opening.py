"""What is at a target, and an open store: its group, its record, its arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import zarr
from zarr.core.array import AsyncArray
from zarr.core.group import Group
from zarr.core.sync import sync
from zarr.storage import StorePath

from pipeline.attribution.method import Method
from pipeline.errors import RunMismatchError, StaaError, StorageError, StoreError, reason_of
from pipeline.storage.files import open_filesystem
from pipeline.storage.retries import with_retries
from pipeline.storage.zarr_store import UnreadStore, zarr_location
from pipeline.store.record import SCHEMA_NAME, RunIdentity, RunRecord, told_differences
from pipeline.store.schema import StoreLayout

STORAGE_ERRORS = (OSError, ValueError, ImportError)
"""What fsspec and zarr raise for a URL: no access, no such protocol, its driver not installed."""
DAMAGE = (*STORAGE_ERRORS, KeyError, RuntimeError)
"""What zarr and its codecs raise for an object that is gone, cut short or overwritten."""

Mode = Literal["r", "r+"]


@dataclass(frozen=True, eq=False)
class Store:
    """An open store; arrays are opened once, since Zarr reads an array's metadata each time."""

    url: str
    group: Group
    record: RunRecord
    _arrays: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _blank_arrays: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def layout(self) -> StoreLayout:
        """Sizes of its dimensions."""
        return self.record.layout

    def array(self, name: str) -> Any:
        """Open an array by its name.

        Raises
        ------
        StoreError
            If its metadata can't be read.
        """
        if name not in self._arrays:
            self._arrays[name] = _array(self, name)
        return self._arrays[name]

    def blank_array(self, name: str) -> Any:
        """Open an array to write whole shards of it, by one request each: nothing is read.

        Raises
        ------
        StoreError
            As `array` does.
        """
        if name not in self._blank_arrays:
            self._blank_arrays[name] = _blank_array(self, name)
        return self._blank_arrays[name]

    def object_url(self, name: str, shard: int) -> str:
        """URL of the object that holds a shard's rows of an array."""
        return f"{self.url}/{self.object_key(name, shard)}"

    def object_key(self, name: str, shard: int) -> str:
        """Key of that object in the store."""
        array = self.array(name)
        chunk = (shard, *(0,) * (array.ndim - 1))
        return f"{name}/{array.metadata.encode_chunk_key(chunk)}"


def _array(store: Store, name: str) -> Any:
    try:
        array: Any = store.group[name]
        is_as_made = _is_as_made(store, array, name)
        if not is_as_made and array.shape[0] > store.layout.n_rows:
            # It may have been enlarged since the store was opened, as a session is that goes on.
            now = find_store(store.url)
            is_as_made = isinstance(now, Found) and _is_as_made(now.store, array, name)
    except (StorageError, StoreError):
        raise
    # Zarr may raise anything for metadata that are nonsense.
    except Exception as error:
        raise StoreError(f"{store.url}/{name}/zarr.json is lost or damaged") from error
    if not is_as_made:
        raise StoreError(f"{store.url}/{name}/zarr.json is damaged: it is of another array")
    # All objects are written, so that one that isn't there is known to be lost.
    return array.with_config({"write_empty_chunks": store.layout.checksums})


def _is_as_made(store: Store, array: Any, name: str) -> bool:
    """Whether an array has the sizes of its template; all are enlarged, and ``status`` last."""
    spec, layout = store.layout.arrays()[name], store.layout
    rows = layout.n_rows if name == "status" else _rows_of_status(store)
    return bool(
        (array.shape[0] == layout.n_rows or array.shape[0] == rows or name == "status")
        and array.shape[0] <= layout.n_rows
        and array.shape[1:] == spec.shape
        and (array.shards or array.chunks)[0] == layout.rows_per_shard
        and tuple(array.metadata.dimension_names) == ("clip", *spec.dims[1:])
        and (array.dtype.kind == "T" if spec.dtype == "str" else array.dtype == spec.dtype)
        and isinstance(array.metadata.attributes, dict)
    )


def _rows_of_status(store: Store) -> int:
    """Rows that ``status`` is enlarged to; all, where it can't be opened: another's fault."""
    try:
        return int(store.array("status").shape[0])
    except StoreError:
        return store.layout.n_rows


def _blank_array(store: Store, name: str) -> Any:
    there = store.array(name).async_array
    path = StorePath(UnreadStore(there.store_path.store), there.store_path.path)
    return zarr.Array(AsyncArray(there.metadata, path, there.config))


@dataclass(frozen=True)
class Absent:
    """Nothing is at the target, or an empty folder."""


@dataclass(frozen=True)
class Unfinished:
    """A store whose creation or deletion was cut off: it has no identity."""


@dataclass(frozen=True)
class Foreign:
    """Something that isn't a store of this product."""

    reason: str


@dataclass(frozen=True)
class Unreadable:
    """A store of this product whose record this release can't read."""

    reason: str


@dataclass(frozen=True)
class Found:
    """A store of a run that is finished or going on."""

    store: Store


Target = Absent | Unfinished | Foreign | Unreadable | Found


def find_store(url: str, *, mode: Mode = "r") -> Target:
    """Say what is at a URL.

    Raises
    ------
    StoreError
        If the storage doesn't let it be looked at.
    """
    try:
        # Arrays are opened by themselves: consolidated metadata are for other readers.
        group = zarr.open_group(zarr_location(url), mode=mode, use_consolidated=False)
    except FileNotFoundError:
        return Absent() if _is_free(url) else Foreign("something that is no Zarr group")
    except zarr.errors.ContainsArrayError:
        return Foreign("a Zarr array, not a store of this product")
    except (StorageError, StaaError):
        raise
    # Zarr may raise anything for a file that is nonsense.
    except Exception as error:
        raise StoreError(f"can't read {url}: {reason_of(error)}") from error
    attributes = group.attrs.asdict()
    schema = attributes.get("schema")
    if not isinstance(schema, dict) or schema.get("name") != SCHEMA_NAME:
        return Foreign("a Zarr group, but not a store of this product")
    if "identity" not in attributes:
        return Unfinished()
    try:
        return Found(Store(url, group, RunRecord.from_attributes(attributes, url)))
    except StoreError as error:
        return Unreadable(str(error))


def open_store(url: str, *, mode: Mode = "r") -> Store:
    """Open the store of a run.

    Raises
    ------
    StoreError
        If there is none, or this release can't read its record.
    """
    match find_store(url, mode=mode):
        case Found(store):
            return store
        case Absent():
            raise StoreError(f"there is no store at {url}")
        case Unfinished():
            raise StoreError(
                f"{url} holds a store whose creation was cut off; jobs.attribute makes it again"
            )
        case Foreign(reason):
            raise StoreError(f"{url} is {reason}")
        case Unreadable(reason):
            raise StoreError(reason)


def check_same_run(store: Store, identity: RunIdentity) -> None:
    """Refuse to go on with another run's store.

    Raises
    ------
    RunMismatchError
        Names each key that differs, with both values.
    """
    differences = store.record.identity.differences(identity)
    if differences:
        longer = any(key == "manifest" for key, *_ in differences)
        raise RunMismatchError(
            f"out: the store at {store.url} was made by another run: "
            f"{told_differences(differences)}. Choose another "
            "folder, or delete that run and start over with --overwrite"
            + ("; --append takes in rows at the manifest's end" if longer else "")
            + _how_to_go_on(differences, store.record.identity.method)
        )


def _how_to_go_on(differences: Sequence[tuple[str, Any, Any]], method: Method) -> str:
    """Give the flags of a run's method, if that is all that differs: defaults may have changed."""
    if not all(key.startswith("method.") for key, *_ in differences):
        return ""
    return f"; to go on with it: {' '.join(method.as_flags())}"


def check_writable(store: Store) -> None:
    """Refuse a store whose storage lets it be read, and not written.

    Raises
    ------
    StoreError
        If it can't be written.
    """
    try:
        # Its own metadata as they are: the only object whose content is known to be right.
        metadata = store.group.store_path / "zarr.json"
        there = sync(metadata.get())
        if there is not None:
            sync(metadata.set(there))
    except STORAGE_ERRORS as error:
        raise StoreError(
            f"out: can't write the store at {store.url}: {reason_of(error)}"
        ) from error


def _is_free(url: str) -> bool:
    """Whether nothing is at a URL yet, or an empty folder."""
    try:
        filesystem, path = open_filesystem(url)
        return with_retries(
            url,
            lambda: (
                not filesystem.exists(path)
                or (filesystem.isdir(path) and not filesystem.ls(path, detail=False))
            ),
        )
    except STORAGE_ERRORS as error:
        raise StoreError(f"can't read {url}: {reason_of(error)}") from error
