"""Rows of a Parquet file, whatever its row groups: the same as reading all of it."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.manifest import SCHEMA
from pipeline.dataset.row_groups import group_ranges, pieces, pieces_with


def written(folder, sizes):
    """A file whose row groups have these sizes; each row is known by its id."""
    n_rows = sum(sizes)
    rows = [{"video_id": f"v{n}", "path": f"{n}.mp4"} for n in range(n_rows)]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    path = folder / "m.parquet"
    with pq.ParquetWriter(path, SCHEMA) as writer:
        start = 0
        for size in sizes:
            writer.write_table(table.slice(start, size), row_group_size=size)
            start += size
    return pq.ParquetFile(path), n_rows


def ids(rows):
    return [f"v{row}" for row in rows]


some_sizes = st.lists(st.integers(1, 15), min_size=1, max_size=6)


@given(sizes=some_sizes, at_once=st.integers(1, 9), data=st.data())
def test_rows_in_a_range_and_by_number_are_those_of_the_whole_file(
    tmp_path_factory, sizes, at_once, data
):
    parquet, n_rows = written(tmp_path_factory.mktemp("rows"), sizes)
    assert [len(rows) for rows in group_ranges(parquet)] == sizes
    start = data.draw(st.integers(0, n_rows - 1))
    stop = data.draw(st.integers(start + 1, n_rows))
    got, expected_first = [], start
    for first, table in pieces(parquet, "m", range(start, stop), at_once=at_once):
        assert first == expected_first
        assert table.num_rows <= at_once
        expected_first += table.num_rows
        got += table["video_id"].to_pylist()
    assert got == ids(range(start, stop))

    chosen = sorted(data.draw(st.sets(st.integers(0, n_rows - 1))))
    tables = list(pieces_with(parquet, "m", np.array(chosen, np.int64), at_once=at_once))
    assert [row for table in tables for row in table["video_id"].to_pylist()] == ids(chosen)


def test_only_row_groups_that_hold_a_row_are_read(tmp_path):
    parquet, _ = written(tmp_path, [3, 3, 3, 3])
    read = []

    class Noting:
        def __getattr__(self, name):
            return getattr(parquet, name)

        def read_row_groups(self, groups, columns):
            read.extend(groups)
            return parquet.read_row_groups(groups, columns=columns)

    (table,) = pieces_with(Noting(), "m", np.array([7]))
    assert table["video_id"].to_pylist() == ["v7"]
    assert read == [2]
