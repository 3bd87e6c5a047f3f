"""Any Parquet or CSV table with a column of paths to the columns of a manifest.

Nothing is guessed: a column is taken by the name that manifests have for it, by the one name of its
kind that there is, or by what `columns` says.
"""

import io
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.dataset.annotations import read_text
from pipeline.dataset.columns import SCHEMA, as_manifest, as_text, check_columns
from pipeline.dataset.listing import Listing
from pipeline.dataset.manifest import filesystem_of
from pipeline.errors import ManifestError, reason_of
from pipeline.storage.files import RetryingReader, check_is_file
from pipeline.storage.retries import with_retries

_BUFFER_BYTES = 1 << 20

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


def read_table(url: str, listing: Listing, columns: Mapping[str, str]) -> pa.Table:
    """Read a table of clips.

    Parameters
    ----------
    columns
        Names of the table's columns by the manifest's, where they aren't to be found by themselves;
        an empty name for a column that is to be null.

    Returns
    -------
    A table that begins with the manifest's columns, and has the others behind.

    Raises
    ------
    ManifestError
        When it is no table, has no column of paths, or several that may be meant, or a value isn't
        of its column's kind; names the row.
    """
    where = f"layout table: {url}"
    table = _read(url)
    for name in table.column_names:
        if table.column_names.count(name) > 1:
            raise ManifestError(f"{where}: column {name[:60]!r} is there twice, expected it once")
    chosen = _chosen(table.column_names, where, columns)
    found = {name: table[column] for name, column in chosen.items()}
    paths = as_text(found["path"], "path", where) if _is_plain(found["path"]) else None
    if paths is None or paths.null_count:
        kind = found["path"].type if paths is None else "null in some rows"
        raise ManifestError(f"{where}: column {chosen['path']} is {str(kind)[:60]}, expected text")
    paths = listing.all_below_root(paths)
    found["path"], stems = paths, _stems(paths)
    if "video_id" in found and _is_plain(found["video_id"]):
        ids = as_text(found["video_id"], "video_id", where)
        found["video_id"] = pc.coalesce(ids, stems)
    else:
        found.setdefault("video_id", stems)
    for name in ("start_time", "end_time"):
        if name in found and pa.types.is_string(found[name].type):
            found[name] = _numbers(found[name], name, where)
    meant = pa.table(found)
    check_columns(meant.schema, where)
    manifest = as_manifest(meant, where)
    for name in table.column_names:
        if name not in chosen.values():
            # A further column may have a name that means something in a manifest.
            further = f"{name}_of_table" if name in SCHEMA.names else name
            manifest = manifest.append_column(further, table[name])
    return manifest


def _read(url: str) -> pa.Table:
    filesystem, path = filesystem_of(url)
    try:
        check_is_file(filesystem, path)
        start = with_retries(url, lambda: filesystem.cat_file(path, start=0, end=4))
        if start == b"PAR1":
            # A buffer: without one Arrow holds a whole row group's column beside the table.
            with RetryingReader(filesystem, path) as file:
                table = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES).read()
            return table.replace_schema_metadata(None)
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"layout table: can't read {url}: {reason_of(error)}") from error
    text = read_text(url, "table")
    header = text.split("\n", 1)[0]
    delimiter = next((mark for mark in "\t;" if mark in header and "," not in header), ",")
    options = pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    try:
        # As text: what looks like a number may be an id with zeros before it.
        names = pa.csv.open_csv(
            io.BytesIO(text.encode()),
            parse_options=options,
            convert_options=pa.csv.ConvertOptions(column_types={}),
        ).schema.names
        return pa.csv.read_csv(
            io.BytesIO(text.encode()),
            parse_options=options,
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )
    except pa.ArrowException as error:
        raise ManifestError(
            f"layout table: {url} is no Parquet file, and no CSV with a header: {reason_of(error)}"
        ) from error


def _chosen(names: list[str], where: str, columns: Mapping[str, str]) -> dict[str, str]:
    """Column of the table for each of the manifest's that it has."""
    if unknown := [name for name in columns if name not in _NAMES]:
        raise ManifestError(
            f"columns: {unknown[0][:60]!r} is no column of a manifest; expected of "
            f"{', '.join(_NAMES)}"
        )
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
