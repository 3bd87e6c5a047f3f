"""A session's store: a run like every other, with a row a window, which grows by whole shards.

Of a shard its manifest rows come first, then the store is enlarged, then the shard is written and
its `status` last: whoever reads, at any moment, and wherever it was cut off, finds rows that are
done or pending, and a manifest that has them. A shard that is committed before it is full is filled
up with rows `unused`.
"""

import json
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.clips.columns import Columns
from pipeline.dataset.columns import SCHEMA
from pipeline.dataset.manifest import (
    FORMAT_VERSION,
    METADATA_KEYS,
    Manifest,
    mark_segments,
    read_manifest,
    write_manifest,
)
from pipeline.errors import ManifestError, StoreError, reason_of
from pipeline.run.gather import concatenated
from pipeline.status import Status
from pipeline.storage.files import read_bytes, write_bytes
from pipeline.store.append import append_rows, finish_append
from pipeline.store.create import consolidate, create_store
from pipeline.store.failures import write_failures
from pipeline.store.opening import Found, Store, find_store, open_store
from pipeline.store.pending import read_status
from pipeline.store.record import RunRecord
from pipeline.store.run_folder import in_run, store_url
from pipeline.store.schema import StoreLayout
from pipeline.store.shards import write_shard
from pipeline.stream.sessions import ENDED_NAME, ended_note, has_ended
from pipeline.stream.source import Source

_LOGGER = logging.getLogger(__name__)

MANIFEST_NAME = "manifest.parquet"
"""The manifest of a session, in its folder."""
FACTS_NAME = "session.json"
"""What a session was told, in its folder."""

FURTHER = pa.schema(
    [
        pa.field("stream", pa.string()),
        pa.field("source", pa.string()),
        pa.field("window", pa.int64()),
        pa.field("received", pa.float64()),
        pa.field("clip", pa.string()),
    ]
)
"""Columns behind those of a manifest: name and URL of the source, the window's number in its
stream, when its newest frame was received in s since 1970, and the clip that was recorded."""


@dataclass(frozen=True)
class Row:
    """A window as it is kept: its columns of the store, and its row in the manifest."""

    columns: Columns
    manifest: dict[str, Any]


@dataclass(frozen=True)
class Paths:
    """Where the sources of a session lie, as its manifest has it: below one root.

    A file's path is its own, so that whoever has the session can read its windows again. Of what
    isn't a file nothing is left to be read, and its path is the stream's name.
    """

    root: str
    of_stream: dict[str, str]

    @classmethod
    def of(cls, sources: Sequence[Source], session_url: str) -> "Paths":
        """Find the root of some sources."""
        files = {s.name: str(Path(s.url).resolve()) for s in sources if s.kind == "file"}
        folders = [str(Path(path).parent) for path in files.values()]
        root = os.path.commonpath(folders) if folders else session_url
        paths = {name: os.path.relpath(path, root) for name, path in files.items()}
        return cls(root, {s.name: paths.get(s.name, s.name) for s in sources})


@dataclass
class Session:
    """A session's folder, and its store as it grows.

    Attributes
    ----------
    url
        The folder.
    record_of
        Says how a run over a manifest is made.
    paths
        Where the sources lie.
    rows_per_shard
        Rows of a shard, as in the record.
    """

    url: str
    record_of: Callable[[Manifest], RunRecord]
    paths: Paths
    rows_per_shard: int
    store: Store | None = None
    n_rows: int = 0
    _table: pa.Table = field(init=False)

    def __post_init__(self) -> None:
        metadata = dict(zip(METADATA_KEYS, (FORMAT_VERSION, self.paths.root, "live"), strict=True))
        schema = pa.schema([*SCHEMA, *FURTHER]).with_metadata(metadata)
        self._table = mark_segments(schema.empty_table())

    @property
    def manifest_url(self) -> str:
        """Where the manifest is."""
        return in_run(self.url, MANIFEST_NAME)

    def write_facts(self, facts: dict[str, Any]) -> None:
        """Write what the session was told; raises as `write_bytes` does."""
        write_bytes(in_run(self.url, FACTS_NAME), json.dumps(facts, indent=1).encode())

    def commit(self, rows: Sequence[Row]) -> None:
        """Write the next shard: some rows, one or more, and what fills it up.

        May be called again with the same rows after it has failed.

        Raises
        ------
        StoreError, StorageError, OSError
            If the storage refuses.
        """
        first, size = self.n_rows, self.rows_per_shard
        fillers = [_filler(first + place) for place in range(len(rows), size)]
        listed = [*(row.manifest for row in rows), *fillers]
        table = pa.Table.from_pylist(listed, schema=self._table.schema)
        # Each chunk of each column costs some hundred bytes, and a session has thousands of shards.
        grown = pa.concat_tables([self._table, table]).combine_chunks()
        write_manifest(grown, self.manifest_url)
        record = self.record_of(read_manifest(self.manifest_url))
        store = self._enlarged(record)
        columns = concatenated([row.columns for row in rows])
        if fillers:
            filling = unused_rows(record.layout, len(fillers))
            columns = {name: np.concatenate([columns[name], filling[name]]) for name in filling}
        columns = {name: _storable(columns[name]) for name in record.layout.arrays()}
        write_shard(store, columns, np.arange(first, first + size))
        self._table, self.n_rows, self.store = grown, first + size, store

    def _enlarged(self, record: RunRecord) -> Store:
        url = store_url(self.url)
        there = find_store(url, mode="r+")
        if not isinstance(there, Found):
            return create_store(url, record)
        return append_rows(there.store, record)

    def close(self) -> None:
        """Leave a run that is complete; one without a window leaves nothing."""
        # A store whose first shard failed is there, and isn't known here.
        if self.store is not None or isinstance(find_store(store_url(self.url)), Found):
            finish(self.url)


def read_facts(url: str) -> dict[str, Any] | None:
    """Read what a session was told; None if it is no session but another run."""
    try:
        facts: dict[str, Any] = json.loads(read_bytes(in_run(url, FACTS_NAME)))
    except FileNotFoundError:
        return None
    return facts


def finish(url: str) -> int:
    """Account for every row of a session that has ended, or was cut off.

    Rows of a shard that was begun and never written become `unused`.

    Returns
    -------
    Rows that were pending

    Raises
    ------
    StoreError, StorageError, OSError
        If the storage refuses.
    """
    store = open_store(store_url(url), mode="r+")
    finish_append(store)
    pending = np.flatnonzero(read_status(store) == Status.PENDING)
    layout = store.layout
    for shard in np.unique(pending // layout.rows_per_shard).tolist():
        rows = np.asarray(layout.shard_rows(shard))
        columns = unused_rows(layout, len(rows))
        columns["message"][:] = "the session was cut off before it was written"
        write_shard(store, {n: _storable(v) for n, v in columns.items()}, rows)
    manifest = read_manifest(in_run(url, MANIFEST_NAME))
    write_failures(url, store, read_status(store), manifest)
    consolidate(store)
    return len(pending)


def finish_cut_off(urls: Sequence[str]) -> list[str]:
    """Finish the sessions that were cut off; the URLs of those that were.

    Also of one that is complete it is noted when it ended: it is deleted by that time, and not by
    when it began.

    Raises
    ------
    StorageError, OSError
        If the storage refuses.
    """
    finished = []
    for url in urls:
        if has_ended(url):
            continue
        # One that can't be read is left as it is: others must not stand in the way of a new one.
        with suppress(StoreError, ManifestError):
            there = find_store(store_url(url))
            if not isinstance(there, Found):
                continue
            was_complete = _is_complete(there.store)
            if not was_complete:
                finish(url)
                finished.append(url)
            try:
                write_bytes(in_run(url, ENDED_NAME), ended_note(_cut_off_at(url)))
            except OSError as error:
                # It may lie in an archive that nobody writes to.
                if not was_complete:
                    raise
                _LOGGER.warning("%s: can't note when it ended: %s", url, reason_of(error))
    return finished


def _cut_off_at(url: str) -> datetime:
    """When the newest window of a session was received; now, where none says so."""
    table = read_manifest(in_run(url, MANIFEST_NAME)).whole_table()
    now = datetime.now(UTC)
    newest_s = pc.max(table["received"]).as_py() if "received" in table.column_names else None
    # A clock that was ahead must not keep it for longer than one that ended now.
    return now if newest_s is None else datetime.fromtimestamp(min(newest_s, now.timestamp()), UTC)


def _is_complete(store: Store) -> bool:
    is_whole = store.array("status").shape[0] == store.layout.n_rows
    return is_whole and bool((read_status(store) != Status.PENDING).all())


def unused_rows(layout: StoreLayout, n_rows: int) -> Columns:
    """Columns of rows in which no window is."""
    columns: Columns = {name: spec.filled(n_rows) for name, spec in layout.arrays().items()}
    columns["status"][:] = Status.UNUSED
    return columns


def _filler(row: int) -> dict[str, Any]:
    return {"video_id": f"unused-{row:08d}", "path": "unused"}


def _storable(values: Any) -> Any:
    return values.astype(np.dtypes.StringDType()) if values.dtype == object else values
