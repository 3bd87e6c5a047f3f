"""Takes rows out of a run for good: for consent that was withdrawn, or a takedown.

Such a row keeps only its place and the status `removed`. The names of what was taken out are
remembered beside the store, as digests, so that it stays out whatever happens to the run: rows are
appended, the store is made again, or a status is lost.
"""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.dataset.manifest import ROWS_PER_GROUP, Manifest
from pipeline.errors import StoreError, reason_of
from pipeline.status import Status
from pipeline.storage.files import (
    delete_tree,
    flush_to_disk,
    open_filesystem,
    read_bytes,
    write_bytes,
)
from pipeline.storage.retries import with_retries
from pipeline.store.failures import write_failures_table
from pipeline.store.lease import Lease
from pipeline.store.opening import DAMAGE, Store
from pipeline.store.pending import read_status
from pipeline.store.run_folder import (
    DERIVED_NAMES,
    FAILURES_NAME,
    PACE_NAME,
    failures_url,
    in_run,
    removed_url,
)
from pipeline.store.verify import REMEDY

_WITHOUT_CLIPS = (FAILURES_NAME, PACE_NAME)
"""Tables that aren't deleted: rows are taken out of the first, and the second holds no rows."""
_VERSION = 1
_N_WRITERS = 8
"""Shards that are written at once, since most of the time goes to waiting for the storage."""


def digest_of_name(name: str) -> str:
    """Digest of a video id or a path: what is remembered, in place of the name."""
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Removals:
    """What was taken out of a run, and must not come back."""

    names: frozenset[str] = frozenset()
    """Digests of video ids and paths, see `digest_of_name`."""
    is_erased: bool = True
    """Whether all of it has left the store; False if the removal was cut off."""

    @classmethod
    def read(cls, run_url: str) -> Self:
        """Read what was taken out of a run; nothing, where nothing was.

        Raises
        ------
        StoreError
            If it can't be read: otherwise what must stay out might come back.
        """
        url = removed_url(run_url)
        try:
            values = json.loads(read_bytes(url))
            if values["version"] != _VERSION:
                raise StoreError(f"{url}: version {values['version']!r}, expected {_VERSION}")
            return cls(frozenset(map(str, values["names"])), values["is_erased"] is True)
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
            raise StoreError(
                f"{url} says what must stay out of the run, and can't be read: {reason_of(error)}"
            ) from error

    def write(self, run_url: str) -> None:
        """Remember it; raises as `pipeline.storage.files.write_bytes` does."""
        values = {"version": _VERSION, "is_erased": self.is_erased, "names": sorted(self.names)}
        write_bytes(removed_url(run_url), json.dumps(values, indent=1).encode())

    def __or__(self, names: Iterable[str]) -> Self:
        """Add names, whose rows are still to be erased."""
        return self.with_digests(map(digest_of_name, names))

    def with_digests(self, digests: Iterable[str]) -> Self:
        """Add digests of names, whose rows are still to be erased."""
        return replace(self, names=self.names | frozenset(digests), is_erased=False)

    def finished(self) -> Self:
        """Say that all of it has left the store."""
        return replace(self, is_erased=True)


@dataclass(frozen=True)
class Matches:
    """Rows of a run that bear one of some names."""

    rows: NDArray[np.int64]
    """In order."""
    found: frozenset[str]
    """Digests of the names that a row bears."""
    paths: frozenset[str]
    """Digests of the rows' paths; other rows of the same files must go too."""


def matching_rows(store: Store, manifest: Manifest | None, names: frozenset[str]) -> Matches:
    """Find the rows whose video id or path is one of some names.

    Reads the ids of the store, and names of the manifest, piece by piece.

    Parameters
    ----------
    manifest
        The run's; without it, paths aren't known, and the stored ids are used.
    names
        Digests, see `digest_of_name`.

    Raises
    ------
    StoreError
        If the store is damaged.
    """
    views, n_rows = store.record.views, store.layout.n_rows
    found: set[str] = set()
    paths: set[str] = set()
    videos: list[int] = []
    if manifest is not None:
        n_videos = views.video(n_rows)
        for start in range(0, n_videos, ROWS_PER_GROUP):
            piece = manifest.rows(start, min(start + ROWS_PER_GROUP, n_videos))
            ids, clips = piece["video_id"].to_pylist(), piece["path"].to_pylist()
            for video, pair in enumerate(zip(ids, clips, strict=True), start=start):
                digests = {digest_of_name(name) for name in pair}
                if digests & names:
                    found |= digests & names
                    paths.add(digest_of_name(pair[1]))
                    videos.append(video)
        return Matches(_rows_of_videos(videos, store), frozenset(found), frozenset(paths))
    rows: list[int] = []
    for shard in range(store.layout.n_shards):
        part = store.layout.shard_rows(shard)
        for row, name in zip(part, _stored(store, "video_id", part), strict=True):
            if name and digest_of_name(str(name)) in names:
                found.add(digest_of_name(str(name)))
                rows.append(row)
    return Matches(np.array(rows, np.int64), frozenset(found), frozenset())


def keep_out(run_url: str, store: Store, manifest: Manifest, lease: Lease | None = None) -> int:
    """Take out of a store what was once taken out of the run, before anything is computed.

    Returns
    -------
    Rows that are taken out now

    Raises
    ------
    StoreError
        As `matching_rows` and `remove_rows` do.
    """
    removals = Removals.read(run_url)
    if not removals.names:
        return 0
    found = matching_rows(store, manifest, removals.names)
    if not found.paths <= removals.names:
        # Rows of the same files that were appended since.
        removals = removals.with_digests(found.paths)
        removals.write(run_url)
        found = matching_rows(store, manifest, removals.names)
    rows = found.rows
    if removals.is_erased:
        rows = rows[read_status(store)[rows] != Status.REMOVED]
    else:
        rows = with_removed(store, rows)
        delete_derived(run_url, rows)
    remove_rows(store, rows, lease)
    if not removals.is_erased:
        removals.finished().write(run_url)
    return len(rows)


def with_removed(store: Store, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Add the rows whose status is `removed`: they may not all have been erased."""
    return np.union1d(rows, np.flatnonzero(read_status(store) == Status.REMOVED))


def remove_rows(store: Store, rows: NDArray[np.int64], lease: Lease | None = None) -> None:
    """Put fill values in place of all that is stored of some rows, and the status `removed`.

    The status is written first, so that no reader takes a row for an attributed one if this is cut
    off in between. Doing it twice is the same as doing it once.

    Parameters
    ----------
    rows
        In order.

    Raises
    ------
    StoreError
        If the storage refuses, or an object is damaged.
    LeaseLostError
        If the run is somebody else's by now.
    """
    layout = store.layout
    templates = layout.arrays()

    def remove(shard: int) -> None:
        if lease is not None:
            lease.check()
        part = layout.shard_rows(shard)
        gone = np.isin(np.asarray(part), rows)
        # The id comes last: without a manifest, a row is found again by its id.
        for name in ("status", *(templates.keys() - {"status", "video_id"}), "video_id"):
            values = _stored(store, name, part)
            fill = Status.REMOVED if name == "status" else templates[name].fill_value
            values[gone] = fill
            store.array(name)[part.start : part.stop] = values
        flush_to_disk([store.object_url(name, shard) for name in templates])

    shards = np.unique(rows // layout.rows_per_shard).tolist()
    try:
        with ThreadPoolExecutor(_N_WRITERS) as pool:
            list(pool.map(remove, shards))
    except DAMAGE as error:
        raise StoreError(f"can't write {store.url}: {reason_of(error)}") from error


def delete_derived(run_url: str, rows: NDArray[np.int64]) -> list[str]:
    """Delete what jobs have made from a run, as removed rows are in it; other failures stay listed.

    Returns
    -------
    Names of what was deleted

    Raises
    ------
    StoreError
        If the storage refuses.
    """
    deleted = []
    try:
        for name in DERIVED_NAMES:
            url = in_run(run_url, name)
            filesystem, path = open_filesystem(url)
            filesystem.invalidate_cache()
            if name not in _WITHOUT_CLIPS and with_retries(url, partial(filesystem.exists, path)):
                delete_tree(url)
                deleted.append(name)
        url = failures_url(run_url)
        with suppress(FileNotFoundError):
            table = pq.read_table(pa.BufferReader(read_bytes(url)))
            kept = ~np.isin(table["row"].to_numpy(), rows)
            if not kept.all():
                write_failures_table(table.filter(pa.array(kept)), url)
    except (OSError, ValueError) as error:
        raise StoreError(f"run: can't delete {url}: {reason_of(error)}") from error
    return deleted


def _rows_of_videos(videos: list[int], store: Store) -> NDArray[np.int64]:
    n_views = len(store.record.views)
    first = np.array(videos, np.int64) * n_views
    return (first[:, None] + np.arange(n_views)).ravel()


def _stored(store: Store, name: str, rows: range) -> NDArray[Any]:
    try:
        values: NDArray[Any] = store.array(name)[rows.start : rows.stop]
    except DAMAGE as error:
        url = store.object_url(name, rows.start // store.layout.rows_per_shard)
        raise StoreError(f"{url}: {reason_of(error)}; {REMEDY}") from error
    return values
