"""Dataset layouts to one Parquet manifest: every clip that is to be explained, in a fixed order.

Row i of the manifest is row i of every array of a run's store, so the order never depends on
anything but the input: annotation files keep theirs, listings are sorted. A clip that is annotated
but absent stays a row, and becomes a named failure when it is decoded.

Columns: ``video_id`` string; ``path`` string, below the root, with ``/`` between its parts;
``label`` string, a class name or an integer as text; ``start_time`` and ``end_time`` float64, where
in the source video the clip lies, in s; ``split`` string. All but the first two may be null. The
root, any fsspec URL, is in the Parquet schema's metadata.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import ManifestError

Layout = Literal["kinetics", "folders", "list", "files"]

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

KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
VIDEO_SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".ogv", ".webm", ".wmv"),
)


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
    """

    url: str
    root: str
    layout: str
    n_rows: int
    digest: str

    def rows(self, start: int, stop: int) -> pa.Table:
        """Read rows ``start`` to ``stop`` (exclusive), from the row groups that hold them alone.

        Raises
        ------
        ManifestError
            When the range isn't inside the manifest, or a path leaves the root.
        """
        if not 0 <= start <= stop <= self.n_rows:
            raise ManifestError(
                f"rows {start} to {stop} of {self.url}: expected a range in 0 to {self.n_rows}"
            )
        with _open_parquet(self.url) as parquet:
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
        _check_paths(table["path"].to_pylist(), self.url)
        return table.replace_schema_metadata(None)

    def take(self, rows: NDArray[np.integer]) -> pa.Table:
        """Read rows by number, in ascending order; a row group is read once for all of its rows.

        Raises
        ------
        ManifestError
            When a row isn't in the manifest, or a path leaves the root.
        """
        tables = [SCHEMA.empty_table()]
        groups = rows // ROWS_PER_GROUP
        for group in np.unique(groups):
            start = int(group) * ROWS_PER_GROUP
            table = self.rows(start, min(start + ROWS_PER_GROUP, self.n_rows))
            tables.append(table.take(pa.array(rows[groups == group] - start)))
        return pa.concat_tables(tables)

    def distinct_labels(self) -> list[tuple[str, int]]:
        """Labels in order of their first row, each with that row; null is not a label.

        Reads the label column row group by row group.
        """
        first_rows: dict[str, int] = {}
        with _open_parquet(self.url) as parquet:
            offset = 0
            for group in range(parquet.num_row_groups):
                labels = parquet.read_row_group(group, columns=["label"])["label"].to_pylist()
                for row, label in enumerate(labels, start=offset):
                    if label is not None:
                        first_rows.setdefault(label, row)
                offset += len(labels)
        return list(first_rows.items())


def build_manifest(
    *, layout: str, clips: str, annotations: str | None = None, split: str | None = None
) -> pa.Table:
    """List a dataset's clips.

    Parameters
    ----------
    layout
        ``kinetics``: an annotation CSV with the columns ``label, youtube_id, time_start, time_end,
        split``, and files ``<youtube_id>_<start>_<end>.<suffix>``, times in s to six digits,
        anywhere under ``clips``; of files with one name the first in sorted order counts.
        ``folders``: a folder per class, files below it. ``list``: a list file with a path, and
        optionally a label, per line: what follows a tab or, in a line without one, what follows the
        last space, if that is behind a file name's suffix (so that a path may hold spaces). Empty
        lines and those that start with ``#`` are passed over. ``files``: a folder and what is below
        it, a glob, or one file; no labels.
    clips
        URL of the folder that holds the clips and becomes the manifest's root.
    annotations
        URL of the CSV (``kinetics``) or of the list file (``list``).
    split
        Keep the CSV's rows of this split alone (``kinetics``).

    Returns
    -------
    A table with the manifest's columns, its root and layout in the schema's metadata.

    Raises
    ------
    ManifestError
        When the layout is unknown, what it needs is absent or malformed, a path leaves the root, or
        there is no clip.
    """
    if layout not in get_args(Layout):
        raise ManifestError(f"layout {layout!r}: expected one of {', '.join(get_args(Layout))}")
    if (annotations is None) == (layout in ("kinetics", "list")):
        wanted = "none" if annotations else "the URL of the CSV or list file"
        raise ManifestError(f"layout {layout}: annotations is {annotations!r}, expected {wanted}")
    if split is not None and layout != "kinetics":
        raise ManifestError(f"layout {layout}: split is {split!r}, expected none; kinetics has it")

    try:
        root, listing = _list_clips(clips, layout)
    except OSError as error:
        raise ManifestError(f"layout {layout}: can't list {clips}: {error}") from error
    rows: Iterable[dict[str, Any]]
    if layout == "kinetics":
        rows = _kinetics_rows(str(annotations), listing, split)
    elif layout == "list":
        rows = _list_rows(str(annotations))
    elif layout == "folders":
        rows = (_row(path, label=path.split("/")[0]) for path in listing if "/" in path)
    else:
        rows = (_row(path) for path in listing)
    metadata = dict(zip(METADATA_KEYS, (FORMAT_VERSION, root, layout), strict=True))
    try:
        table = pa.Table.from_pylist(list(rows), schema=SCHEMA.with_metadata(metadata))
    except csv.Error as error:
        raise ManifestError(f"layout {layout}: {annotations} is not CSV: {error}") from error
    except UnicodeEncodeError as error:
        raise ManifestError(
            f"layout {layout}: {error.object!r} below {clips}: expected names in UTF-8"
        ) from error
    if table.num_rows == 0:
        of_split = f" of split {split!r}" if split else ""
        wanted = ", expected a folder for each class" if layout == "folders" else ""
        raise ManifestError(f"layout {layout}: no clip{of_split} in {annotations or clips}{wanted}")
    _check_paths(table["path"].to_pylist(), annotations or clips)
    return table


def write_manifest(table: pa.Table, url: str, *, rows_per_group: int = ROWS_PER_GROUP) -> None:
    """Write a table from `build_manifest` to a Parquet file at any fsspec URL.

    Raises
    ------
    ManifestError
        When the table isn't a manifest.
    """
    _check_schema(table.schema, url)
    with fsspec.open(url, "wb") as file:
        pq.write_table(table, file, row_group_size=rows_per_group)


def read_manifest(url: str) -> Manifest:
    """Open a manifest and check it, row group by row group.

    Raises
    ------
    ManifestError
        When there is no such file, it isn't a manifest of this version, or a path leaves the root.
    """
    digest = hashlib.sha256()
    with _open_parquet(url) as parquet:
        metadata = _check_schema(parquet.schema_arrow, url)
        for group in range(parquet.num_row_groups):
            rows = parquet.read_row_group(group, columns=SCHEMA.names)
            _check_paths(rows["path"].to_pylist(), url)
            for row in zip(*(rows[name].to_pylist() for name in SCHEMA.names), strict=True):
                # repr is exact for floats, and its quotes keep ("a", "b") apart from ("a, b").
                digest.update(repr(row).encode() + b"\n")
        return Manifest(
            url=url,
            root=metadata["staa.root"],
            layout=metadata["staa.layout"],
            n_rows=parquet.metadata.num_rows,
            digest=digest.hexdigest(),
        )


def _list_clips(clips: str, layout: str) -> tuple[str, list[str]]:
    """Root URL, and the sorted paths below it of the video files that are there."""
    filesystem, base = _filesystem(clips)
    if filesystem.isdir(base):
        if layout == "list":
            return _root_url(filesystem, base, clips), []
        found = filesystem.find(base)
    elif layout != "files":
        raise ManifestError(f"layout {layout}: {clips} is not a folder, expected that of the clips")
    elif filesystem.isfile(base):
        # Asked for by name, so whatever its suffix is.
        base, name = base.rsplit("/", 1)
        return _root_url(filesystem, base, clips), [name]
    elif re.search(r"[*?[]", base):
        found = filesystem.glob(base)
        fixed = re.split(r"[*?[]", base, maxsplit=1)[0]
        base = fixed.rsplit("/", 1)[0]
    else:
        raise ManifestError(f"layout {layout}: nothing at {clips}, expected a folder, glob or file")
    prefix = base.rstrip("/") + "/"
    paths = [path.removeprefix(prefix) for path in found]
    videos = [path for path in paths if PurePosixPath(path).suffix.lower() in VIDEO_SUFFIXES]
    return _root_url(filesystem, base, clips), sorted(videos)


def _root_url(filesystem: fsspec.AbstractFileSystem, base: str, clips: str) -> str:
    """URL under which workers find the folder; some hold more than a protocol and a path."""
    url = str(filesystem.unstrip_protocol(base))
    try:
        found = fsspec.core.url_to_fs(url) == (filesystem, base)
    except (OSError, ValueError, TypeError):
        found = False
    if not found:
        raise ManifestError(
            f"clips below {clips} can't be found again by {url}: expected a URL that is a protocol "
            "and a path, with hosts and credentials in fsspec's configuration"
        )
    return url


def _kinetics_rows(
    annotations: str, listing: list[str], split: str | None
) -> Iterator[dict[str, Any]]:
    by_name: dict[str, str] = {}
    for path in listing:
        by_name.setdefault(PurePosixPath(path).stem, path)
    reader = csv.DictReader(io.StringIO(_read_text(annotations, "kinetics"), newline=""))
    absent = [name for name in KINETICS_COLUMNS if name not in (reader.fieldnames or ())]
    if absent:
        raise ManifestError(
            f"layout kinetics: {annotations} has no column {', '.join(absent)}; "
            f"expected a header with {','.join(KINETICS_COLUMNS)}"
        )
    for row in reader:
        where = f"layout kinetics: {annotations} line {reader.line_num}"
        if None in row or None in row.values() or not row["youtube_id"]:
            raise ManifestError(f"{where}: expected one value a column, youtube_id not empty")
        try:
            start, end = float(row["time_start"]), float(row["time_end"])
            name = f"{row['youtube_id']}_{int(start):06d}_{int(end):06d}"
        except (ValueError, OverflowError):
            raise ManifestError(
                f"{where}: times are {row['time_start']!r} and {row['time_end']!r}, expected s"
            ) from None
        if split is None or row["split"] == split:
            yield {
                "video_id": row["youtube_id"],
                "path": by_name.get(name, f"{name}.mp4"),
                "label": row["label"] or None,
                "start_time": start,
                "end_time": end,
                "split": row["split"] or None,
            }


def _list_rows(annotations: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_read_text(annotations, "list").split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if "\t" in line:
            path, _, label = line.partition("\t")
        else:
            path, _, label = line.strip().rpartition(" ")
            if PurePosixPath(path.rstrip()).suffix.lower() not in VIDEO_SUFFIXES:
                path, label = line, ""
        path, label = path.strip(), label.strip()
        if not path or "\t" in label:
            raise ManifestError(
                f"layout list: {annotations} line {number}: {line!r}, expected a path and a label"
            )
        yield _row(path, label=label or None)


def _row(path: str, *, label: str | None = None) -> dict[str, Any]:
    return {"video_id": PurePosixPath(path).stem, "path": path, "label": label}


def _read_text(url: str, layout: str) -> str:
    try:
        filesystem, path = _filesystem(url)
        # `utf-8-sig`: a spreadsheet puts a byte order mark before the first column's name.
        return str(filesystem.cat_file(path).decode("utf-8-sig"))
    except OSError as error:
        raise ManifestError(f"layout {layout}: can't read {url}: {error}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"layout {layout}: {url} is not text in UTF-8: {error}") from error


@contextmanager
def _open_parquet(url: str) -> Iterator[pq.ParquetFile]:
    filesystem, path = _filesystem(url)
    try:
        file = filesystem.open(path, "rb")
    except OSError as error:
        raise ManifestError(f"can't read manifest {url}: {error}") from error
    with file:
        try:
            yield pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise ManifestError(
                f"manifest {url} is not a Parquet file, or not a whole one: {reason}"
            ) from error


def _filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise ManifestError(f"no access to {url}: {error}") from error
    return filesystem, path


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


def _check_paths(paths: Iterable[str], where: str) -> None:
    """Refuse a path that could name something outside the root, wherever the root is."""
    for path in paths:
        parts = re.split(r"[/\\]", path)
        if not parts[0] or ".." in parts or re.match(r"\w:[/\\]|[\w+.-]+://", path):
            raise ManifestError(
                f"path {path!r} in {where}: expected a path below the root, relative, without .."
            )
