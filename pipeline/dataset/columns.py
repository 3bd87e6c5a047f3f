"""The columns of a manifest, and tables of other programs brought to them.

pandas, polars and DuckDB write large strings, dictionaries, another order and further columns, and
NaN where nothing is: that is the same table, and is read as it. What says something else is refused
by the column that does.
"""

import re
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ManifestError
from pipeline.text import holds_credentials, without_credentials

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
REQUIRED = tuple(field.name for field in SCHEMA if not field.nullable)

_SUSPICIOUS = r"^$|^[/\\]|\.\.|^\w:[/\\]|://|="
"""What a path has of which `check_paths` may complain; the others needn't be looked at one by one.
"""


def check_columns(schema: pa.Schema, where: str) -> list[str]:
    """Columns of a manifest that a table has, in the manifest's order.

    Raises
    ------
    ManifestError
        Names a column that is absent, given twice, or of a type that it can't have.
    """
    for name in SCHEMA.names:
        if schema.names.count(name) > 1:
            raise ManifestError(f"{where}: column {name} is there twice, expected it once")
    absent = [name for name in REQUIRED if name not in schema.names]
    if absent:
        got = ", ".join(schema.names[:8]) or "none"
        raise ManifestError(f"{where}: has no column {', '.join(absent)}; its columns are {got}")
    present = [field for field in SCHEMA if field.name in schema.names]
    for field in present:
        found = schema.field(field.name).type
        if not _is_convertible(found, field.type):
            wanted = "text" if field.type == pa.string() else "numbers of seconds"
            raise ManifestError(
                f"{where}: column {field.name} is of type {str(found)[:60]}, expected {wanted}"
            )
    return [field.name for field in present]


def as_manifest(table: pa.Table, where: str, first_row: int = 0) -> pa.Table:
    """Bring a table whose columns were checked to `SCHEMA`; absent ones are null.

    Raises
    ------
    ManifestError
        Names the row of a value that can't be had, and of one that is absent and may not be.
    """
    columns = [
        _converted(table[field.name], field, where, first_row)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in SCHEMA
    ]
    return pa.table(columns, schema=SCHEMA)


def as_text(column: pa.ChunkedArray, name: str, where: str, first_row: int = 0) -> pa.ChunkedArray:
    """Text of a column of text or of whole numbers; NaN is null.

    Raises
    ------
    ManifestError
        Names the first value that is neither.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = kind.value_type
    if pa.types.is_floating(kind):
        # pandas has no other whole numbers in a column where some are absent.
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
        odd = pc.index(pc.not_equal(column, pc.floor(column)), True).as_py()
        if odd >= 0:
            raise ManifestError(
                f"{where}: {name} {column[odd].as_py()} in row {first_row + odd}: expected text or "
                "a whole number"
            )
        column = column.cast(pa.int64())
    return column.cast(pa.string())


def _is_convertible(found: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_dictionary(found):
        found = found.value_type
    if pa.types.is_null(found):
        return True
    is_number = pa.types.is_integer(found) or pa.types.is_floating(found)
    if wanted == pa.float64():
        return bool(is_number or pa.types.is_decimal(found))
    is_text = pa.types.is_string(found) or pa.types.is_large_string(found)
    return bool(is_text or is_number or pa.types.is_string_view(found))


def _converted(
    column: pa.ChunkedArray, field: pa.Field, where: str, first_row: int
) -> pa.ChunkedArray:
    if column.type != field.type:
        if field.type == pa.string():
            column = as_text(column, field.name, where, first_row)
        else:
            if pa.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            column = column.cast(pa.float64())
    if field.type == pa.float64():
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
    if not field.nullable and column.null_count:
        row = first_row + pc.index(pc.is_null(column), True).as_py()
        raise ManifestError(f"{where}: {field.name} of row {row} is null, expected text")
    return column


def check_path_column(paths: pa.ChunkedArray, where: str, root: str = "") -> None:
    """`check_paths` of a column, of which the most are seen at once to be harmless."""
    suspicious = paths.filter(pc.match_substring_regex(paths, _SUSPICIOUS))
    check_paths(suspicious.to_pylist(), where, root)


def check_paths(paths: Iterable[str], where: str, root: str = "") -> None:
    """Refuse a path that could name something outside the root, wherever the root is.

    Parameters
    ----------
    root
        Where the paths are below: over HTTP a name may be a signed URL's.

    Raises
    ------
    ManifestError
        Names the path, and ``where`` it stands.
    """
    of_http = root.startswith(("http://", "https://"))
    for path in paths:
        parts = re.split(r"[/\\]", path)
        if not parts[0] or ".." in parts or re.match(r"\w:[/\\]|[\w+.-]+://", path):
            raise ManifestError(
                f"path {without_credentials(path)!r} in {where}: expected a path below the root, "
                "relative, without .."
            )
        # It would stand in the store, the table of failures and reports.
        if "=" in path and holds_credentials(f"{root}/{path}" if of_http else path):
            raise ManifestError(
                f"path {without_credentials(path)!r} in {where} holds credentials or a signature, "
                "which belong into the environment or fsspec's configuration"
            )
