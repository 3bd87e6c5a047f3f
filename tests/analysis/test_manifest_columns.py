"""Columns of a manifest for the rows of a run."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis import open_run
from analysis.manifest_columns import ManifestColumns
from pipeline.errors import ManifestError, StoreError


def columns_of(url, manifest=None):
    notes = []
    return ManifestColumns.of_run(open_run(url), manifest, notes), notes


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_rows_are_those_of_the_table_however_it_is_cut(scored, tmp_path, data):
    columns, _ = columns_of(scored[0])
    table = columns.file.read().to_pandas()
    cut = tmp_path / "cut.parquet"
    pq.write_table(columns.file.read(), cut, row_group_size=data.draw(st.integers(1, 25)))
    again = ManifestColumns(
        pq.ParquetFile(cut), columns.names, columns.views, rows_at_once=data.draw(st.integers(1, 9))
    )
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, 22), min_size=1))))
    found = pd.DataFrame({name: column.to_pandas() for name, column in again.rows(rows).items()})
    pd.testing.assert_frame_equal(found, table.iloc[rows].reset_index(drop=True))


def test_a_column_is_assigned_along_the_clips_as_text(scored):
    url, _, _ = scored
    columns, notes = columns_of(url)
    assert notes == []
    ds = columns.assign_to(open_run(url).isel(clip=[5, 3, 4]), ["split", "label"])
    assert ds["split"].values.tolist() == ["val" if row % 3 == 0 else "train" for row in (5, 3, 4)]
    assert ds["label"].dims == ("clip",)
    with pytest.raises(StoreError, match="'colour' is neither an array of the run nor a column"):
        columns.assign_to(open_run(url), ["colour"])


def test_a_manifest_of_other_rows_is_refused_or_noted(scored, tmp_path):
    url, _, _ = scored
    columns, _ = columns_of(url)
    table = columns.file.read()
    other = tmp_path / "other.parquet"
    turned = table.take([1, 0, *range(2, 23)]).replace_schema_metadata(table.schema.metadata)
    pq.write_table(turned, other)
    with pytest.raises(ManifestError, match="isn't the one that the run was made from"):
        columns_of(url, str(other))
    # A column beside those that make a row's identity changes nothing.
    wider = tmp_path / "wider.parquet"
    pq.write_table(table.append_column("weight", [list(range(23))]), wider)
    found, notes = columns_of(url, str(wider))
    assert "weight" in found.names
    assert found.rows(np.array([7]))["weight"].to_pylist() == [7]
    assert notes == []
