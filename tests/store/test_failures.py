"""The table of failed clips: each failed row once, with its clip, its view, its status and why."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.clips.sampling import Sampling
from pipeline.clips.views import ViewsConfig
from pipeline.dataset.manifest import METADATA_KEYS, SCHEMA, read_manifest, write_manifest
from pipeline.errors import StoreError
from pipeline.status import Status
from pipeline.store.create import create_store
from pipeline.store.failures import write_failures
from pipeline.store.shards import write_shard
from tests.support.records import identity_of, record_of
from tests.support.stores import LAYOUT, columns_of


@pytest.fixture
def manifest(tmp_path):
    metadata = dict(zip(METADATA_KEYS, ("1", "/clips", "files"), strict=True))
    rows = [{"video_id": f"v{n}", "path": f"folder/v{n}.mp4"} for n in range(10)]
    url = str(tmp_path / "m.parquet")
    write_manifest(pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata)), url)
    return read_manifest(url)


def failures_of(tmp_path, manifest, status, n_views=1):
    """The table of a run whose rows have these statuses."""
    layout = replace(LAYOUT, n_rows=len(status))
    views = {"views": ViewsConfig(clips=n_views), "sampling": Sampling("strided", 8, 2)}
    record = record_of(layout, identity=identity_of(layout, **views))
    group = create_store(str(tmp_path / "run.zarr"), record)
    status = np.array(status, np.uint8)
    for shard in range(layout.n_shards):
        rows = np.array(layout.shard_rows(shard))
        if (status[rows] != Status.PENDING).all():
            columns = columns_of(layout, rows) | {"status": status[rows]}
            write_shard(group, columns, rows)
    url = write_failures(str(tmp_path / "run"), group, status, manifest)
    assert url == f"{tmp_path}/run/failures.parquet"
    return pq.read_table(url)


def test_each_failed_row_is_listed_and_no_other(tmp_path, manifest):
    table = failures_of(tmp_path, manifest, [1, 2, 1, 1, 7, 1, 1, 1, 0, 0])
    assert table.to_pylist() == [
        {
            "row": row,
            "video_id": f"v{row}",
            "path": f"folder/v{row}.mp4",
            "view": 0,
            "status": status,
            "message": f"message {row} é",
        }
        for row, status in ((1, "missing"), (4, "timeout"))
    ]


def test_a_failed_view_names_its_video_and_its_place(tmp_path, manifest):
    table = failures_of(tmp_path, manifest, [1, 1, 1, 1, 1, 3, 9, 1], n_views=2)
    listed = zip(*(table[name].to_pylist() for name in ("row", "video_id", "view")), strict=True)
    assert list(listed) == [(5, "v2", 1), (6, "v3", 0)]


def test_without_failures_the_table_is_empty_and_of_the_same_columns(tmp_path, manifest):
    table = failures_of(tmp_path, manifest, [1] * 10)
    assert table.num_rows == 0
    assert table.schema.names == ["row", "video_id", "path", "view", "status", "message"]
    assert table.schema.field("row").type == pa.int64()
    assert table.schema.field("message").type == pa.string()


def test_a_table_that_can_not_be_written_is_named(tmp_path, manifest):
    (tmp_path / "run" / "failures.parquet").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"can't write .*/run/failures\.parquet: Is a directory"):
        failures_of(tmp_path, manifest, [1] * 10)
