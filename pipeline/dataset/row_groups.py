"""Rows of a Parquet file in bounded memory, however its writer cut it into row groups."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.dataset.columns import as_manifest, as_text, check_columns

ROWS_PER_GROUP = 8192
"""Rows of a Parquet row group: what a worker reads to get one of its rows, about 1 MB."""

ROWS_READ_AT_ONCE = 1 << 18
"""A row group of more is read in pieces, whoever wrote it: memory is bounded, whatever is read."""


def group_ranges(parquet: pq.ParquetFile) -> list[range]:
    """Rows of each row group."""
    sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    ends = np.cumsum(sizes).tolist()
    return [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def pieces(
    parquet: pq.ParquetFile,
    where: str,
    rows: range,
    columns: list[str] | None = None,
    *,
    at_once: int = ROWS_READ_AT_ONCE,
) -> Iterator[tuple[int, pa.Table]]:
    """Read some rows, in tables as `SCHEMA` has it, each with the number of its first row.

    Parameters
    ----------
    where
        Names the file in messages.
    columns
        Columns of text to read, as text, in place of those of `SCHEMA`.
    at_once
        Most rows that are read at a time, as in `tables`.
    """
    wanted = columns or check_columns(parquet.schema_arrow, where)
    for start, table in tables(parquet, rows, wanted, at_once=at_once):
        skipped = max(0, rows.start - start)
        table, first = table.slice(skipped, rows.stop - start - skipped), start + skipped
        if columns is None:
            yield first, as_manifest(table, where, first)
        else:
            yield (
                first,
                pa.table({name: as_text(table[name], name, where, first) for name in wanted}),
            )


def pieces_with(
    parquet: pq.ParquetFile,
    where: str,
    rows: NDArray[np.integer],
    *,
    at_once: int = ROWS_READ_AT_ONCE,
) -> Iterator[pa.Table]:
    """Read rows by number, in ascending order, from the row groups that hold them alone."""
    for group in group_ranges(parquet):
        wanted = rows[(rows >= group.start) & (rows < group.stop)]
        if not len(wanted):
            continue
        for start, piece in pieces(parquet, where, group, at_once=at_once):
            inside = wanted[(wanted >= start) & (wanted < start + piece.num_rows)]
            yield piece.take(pa.array(inside - start))


def tables(
    parquet: pq.ParquetFile,
    rows: range,
    columns: list[str] | None = None,
    *,
    at_once: int = ROWS_READ_AT_ONCE,
) -> Iterator[tuple[int, pa.Table]]:
    """Read tables that hold some rows, and others around them, as they are in the file.

    Each comes with the number of its first row. Without ``columns`` they have all.

    Small row groups are read together, up to ``at_once`` rows. A larger one is read from its start,
    as Parquet has no other way, in pieces of a quarter of ``at_once``.
    """
    together: list[int] = []
    first = n_together = 0
    for group, held in enumerate(group_ranges(parquet)):
        if held.start >= rows.stop or held.stop <= rows.start:
            continue
        if together and n_together + len(held) > at_once:
            yield first, parquet.read_row_groups(together, columns=columns)
            together, n_together = [], 0
        if len(held) <= at_once:
            first = first if together else held.start
            together.append(group)
            n_together += len(held)
            continue
        start = held.start
        of_piece = max(1, at_once // 4)
        for batch in parquet.iter_batches(of_piece, row_groups=[group], columns=columns):
            if start >= rows.stop:
                break
            if start + batch.num_rows > rows.start:
                yield start, pa.Table.from_batches([batch])
            start += batch.num_rows
    if together:
        yield first, parquet.read_row_groups(together, columns=columns)
