"""The manifest: every clip that is to be explained, in a fixed order, in one Parquet file.

Row i of the manifest is row i of every array of a run's store. `pipeline.dataset.layouts` makes
one of a dataset.

Columns: ``video_id`` string; ``path`` string, below the root, with ``/`` between its parts;
``label`` string, a class name or an integer as text; ``start_time`` and ``end_time`` float64, where
in the source video the clip lies, in s, and, in a manifest of segments, which part of the file it
is; ``split`` string. All but the first two may be null. The
root, any fsspec URL, is in the Parquet schema's metadata; without it, as in tables that pandas,
polars or DuckDB have written, it is the manifest's own folder. Further columns are carried along
and not read.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from pipeline.dataset.columns import SCHEMA as SCHEMA
from pipeline.dataset.columns import as_manifest, check_columns, check_path_column
from pipeline.dataset.row_groups import ROWS_PER_GROUP as ROWS_PER_GROUP
from pipeline.dataset.row_groups import pieces, pieces_with
from pipeline.errors import ManifestChangedError, ManifestError, reason_of
from pipeline.storage.files import RetryingReader, open_filesystem, written_in_parts
from pipeline.text import holds_credentials, without_credentials

FORMAT_VERSION = "1"
_N_LOOKED_AT = 16
_BUFFER_BYTES = 1 << 20
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
            found = [piece for _, piece in pieces(parquet, self._name, range(start, stop))]
        table = pa.concat_tables([SCHEMA.empty_table(), *found])
        check_path_column(table["path"], self.url, self.root)
        return table

    def take(self, rows: NDArray[np.integer]) -> pa.Table:
        """Read rows by number, in ascending order; what lies between is read once and dropped.

        Raises
        ------
        ManifestError
            When a row isn't in the manifest, or a path leaves the root.
        ManifestChangedError
            As `rows`.
        """
        if len(rows) and not (rows[0] >= 0 and rows[-1] < self.n_rows):
            raise ManifestError(
                f"rows {rows[0]} to {rows[-1]} of {self.url}: expected a range in 0 to "
                f"{self.n_rows}"
            )
        with self._opened() as parquet:
            found = list(pieces_with(parquet, self._name, rows))
        table = pa.concat_tables([SCHEMA.empty_table(), *found])
        check_path_column(table["path"], self.url, self.root)
        return table

    def whole_table(self) -> pa.Table:
        """Read every row, with the further columns that the file carries behind the manifest's."""
        with self._opened() as parquet:
            table = parquet.read()
        further = [name for name in table.column_names if name not in SCHEMA.names]
        manifest = as_manifest(table, self._name)
        for name in further:
            manifest = manifest.append_column(name, table[name])
        return manifest

    def digest_of_first(self, n_rows: int) -> str:
        """Digest that a manifest of the first rows alone has."""
        with self._opened() as parquet:
            return _digest(parquet, self.url, self.root, n_rows)

    def distinct_labels(self) -> list[tuple[str, int]]:
        """Labels in order of their first row, each with that row; null is not a label.

        Reads the label column piece by piece.
        """
        first_rows: dict[str, int] = {}
        with self._opened() as parquet:
            if "label" not in parquet.schema_arrow.names:
                return []
            everything = range(parquet.metadata.num_rows)
            for start, piece in pieces(parquet, self._name, everything, ["label"]):
                labels = piece["label"]
                for label in labels.unique().to_pylist():
                    if label is not None and label not in first_rows:
                        first_rows[label] = start + pc.index(labels, label).as_py()
        return list(first_rows.items())

    @property
    def _name(self) -> str:
        return f"manifest {self.url}"

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        """Open the file, which is refused if it was rewritten: row numbers would be others'."""
        with _open_parquet(self.url) as parquet:
            if _fingerprint(parquet) != self.fingerprint:
                raise ManifestChangedError(
                    f"manifest {self.url} was changed while the run was going on: put the file "
                    "back that the run began with, or, if rows were only added at its end, go on "
                    "with --append"
                )
            yield parquet


def write_manifest(
    pieces: pa.Table | Iterable[pa.Table], url: str, *, rows_per_group: int = ROWS_PER_GROUP
) -> None:
    """Write a table from `build_manifest` to a Parquet file at any fsspec URL.

    Parameters
    ----------
    pieces
        The table, or its rows in several of the same columns, one or more, of which one is held.

    Raises
    ------
    ManifestError
        When the table isn't a manifest.
    """
    tables = iter([pieces] if isinstance(pieces, pa.Table) else pieces)
    # What is wrong with it is mostly seen before a folder is made.
    first = next(tables)
    _check_metadata(first.schema, url)
    if list(first.schema.names[: len(SCHEMA)]) != SCHEMA.names:
        check_columns(first.schema, f"manifest {url}")
    with written_in_parts(url) as file:
        hashed = _HashedFile(file)
        with pq.ParquetWriter(hashed, first.schema) as writer:
            for table in chain([first], tables):
                writer.write_table(table, row_group_size=rows_per_group)
            writer.add_key_value_metadata({_CONTENT_KEY: hashed.digest.hexdigest()})


class _HashedFile(io.RawIOBase):
    """A file that takes the SHA-256 of what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self._file, self._n_bytes = file, 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._n_bytes

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self._file.write(data)
        self._n_bytes += len(data)
        return len(data)


def mark_segments(table: pa.Table, first_row: int = 0) -> pa.Table:
    """Have each row of a table from `build_manifest`, or a piece of it, be a segment of its file.

    Raises
    ------
    ManifestError
        Names the first row whose times are no segment: 0 or more, and the end behind the start.
    """
    times = zip(table["start_time"].to_pylist(), table["end_time"].to_pylist(), strict=True)
    for row, (start, end) in enumerate(times, start=first_row):
        if start is None or end is None or not 0 <= start < end:
            raise ManifestError(
                f"segments: row {row} is from {start} to {end} s, expected a start_time of 0 or "
                "more and an end_time behind it"
            )
    metadata = dict(table.schema.metadata) | {_SEGMENTS_KEY.encode(): b"true"}
    return table.replace_schema_metadata(metadata)


def read_manifest(url: str) -> Manifest:
    """Open a manifest and check it, piece by piece.

    Raises
    ------
    ManifestError
        When there is no such file, it isn't a manifest of this version, or a path leaves the root.
    """
    with _open_parquet(url) as parquet:
        check_columns(parquet.schema_arrow, f"manifest {url}")
        metadata = _metadata(parquet.schema_arrow)
        if "staa.root" in metadata:
            _check_metadata(parquet.schema_arrow, url)
        root = metadata.get("staa.root") or _own_folder(parquet, url)
        if holds_credentials(root):
            raise ManifestError(
                f"manifest {url}: its root {without_credentials(root)} holds credentials or a "
                "signature, which belong into the environment or fsspec's configuration"
            )
        digest = _digest(parquet, url, root, parquet.metadata.num_rows)
        return Manifest(
            url=url,
            root=root,
            layout=metadata.get("staa.layout", "table"),
            n_rows=parquet.metadata.num_rows,
            digest=digest,
            fingerprint=_fingerprint(parquet),
            segments=metadata.get(_SEGMENTS_KEY) == "true",
        )


def _own_folder(parquet: pq.ParquetFile, url: str) -> str:
    """URL of a manifest's folder, which is the root of one that names none, if clips are there."""
    filesystem, path = filesystem_of(url)
    local = isinstance(filesystem, LocalFileSystem)
    folder = str(Path(path).resolve().parent) if local else path.rpartition("/")[0]
    rows = range(min(_N_LOOKED_AT, parquet.metadata.num_rows))
    for _, piece in pieces(parquet, f"manifest {url}", rows, ["path"]):
        check_path_column(piece["path"], url)
        for clip in piece["path"].to_pylist():
            if "\0" not in clip and filesystem.exists(f"{folder}/{clip}"):
                return str(filesystem.unstrip_protocol(folder))
    raise ManifestError(
        f"manifest {url}: no {', '.join(METADATA_KEYS[:2])} in the schema's metadata, and its "
        "clips aren't beside it; expected one of jobs.manifest, whose --layout table takes this as "
        "its --annotations"
    )


def _fingerprint(parquet: pq.ParquetFile) -> str:
    """Digest of the footer, which was read to open the file."""
    footer = pa.BufferOutputStream()
    parquet.metadata.write_metadata_file(footer)
    return hashlib.sha256(footer.getvalue()).hexdigest()


def _digest(parquet: pq.ParquetFile, url: str, root: str, n_rows: int) -> str:
    """Digest of the first rows, whose paths are checked on the way."""
    digest = hashlib.sha256()
    for _, rows in pieces(parquet, f"manifest {url}", range(n_rows)):
        check_path_column(rows["path"], url, root)
        for row in zip(*(rows[name].to_pylist() for name in SCHEMA.names), strict=True):
            # repr is exact for floats, and its quotes keep ("a", "b") apart from ("a, b").
            digest.update(repr(row).encode() + b"\n")
    return digest.hexdigest()


@contextmanager
def _open_parquet(url: str) -> Iterator[pq.ParquetFile]:
    filesystem, path = filesystem_of(url)
    try:
        file = RetryingReader(filesystem, path)
    except OSError as error:
        raise ManifestError(f"can't read manifest {url}: {reason_of(error)}") from error
    with file:
        try:
            # A buffer: without one Arrow reads a whole row group's column into memory.
            yield pq.ParquetFile(file, buffer_size=_BUFFER_BYTES)
        except UnicodeDecodeError as error:
            raise ManifestError(f"manifest {url}: a text is not in UTF-8: {error}") from error
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


def _metadata(schema: pa.Schema) -> dict[str, str]:
    """Give what the schema's metadata has, as text."""
    return {
        key.decode(errors="replace"): value.decode(errors="replace")
        for key, value in (schema.metadata or {}).items()
        if key.startswith(b"staa.")
    }


def _check_metadata(schema: pa.Schema, url: str) -> None:
    check_columns(schema, f"manifest {url}")
    metadata = _metadata(schema)
    absent = [key for key in METADATA_KEYS if key not in metadata]
    if absent:
        raise ManifestError(f"manifest {url}: no {', '.join(absent)} in the schema's metadata")
    version = metadata["staa.manifest_version"]
    if version != FORMAT_VERSION:
        raise ManifestError(f"manifest {url}: version {version[:40]}, expected {FORMAT_VERSION}")
