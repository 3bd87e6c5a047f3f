"""The manifest: every clip that is to be explained, in a fixed order, in one Parquet file.

Row i of the manifest is row i of every array of a run's store. `pipeline.dataset.layouts` makes
one of a dataset.

Columns: ``video_id`` string; ``path`` string, below the root, with ``/`` between its parts;
``label`` string, a class name or an integer as text; ``start_time`` and ``end_time`` float64, where
in the source video the clip lies, in s, and, in a manifest of segments, which part of the file it
is; ``split`` string. All but the first two may be null. The
root, any fsspec URL, is in the Parquet schema's metadata.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.credentials import holds_credentials, without_credentials
from pipeline.errors import ManifestChangedError, ManifestError, reason_of
from pipeline.storage.files import RetryingReader, open_filesystem, write_bytes

FORMAT_VERSION = "1"
ROWS_PER_GROUP = 8192
"""Rows of a Parquet row group: what a worker reads to get one of its rows, about 1 MB."""

SCHEMA = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("start_time", pa.float64()),
        pa.field("end_time", pa.float64()),
        pa.field("split", pa.string()),
    ]
)
METADATA_KEYS = ("staa.manifest_version", "staa.root", "staa.layout")
_SEGMENTS_KEY = "staa.segments"
"""In the metadata, ``true`` where rows are parts of their files; see `mark_segments`."""
_CONTENT_KEY = "staa.content"
"""In the file's metadata: SHA-256 of all before the footer. With it no two manifests of different
rows have the same footer; offsets, sizes and statistics alone may be the same."""


@dataclass(frozen=True)
class Manifest:
    """Where a manifest is and what it holds; small, so that it travels to workers in place of rows.

    Attributes
    ----------
    url
        The Parquet file.
    root
        The URL that paths are below.
    layout
        The layout that it was built from.
    n_rows
        Clips in the manifest.
    digest
        SHA-256 over the values of all rows in order, in hexadecimal: the same wherever the file and
        the clips are stored and however the file was written.
    fingerprint
        SHA-256 over the file's footer, in hexadecimal: tells whether the file is still the same,
        each time that it is opened for rows, and without reading them all.
    segments
        Whether a row is the part of its file from ``start_time`` to ``end_time``, and not all of
        it.
    """

    url: str
    root: str
    layout: str
    n_rows: int
    digest: str
    fingerprint: str
    segments: bool = False

    def rows(self, start: int, stop: int) -> pa.Table:
        """Read rows ``start`` to ``stop`` (exclusive), from the row groups that hold them alone.

        Raises
        ------
        ManifestError
            When the range isn't inside the manifest, or a path leaves the root.
        ManifestChangedError
            When the file isn't the one any more that this manifest was read from.
        """
        if not 0 <= start <= stop <= self.n_rows:
            raise ManifestError(
                f"rows {start} to {stop} of {self.url}: expected a range in 0 to {self.n_rows}"
            )
        with self._opened() as parquet:
            groups: list[int] = []
            first, offset = 0, 0
            for group in range(parquet.num_row_groups):
                following = offset + parquet.metadata.row_group(group).num_rows
                if offset < stop and following > start:
                    first = first if groups else offset
                    groups.append(group)
                offset = following
            table = parquet.read_row_groups(groups, columns=SCHEMA.names).slice(
                start - first, stop - start
            )
        check_paths(table["path"].to_pylist(), self.url)
        return table.replace_schema_metadata(None)

    def take(self, rows: NDArray[np.integer]) -> pa.Table:
        """Read rows by number, in ascending order; a row group is read once for all of its rows.

        Raises
        ------
        ManifestError
            When a row isn't in the manifest, or a path leaves the root.
        ManifestChangedError
            As `rows`.
        """
        tables = [SCHEMA.empty_table()]
        groups = rows // ROWS_PER_GROUP
        for group in np.unique(groups):
            start = int(group) * ROWS_PER_GROUP
            table = self.rows(start, min(start + ROWS_PER_GROUP, self.n_rows))
            tables.append(table.take(pa.array(rows[groups == group] - start)))
        return pa.concat_tables(tables)

    def digest_of_first(self, n_rows: int) -> str:
        """Digest that a manifest of the first rows alone has."""
        with self._opened() as parquet:
            return _digest(parquet, self.url, n_rows)

    def distinct_labels(self) -> list[tuple[str, int]]:
        """Labels in order of their first row, each with that row; null is not a label.

        Reads the label column row group by row group.
        """
        first_rows: dict[str, int] = {}
        with self._opened() as parquet:
            offset = 0
            for group in range(parquet.num_row_groups):
                labels = parquet.read_row_group(group, columns=["label"])["label"].to_pylist()
                for row, label in enumerate(labels, start=offset):
                    if label is not None:
                        first_rows.setdefault(label, row)
                offset += len(labels)
        return list(first_rows.items())

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        """Open the file, which is refused if it was written anew: row numbers would be others'."""
        with _open_parquet(self.url) as parquet:
            if _fingerprint(parquet) != self.fingerprint:
                raise ManifestChangedError(
                    f"manifest {self.url} was changed while the run was going on: put the file "
                    "back that the run began with, or, if rows were only added at its end, go on "
                    "with --append"
                )
            yield parquet


def write_manifest(table: pa.Table, url: str, *, rows_per_group: int = ROWS_PER_GROUP) -> None:
    """Write a table from `build_manifest` to a Parquet file at any fsspec URL.

    Raises
    ------
    ManifestError
        When the table isn't a manifest.
    """
    _check_schema(table.schema, url)
    written = io.BytesIO()
    with pq.ParquetWriter(written, table.schema) as writer:
        writer.write_table(table, row_group_size=rows_per_group)
        with written.getbuffer() as content:
            writer.add_key_value_metadata({_CONTENT_KEY: hashlib.sha256(content).hexdigest()})
    write_bytes(url, written.getbuffer())


def mark_segments(table: pa.Table) -> pa.Table:
    """Have each row of a table from `build_manifest` be a segment of its file.

    Raises
    ------
    ManifestError
        Names the first row whose times are no segment: 0 or more, and the end behind the start.
    """
    times = zip(table["start_time"].to_pylist(), table["end_time"].to_pylist(), strict=True)
    for row, (start, end) in enumerate(times):
        if start is None or end is None or not 0 <= start < end:
            raise ManifestError(
                f"segments: row {row} is from {start} to {end} s, expected a start_time of 0 or "
                "more and an end_time behind it"
            )
    metadata = dict(table.schema.metadata) | {_SEGMENTS_KEY.encode(): b"true"}
    return table.replace_schema_metadata(metadata)


def read_manifest(url: str) -> Manifest:
    """Open a manifest and check it, row group by row group.

    Raises
    ------
    ManifestError
        When there is no such file, it isn't a manifest of this version, or a path leaves the root.
    """
    with _open_parquet(url) as parquet:
        metadata = _check_schema(parquet.schema_arrow, url)
        digest = _digest(parquet, url, parquet.metadata.num_rows)
        root = metadata["staa.root"]
        if holds_credentials(root):
            raise ManifestError(
                f"manifest {url}: its root {without_credentials(root)} holds credentials or a "
                "signature, which belong into the environment or fsspec's configuration"
            )
        return Manifest(
            url=url,
            root=root,
            layout=metadata["staa.layout"],
            n_rows=parquet.metadata.num_rows,
            digest=digest,
            fingerprint=_fingerprint(parquet),
            segments=metadata.get(_SEGMENTS_KEY) == "true",
        )


def _fingerprint(parquet: pq.ParquetFile) -> str:
    """Digest of the footer, which was read to open the file."""
    footer = pa.BufferOutputStream()
    parquet.metadata.write_metadata_file(footer)
    return hashlib.sha256(footer.getvalue()).hexdigest()


def _digest(parquet: pq.ParquetFile, url: str, n_rows: int) -> str:
    """Digest of the first rows, whose paths are checked on the way."""
    digest = hashlib.sha256()
    for group in range(parquet.num_row_groups):
        rows = parquet.read_row_group(group, columns=SCHEMA.names).slice(0, n_rows)
        check_paths(rows["path"].to_pylist(), url)
        for row in zip(*(rows[name].to_pylist() for name in SCHEMA.names), strict=True):
            # repr is exact for floats, and its quotes keep ("a", "b") apart from ("a, b").
            digest.update(repr(row).encode() + b"\n")
        n_rows -= len(rows)
    return digest.hexdigest()


@contextmanager
def _open_parquet(url: str) -> Iterator[pq.ParquetFile]:
    filesystem, path = filesystem_of(url)
    try:
        file = RetryingReader(filesystem, path)
    except OSError as error:
        raise ManifestError(f"can't read manifest {url}: {error}") from error
    with file:
        try:
            yield pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise ManifestError(
                f"manifest {url} is not a Parquet file, or not a whole one: {reason_of(error)}"
            ) from error


def filesystem_of(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """File system and path of a URL; `ManifestError` where there is no access to any such."""
    try:
        return open_filesystem(url)
    except (ValueError, ImportError) as error:
        raise ManifestError(f"no access to {url}: {error}") from error


def _check_schema(schema: pa.Schema, url: str) -> dict[str, str]:
    """Metadata of a manifest's schema."""
    if not schema.remove_metadata().equals(SCHEMA):
        got = ", ".join(f"{field.name} {field.type}" for field in schema)
        expected = ", ".join(f"{field.name} {field.type}" for field in SCHEMA)
        raise ManifestError(f"manifest {url}: columns are {got}; expected {expected}")
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    absent = [key for key in METADATA_KEYS if key not in metadata]
    if absent:
        raise ManifestError(f"manifest {url}: no {', '.join(absent)} in the schema's metadata")
    version = metadata["staa.manifest_version"]
    if version != FORMAT_VERSION:
        raise ManifestError(f"manifest {url}: version {version}, expected {FORMAT_VERSION}")
    return metadata


def check_paths(paths: Iterable[str], where: str) -> None:
    """Refuse a path that could name something outside the root, wherever the root is.

    Raises
    ------
    ManifestError
        Names the path, and ``where`` it stands.
    """
    for path in paths:
        parts = re.split(r"[/\\]", path)
        if not parts[0] or ".." in parts or re.match(r"\w:[/\\]|[\w+.-]+://", path):
            raise ManifestError(
                f"path {without_credentials(path)!r} in {where}: expected a path below the root, "
                "relative, without .."
            )
        # It would stand in the store, the table of failures and reports.
        if "=" in path and holds_credentials(path):
            raise ManifestError(
                f"path {without_credentials(path)!r} in {where} holds credentials or a signature, "
                "which belong into the environment or fsspec's configuration"
            )
