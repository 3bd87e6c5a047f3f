"""Findings and scores as tables for other tools: Parquet, CSV and JSON."""

import ast
import io
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.audit.audit import read_findings
from analysis.audit.finding import as_table
from analysis.score_table import scores
from pipeline.errors import ConfigError

TableFormat = Literal["parquet", "csv", "json"]

# Their full-width forms are meant, too.
_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
"""What spreadsheets take for the start of a formula, as OWASP lists it."""
_ESCAPED = (*_STARTS_A_FORMULA, "'")
_ROWS_AT_ONCE = 4096

_IN_A_CONDITION = (
    *(ast.Expression, ast.BoolOp, ast.boolop, ast.BinOp, ast.operator, ast.UnaryOp, ast.unaryop),
    *(ast.Compare, ast.cmpop, ast.Name, ast.Constant, ast.List, ast.Tuple, ast.expr_context),
)
"""What a condition may be made of: nothing that calls, looks into objects or assigns."""


def findings_table(run_url: str, *, where: str | None = None) -> pd.DataFrame:
    """Give a run's findings as a ranked table, as `jobs.audit` has kept them.

    Parameters
    ----------
    where
        Condition on the columns, such as ``kind == 'logo' and q < 0.01``; by default all findings.

    Raises
    ------
    StoreError
        When the run hasn't been audited as it is now.
    ConfigError
        When the condition can't be used.
    """
    return select(as_table(read_findings(run_url)), where)


def scores_table(
    run_url: str, *, where: str | None = None, rows: Sequence[int] = ()
) -> pd.DataFrame:
    """Give a run's scores, as `jobs.aggregate` has kept them, with ``row`` as first column.

    Parameters
    ----------
    where
        Condition on the columns, such as ``label == 'archery' and entropy > 0.9``.
    rows
        Rows of the run to choose from, in the order in which they are wanted; by default all.

    Raises
    ------
    StoreError
        When the table isn't there, or is of other rows than the run has now.
    ConfigError
        When the condition can't be used, or a row isn't in the run.
    """
    table = scores(run_url, make=False)
    if rows:
        unknown = [row for row in rows if row not in table.index]
        if unknown:
            raise ConfigError(
                f"rows: {run_url} has no row {unknown[0]}: expected 0 to {len(table) - 1}"
            )
        table = table.loc[list(dict.fromkeys(rows))]
    return select(table.reset_index(), where)


def select(table: pd.DataFrame, where: str | None) -> pd.DataFrame:
    """Take the rows of a table for which a condition on its columns holds.

    Raises
    ------
    ConfigError
        When the condition isn't one, or names no column of the table.
    """
    if where is None:
        return table
    columns = f"the columns are {', '.join(map(str, table.columns))}"
    try:
        _check_condition(where)
        held = table.eval(where, engine="python", local_dict={}, global_dict={})
    # Of a text that is no condition, pandas raises whatever that comes to.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"where: {where!r} can't be used: {reason}; {columns}") from error
    if not (isinstance(held, pd.Series) and pd.api.types.is_bool_dtype(held.dtype)):
        raise ConfigError(
            f"where: {where!r} is no condition: expected one, such as probability > 0.9; {columns}"
        )
    return table[held.fillna(False).to_numpy(bool)]


def _check_condition(where: str) -> None:
    """Refuse what may do more than compare: a condition may come from a file of settings."""
    for node in ast.walk(ast.parse(where.strip(), mode="eval")):
        if not isinstance(node, _IN_A_CONDITION):
            raise ValueError(
                f"{type(node).__name__.lower()} isn't allowed; expected names of columns, values, "
                "comparisons, arithmetic, and, or, not, in"
            )


def encode(table: pd.DataFrame, form: TableFormat) -> bytes:
    """Write a table in one of the formats.

    Parquet keeps every type. In CSV (UTF-8, RFC 4180, lines end in CRLF) a missing value is an
    empty cell, nested values are JSON, and a text that a spreadsheet would take for a formula gets
    an apostrophe before it: `unescaped` takes it off. JSON is an array of objects; what is missing
    or not finite is null.
    """
    return _ENCODERS[form](table)


def unescaped(text: str) -> str:
    """Give back the text that a cell of the CSV stands for."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_ESCAPED) else text


def _as_parquet(table: pd.DataFrame) -> bytes:
    written = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), written, compression="zstd")
    return written.getvalue()


def _as_csv(table: pd.DataFrame) -> bytes:
    plain = pd.DataFrame(
        {position: _csv_column(table.iloc[:, position]) for position in range(table.shape[1])},
        index=table.index,
    )
    plain.columns = pd.Index([_cell(str(name)) for name in table.columns])
    # Only what is in the end of a line makes the writer quote a text: a CR alone must, too.
    text: str = plain.to_csv(index=False, lineterminator="\r\n")
    return text.encode()


def _csv_column(column: pd.Series) -> pd.Series:
    """Make every text of a column safe; numbers and truths stay what they are."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    if column.dtype.kind in "biuf":
        return column
    return column.map(_cell, na_action="ignore").astype(object)


def _cell(value: Any) -> Any:
    if isinstance(value, list | tuple | dict | np.ndarray):
        value = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    if isinstance(value, bool | int | float | np.number | np.bool_):
        return value
    text = str(value)
    return f"'{text}" if text.startswith(_ESCAPED) else text


def _as_json(table: pd.DataFrame) -> bytes:
    names = [str(name) for name in table.columns]
    written = []
    for start in range(0, len(table), _ROWS_AT_ONCE):
        part = table.iloc[start : start + _ROWS_AT_ONCE]
        columns = [
            [_plain(value) for value in part.iloc[:, at].to_numpy()] for at in range(len(names))
        ]
        written += [
            json.dumps(dict(zip(names, values, strict=True)), ensure_ascii=False, allow_nan=False)
            for values in zip(*columns, strict=True)
        ]
    return ("[\n" + ",\n".join(written) + "\n]\n").encode()


def _plain(value: Any) -> Any:
    """Give a value as JSON has it: null for what is missing or not finite."""
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(part) for part in value]
    if isinstance(value, np.float16 | np.float32):
        # The shortest number that is this one in its own precision.
        value = float(str(value))
    elif isinstance(value, np.datetime64):
        # As nanoseconds, it would become a number.
        value = None if np.isnat(value) else str(value)
    elif isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | bool | int) else str(value)


_ENCODERS: dict[TableFormat, Callable[[pd.DataFrame], bytes]] = {
    "parquet": _as_parquet,
    "csv": _as_csv,
    "json": _as_json,
}
assert set(_ENCODERS) == set(get_args(TableFormat))
