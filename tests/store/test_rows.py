"""Rows that are read of several arrays: what is damaged or gone is one line, never a value."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import StoreError
from pipeline.status import Status
from pipeline.store.opening import open_store
from pipeline.store.pending import pending_rows, read_status
from pipeline.store.rows import read_explained, read_rows
from pipeline.store.run_folder import store_url
from tests.analysis.stores import random_columns, small_layout, write_run
from tests.support.http_server import served

LAYOUT = replace(small_layout(12), checksums=True)


@pytest.fixture
def columns():
    status = np.full(12, Status.OK, np.uint8)
    status[[2, 9]] = Status.MISSING
    return random_columns(LAYOUT, int(datetime.now(UTC).strftime("%Y%m%d")), status=status)


@pytest.fixture
def store(columns, tmp_path):
    return open_store(store_url(write_run(tmp_path / "run", LAYOUT, columns)))


def object_of(store, name):
    return Path(store.object_url(name, 0))


def test_rows_are_read_by_a_part_and_by_their_numbers(store, columns):
    some = np.array([1, 3, 10])
    for name in ("label", "video_id", "frame_index", "spatial"):
        np.testing.assert_array_equal(read_rows(store, name, some), columns[name][some])
        np.testing.assert_array_equal(
            read_rows(store, name, slice(2, 7)), columns[name][2:7], err_msg=name
        )
    spatial, temporal = read_explained(store, slice(1, 6), np.array([0, 2, 3]))
    np.testing.assert_array_equal(spatial, columns["spatial"][[1, 3, 4]])
    np.testing.assert_array_equal(temporal, columns["temporal"][[1, 3, 4]])


@pytest.mark.parametrize("damage", ["cut", "lost"])
@pytest.mark.parametrize("name", sorted(LAYOUT.arrays().keys() - {"status"}))
def test_an_object_that_is_damaged_is_one_line(store, name, damage):
    path = object_of(store, name)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:9])
        found = f"{name} can't be read: .*"
    else:
        path.unlink()
        found = f"{name} has lost objects: of rows 0 to 3"
    for rows in (slice(0, 2), np.array([1]), np.array([1, 5, 6])):
        with pytest.raises(StoreError, match=f"{found}; jobs.verify") as raised:
            read_rows(store, name, rows)
        assert "\n" not in str(raised.value)
    with pytest.raises(StoreError, match=f"{found}; do this$"):
        read_rows(store, name, slice(None), remedy="do this")
    assert len(read_rows(store, name, slice(4, 12))) == 8


def test_values_as_zarr_makes_them_up_are_values_where_their_object_is_there(columns, tmp_path):
    """Of clips without a label, and of shards that aren't written or in which nothing is ok."""
    columns["label"][:] = -1
    columns["status"][8:] = Status.MISSING
    run = write_run(tmp_path / "run", LAYOUT, columns, pending_shards=(1,))
    store = open_store(store_url(run))
    assert (read_rows(store, "label", slice(None)) == -1).all()
    assert (read_rows(store, "video_id", np.array([4, 5])) == "").all()


def test_an_object_is_not_lost_where_the_storage_could_not_be_asked_once(columns, tmp_path):
    columns["label"][:] = -1
    run = Path(write_run(tmp_path / "run", LAYOUT, columns))
    files = [path for path in run.rglob("*") if path.is_file()]
    content = {path.relative_to(run).as_posix(): path.read_bytes() for path in files}
    with served(content) as server:
        store = open_store(store_url(server.url))
        # The second request of an object asks whether it's there.
        server.answer = lambda path, nth: 503 if "/label/c/" in path and nth == 1 else None
        assert (read_rows(store, "label", slice(None)) == -1).all()
        asked = {path: n for (_, path), n in server.requests.items() if "/label/c/" in path}
        assert len(asked) == LAYOUT.n_shards
        assert set(asked.values()) == {3}


def test_damage_to_the_status_is_not_told_of_another_array(columns, tmp_path):
    columns["label"][:] = -1
    store = open_store(store_url(write_run(tmp_path / "run", LAYOUT, columns)))
    path = object_of(store, "status")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"status can.t be read: .*; jobs.verify"):
        read_rows(store, "label", slice(None))


def test_a_lost_status_is_pending_and_is_computed_again(store):
    object_of(store, "status").unlink()
    assert (read_status(store)[:4] == Status.PENDING).all()
    assert pending_rows(store).n_rows == 4


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize("name", ["spatial", "temporal"])
def test_an_attribution_that_is_gone_is_not_nan(columns, tmp_path, name, checksums):
    layout = replace(LAYOUT, checksums=checksums)
    store = open_store(store_url(write_run(tmp_path / "run", layout, columns)))
    object_of(store, name).unlink()
    with pytest.raises(StoreError, match="lost objects"):
        read_explained(store, np.array([1]))


def test_a_row_that_failed_has_none_and_is_not_asked_for(store):
    assert len(read_explained(store, slice(0, 3), np.array([0, 1]))[0]) == 2
    with pytest.raises(StoreError, match="lost objects"):
        read_explained(store, slice(0, 3))
