"""Any Parquet or CSV table with a column of paths to the columns of a manifest.

Nothing is guessed: a column is taken by the name that manifests have for it, by the one name of its
kind that there is, or by what `columns` says. Spaces around names and values, as behind the commas
of a CSV, are no part of them.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.dataset.columns import SCHEMA, as_manifest, as_text, check_columns
from pipeline.dataset.listing import Listing
from pipeline.dataset.manifest import filesystem_of
from pipeline.dataset.row_groups import ROWS_READ_AT_ONCE, tables
from pipeline.errors import ManifestError, reason_of
from pipeline.storage.files import RetryingReader

_BUFFER_BYTES = 1 << 20
_HEAD_BYTES = 1 << 16
"""Bytes that are read to know a file's kind, and the header if it is a CSV."""

_QUOTED = r'^\s+"((?:[^"]|"")*)"\s*$'
"""A value in quotes with a space before them."""
_NAMES = {
    "path": (
        *("path", "filepath", "file_path", "filename", "file_name", "file", "video_path"),
        *("video_file", "clip_path", "relative_path", "relpath", "uri", "url", "video", "clip"),
    ),
    "label": ("label", "class", "class_name", "category", "action", "target", "label_name"),
    "video_id": ("video_id",),
    "start_time": ("start_time", "time_start"),
    "end_time": ("end_time", "time_end"),
    "split": ("split",),
}
"""Names that a column of a manifest has in other tables; the first is the manifest's own."""


@dataclass(frozen=True)
class AtOnce:
    """How much of a table is read at a time, which bounds the memory that it takes."""

    rows: int = ROWS_READ_AT_ONCE
    """Rows of a Parquet file, as `pipeline.dataset.row_groups.tables` has it."""
    csv_bytes: int = 1 << 23
    """Bytes of a CSV; a longer row is refused."""


def read_table(
    url: str, listing: Listing, columns: Mapping[str, str], at_once: AtOnce
) -> Iterator[pa.Table]:
    """Read a table of clips piece by piece, in bounded memory however many rows it has.

    Parameters
    ----------
    columns
        Names of the table's columns by the manifest's, where they aren't to be found by themselves;
        an empty name for a column that is to be null.

    Yields
    ------
    Tables that begin with the manifest's columns, and have the others behind, whose values stay as
    they are.

    Raises
    ------
    ManifestError
        When it is no table, has no column of paths, or several that may be meant, or a value isn't
        of its column's kind; names the row.
    """
    where = f"layout table: {url}"
    filesystem, path = filesystem_of(url)
    try:
        with RetryingReader(filesystem, path) as file:
            start = file.read(_HEAD_BYTES)
            file.seek(0)
            is_parquet = start.startswith(b"PAR1")
            names, pieces = (
                _parquet(file, at_once.rows)
                if is_parquet
                else _csv(file, start, url, at_once.csv_bytes)
            )
            for name in names:
                if names.count(name) > 1:
                    raise ManifestError(
                        f"{where}: column {name[:60]!r} is there twice, expected it once"
                    )
            bare = _bare_names(names)
            chosen = _chosen(list(bare.values()), where, columns)
            first_row = 0
            for piece in pieces:
                renamed = piece.rename_columns([bare[name] for name in piece.column_names])
                yield _as_rows(renamed, chosen, listing, where, first_row)
                first_row += piece.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"layout table: can't read {url}: {reason_of(error)}") from error


def _parquet(file: RetryingReader, at_once: int) -> tuple[list[str], Iterator[pa.Table]]:
    """Names of a Parquet file's columns, and its rows."""
    # A buffer: without one Arrow holds a whole row group's column beside the table.
    parquet = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES)
    rows = tables(parquet, range(parquet.metadata.num_rows), at_once=at_once)
    return parquet.schema_arrow.names, (table.replace_schema_metadata(None) for _, table in rows)


def _csv(
    file: RetryingReader, start: bytes, url: str, block_bytes: int
) -> tuple[list[str], Iterator[pa.Table]]:
    """Names of a CSV's columns, and its rows, of which every value is text."""
    # Lines may end as on old Macs, too.
    text = io.StringIO(start.decode("utf-8-sig", errors="replace"), newline=None).read()
    header = text.split("\n", 1)[0]
    delimiter = next((mark for mark in "\t;" if mark in header and "," not in header), ",")
    try:
        names = next((row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row), [])
        reader = pa.csv.open_csv(
            file,
            read_options=pa.csv.ReadOptions(block_size=block_bytes),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                # Values stay text: what looks like a number may be an id with zeros before it.
                column_types=dict.fromkeys(names, pa.string()),
                # Also those in quotes: some programs quote every value, absent ones too.
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
    except (pa.ArrowException, csv.Error) as error:
        raise _no_csv(url, error) from error

    def pieces() -> Iterator[pa.Table]:
        try:
            for batch in reader:
                table = pa.Table.from_batches([batch])
                columns = [_unquoted(column) for column in table.columns]
                yield pa.table(columns, names=table.column_names)
        except pa.ArrowException as error:
            raise _no_csv(url, error) from error

    return reader.schema.names, pieces()


def _no_csv(url: str, error: Exception) -> ManifestError:
    return ManifestError(
        f"layout table: {url} is no Parquet file, and no CSV with a header: {reason_of(error)}"
    )


def _unquoted(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Take off quotes that Arrow has left, as a space is between them and the comma."""
    inside = pc.replace_substring_regex(column, _QUOTED, r"\1")
    return pc.if_else(
        pc.match_substring_regex(column, _QUOTED),
        pc.replace_substring(inside, '""', '"'),
        column,
    )


def _bare_names(names: list[str]) -> dict[str, str]:
    """Name of each column without spaces and quotes around it, where no two become the same."""
    bare = [re.sub(_QUOTED, r"\1", name).strip() for name in names]
    return {
        name: short if bare.count(short) == 1 else name
        for name, short in zip(names, bare, strict=True)
    }


def _as_rows(
    table: pa.Table, chosen: Mapping[str, str], listing: Listing, where: str, first_row: int
) -> pa.Table:
    """Rows of a table as those of a manifest, with its other columns behind."""
    found = {name: table[column] for name, column in chosen.items()}
    is_plain = _is_plain(found["path"])
    paths = as_text(found["path"], "path", where, first_row) if is_plain else None
    if paths is None or paths.null_count:
        kind = found["path"].type if paths is None else "null in some rows"
        raise ManifestError(f"{where}: column {chosen['path']} is {str(kind)[:60]}, expected text")
    found |= {name: _trimmed(found[name]) for name in found if name != "path"}
    paths = _paths_of_files(paths, listing)
    found["path"], stems = paths, _stems(paths)
    if "video_id" in found and _is_plain(found["video_id"]):
        ids = as_text(found["video_id"], "video_id", where, first_row)
        found["video_id"] = pc.coalesce(ids, stems)
    else:
        found.setdefault("video_id", stems)
    for name in ("start_time", "end_time"):
        if name in found and pa.types.is_string(found[name].type):
            found[name] = _numbers(found[name], name, where)
    meant = pa.table(found)
    check_columns(meant.schema, where)
    manifest = as_manifest(meant, where, first_row)
    for name in table.column_names:
        if name not in chosen.values():
            # A further column may have a name that means something in a manifest.
            further = f"{name}_of_table" if name in SCHEMA.names else name
            manifest = manifest.append_column(further, table[name])
    return manifest


def _chosen(names: list[str], where: str, columns: Mapping[str, str]) -> dict[str, str]:
    """Column of the table for each of the manifest's that it has."""
    if unknown := [name for name in columns if name not in _NAMES]:
        raise ManifestError(
            f"columns: {unknown[0][:60]!r} is no column of a manifest; expected of "
            f"{', '.join(_NAMES)}"
        )
    columns = {
        name: column if column in names else column.strip() for name, column in columns.items()
    }
    chosen = {}
    for name, known in _NAMES.items():
        if name in columns:
            if columns[name] and columns[name] not in names:
                raise ManifestError(
                    f"{where}: has no column {columns[name][:60]!r}; {_told(names)}"
                )
            candidates = [columns[name]] if columns[name] else []
        else:
            taken = set(columns.values())
            candidates = [
                column for column in names if column.casefold() in known and column not in taken
            ]
            if name in candidates:
                candidates = [name]
        if len(candidates) > 1:
            raise ManifestError(
                f"{where}: {' and '.join(candidates[:4])} may be the {name}; expected one of them "
                f"in --columns {name}={candidates[0]}"
            )
        if candidates:
            chosen[name] = candidates[0]
    if "path" not in chosen:
        raise ManifestError(
            f"{where}: has no column that is known for paths; {_told(names)}; expected one of them "
            "in --columns path=NAME"
        )
    return chosen


def _told(names: list[str]) -> str:
    return f"its columns are {', '.join(name[:30] for name in names[:6]) or 'none'}"


def _is_plain(column: pa.ChunkedArray) -> bool:
    kind = column.type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
    )


def _paths_of_files(paths: pa.ChunkedArray, listing: Listing) -> pa.ChunkedArray:
    """Paths below the root, without spaces around them unless a file's name has these."""
    as_given = listing.all_below_root(paths)
    bare = listing.all_below_root(pc.utf8_trim_whitespace(paths))
    in_doubt = pc.not_equal(as_given, bare)
    if not pc.any(in_doubt).as_py():
        return as_given
    is_file = [
        is_other and listing.holds(path)
        for is_other, path in zip(in_doubt.to_pylist(), as_given.to_pylist(), strict=True)
    ]
    return pc.if_else(pa.array(is_file), as_given, bare)


def _trimmed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text without spaces around it, null where nothing is left; anything else as it is."""
    kind = column.type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    ):
        return column
    bare = pc.utf8_trim_whitespace(column.cast(kind).cast(pa.string()))
    return pc.if_else(pc.equal(bare, ""), pa.scalar(None, pa.string()), bare)


def _stems(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Names of files without folder and suffix."""
    names = pc.replace_substring_regex(paths, r"^.*/", "")
    return pc.replace_substring_regex(names, r"(.)\.[^.]*$", r"\1")


def _numbers(column: pa.ChunkedArray, name: str, where: str) -> pa.ChunkedArray:
    try:
        return column.cast(pa.float64())
    except pa.ArrowException as error:
        raise ManifestError(
            f"{where}: column {name} is no number of seconds everywhere: {reason_of(error)}"
        ) from error
