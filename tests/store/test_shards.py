"""Writing a shard: whole, once, its commit mark last; by the objects on disk, and by faults."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import LocalStore, WrapperStore

from pipeline.errors import StoreError
from pipeline.status import Status
from pipeline.store.create import create_store
from pipeline.store.opening import Store, open_store
from pipeline.store.pending import pending_rows
from pipeline.store.schema import StoreLayout
from pipeline.store.shards import write_shard
from tests.support.records import record_of
from tests.support.stores import EXPECTED, LAYOUT, RECORD, columns_of, objects, write


@pytest.mark.parametrize("rows_per_shard", [1, 4, 10, 37, 64, 100])
def test_a_shard_is_one_object_of_each_array_and_shares_none(tmp_path, rows_per_shard):
    layout = StoreLayout(100, rows_per_shard, n_frames=2, n_times=2, height=3, width=2, n_ranks=1)
    group = create_store(str(tmp_path), record_of(layout))
    before: dict[str, bytes] = {}
    for shard in range(min(layout.n_shards, 3)):
        write(group, shard)
        after = objects(tmp_path)
        new = after.keys() - before.keys()
        assert sorted(name.split("/")[0] for name in new) == sorted(EXPECTED)
        assert {name: after[name] for name in before} == before
        before = after


def forget(url, shard):
    """Take away a shard's commit mark."""
    (Path(url) / "status" / "c" / str(shard)).unlink()


def test_a_column_of_fill_values_is_written_as_well_as_any(group, url):
    """zarr keeps no object for it; written over a shard that had one, it must take it away."""
    write(group, 0)
    columns = columns_of(LAYOUT, range(0, 4)) | {"message": np.array([""] * 4, dtype=object)}
    forget(url, 0)
    write_shard(group, columns, np.arange(4))
    assert open_store(url).array("message")[:4].tolist() == [""] * 4


def test_a_shard_written_twice_is_the_same_bytes(group, url):
    write(group, 0)
    write(group, 2)
    once = objects(url)
    for shard in (2, 0):
        forget(url, shard)
        assert objects(url) != once
        write(open_store(url, mode="r+"), shard)
        assert objects(url) == once
    forget(url, 0)
    write(group, 0, seed=1)
    assert objects(url) != once


BROKEN_ROWS = {
    "one row short": range(4, 7),
    "across two shards": range(2, 6),
    "out of order": [4, 5, 7, 6],
    "two shards": range(0, 8),
    "beyond the last row": range(8, 12),
    "no such shard": range(12, 16),
}


@pytest.mark.parametrize("rows", BROKEN_ROWS.values(), ids=BROKEN_ROWS.keys())
def test_rows_that_are_no_shard_are_refused_and_nothing_is_written(group, url, rows):
    write(group, 0)
    before = objects(url)
    columns = columns_of(LAYOUT, list(rows), seed=1)
    with pytest.raises(StoreError, match=f"rows {rows[0]} to {rows[-1]} .*not a whole shard"):
        write_shard(group, columns, np.array(rows))
    assert objects(url) == before


def test_negative_rows_are_refused(group):
    with pytest.raises(StoreError):
        write_shard(group, columns_of(LAYOUT, range(0, 4)), np.arange(-4, 0))


def test_no_rows_are_refused(group):
    columns = {name: column[:0] for name, column in columns_of(LAYOUT, range(0, 4)).items()}
    with pytest.raises(StoreError):
        write_shard(group, columns, np.arange(0))


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("fault", ["missing", "too short", "one axis more"])
def test_a_bad_column_is_named_and_nothing_is_written(group, url, name, fault):
    write(group, 0)
    before = objects(url)
    columns = columns_of(LAYOUT, range(0, 4), seed=1)
    good = columns.pop(name)
    if fault != "missing":
        columns[name] = good[:-1] if fault == "too short" else good[..., None]
    with pytest.raises(StoreError, match=f"row 0: column '{name}'"):
        write_shard(group, columns, np.arange(4))
    assert objects(url) == before


def test_a_row_that_stays_pending_is_refused_and_nothing_is_written(group, url):
    columns = columns_of(LAYOUT, range(0, 4))
    columns["status"][2] = Status.PENDING
    with pytest.raises(StoreError, match="pending"):
        write_shard(group, columns, np.arange(4))
    assert objects(url) == {}


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - {"status"}))
def test_if_any_array_fails_the_shard_stays_pending(group, url, name):
    # A file where the chunks' folder would be: also root can't write below it.
    blocked = Path(url) / name / "c"
    blocked.write_bytes(b"")
    with pytest.raises(OSError):  # noqa: PT011, the system's words
        write(group, 1)
    assert pending_rows(open_store(url)).shards.tolist() == [0, 1, 2]
    assert not (Path(url) / "status" / "c").exists()

    blocked.unlink()
    write(open_store(url, mode="r+"), 1)
    assert pending_rows(open_store(url)).shards.tolist() == [0, 2]


def test_status_is_the_last_object_of_a_shard(group, url):
    for shard in range(3):
        write(group, shard)
        written = {
            path.relative_to(url).parts[0]: path.stat().st_mtime_ns
            for path in Path(url).rglob("*")
            if path.is_file() and path.name != "zarr.json" and f"/c/{shard}" in path.as_posix()
        }
        assert len(written) == len(EXPECTED)
        status = written.pop("status")
        assert status >= max(written.values())


def test_a_store_opened_to_read_can_not_be_written(group, url):
    with pytest.raises(ValueError, match="read-only"):
        write(open_store(url), 0)
    assert objects(url) == {}


def set_pending(url, rows):
    """Take rows of a written shard back, as a retry does, and leave what is stored of them."""
    open_store(url, mode="r+").array("status").set_orthogonal_selection((np.array(rows),), 0)


@settings(deadline=None, max_examples=20)
@given(pending=st.sets(st.integers(4, 7), min_size=1, max_size=3))
def test_rows_that_are_done_keep_what_is_stored_of_them(tmp_path_factory, pending):
    url = str(tmp_path_factory.mktemp("partial"))
    group = create_store(url, RECORD)
    first = write(group, 1)
    set_pending(url, sorted(pending))
    second = columns_of(LAYOUT, range(4, 8), seed=1)
    mask = np.isin(np.arange(4, 8), sorted(pending))

    written = write_shard(open_store(url, mode="r+"), second, np.arange(4, 8))

    assert written.tolist() == mask.tolist()
    stored = open_store(url)
    for name in EXPECTED:
        got = stored.array(name)[4:8]
        np.testing.assert_array_equal(got[~mask], first[name][~mask], err_msg=name)
        np.testing.assert_array_equal(got[mask], second[name][mask], err_msg=name)


def test_columns_of_done_rows_may_hold_anything(group, url):
    """A batch has zeros, and pending as status, in the place of rows that are done."""
    first = write(group, 0)
    set_pending(url, [2])
    columns = columns_of(LAYOUT, range(0, 4), seed=1)
    columns["status"][[0, 1, 3]] = Status.PENDING
    columns["temporal"][[0, 1, 3]] = np.nan
    assert write_shard(group, columns, np.arange(4)).tolist() == [False, False, True, False]
    stored = open_store(url)
    assert stored.array("status")[:4].tolist() == [
        *first["status"][:2],
        columns["status"][2],
        first["status"][3],
    ]
    assert not np.isnan(stored.array("temporal")[:4]).any()


def test_a_shard_that_is_done_is_not_written_at_all(group, url):
    write(group, 0)
    before = {path: path.stat().st_mtime_ns for path in Path(url).rglob("*")}
    columns = columns_of(LAYOUT, range(0, 4), seed=1)
    assert not write_shard(group, columns, np.arange(4)).any()
    assert {path: path.stat().st_mtime_ns for path in Path(url).rglob("*")} == before


def test_data_reach_the_disk_before_the_mark_that_says_so(group, url, monkeypatch):
    flushed = []
    fsync = os.fsync

    def noted(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        marked = (Path(url) / "status" / "c" / "1").exists()
        flushed.append((path.relative_to(url).parts, marked))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write(group, 1)
    of_data = {parts[0] for parts, marked in flushed if not marked and parts[-1] != "c"}
    assert of_data == set(EXPECTED) - {"status"}
    assert {parts for parts, marked in flushed if marked} == {("status", "c", "1"), ("status", "c")}


class Requests(WrapperStore):
    """Notes what is asked of a store."""

    def __init__(self, store):
        super().__init__(store)
        self.made = []

    def _with_store(self, store):
        return type(self)(store)

    async def get(self, key, prototype, byte_range=None):
        self.made.append(("GET", key))
        return await self._store.get(key, prototype, byte_range)

    async def set(self, key, value):
        self.made.append(("PUT", key))
        await self._store.set(key, value)

    async def exists(self, key):
        self.made.append(("HEAD", key))
        return await self._store.exists(key)

    async def delete(self, key):
        self.made.append(("DELETE", key))
        await self._store.delete(key)


@pytest.mark.parametrize("shard", [0, 2], ids=["whole", "the last, which is short"])
def test_a_new_shard_is_one_put_for_each_array_and_nothing_else(url, shard):
    record = record_of(replace(LAYOUT, checksums=True))
    create_store(url, record)
    requests = Requests(LocalStore(url))
    store = Store(url, zarr.open_group(requests, mode="r+", use_consolidated=False), record)
    columns = columns_of(LAYOUT, LAYOUT.shard_rows(1))
    write_shard(store, columns, np.array(LAYOUT.shard_rows(1)), is_new=True)
    requests.made.clear()
    rows = np.array(LAYOUT.shard_rows(shard))
    # All fill values, which zarr by itself would keep no object of.
    columns = columns_of(LAYOUT, rows) | {"message": np.array([""] * len(rows), dtype=object)}
    write_shard(store, columns, rows, is_new=True)
    assert sorted(request for request, _ in requests.made) == ["PUT"] * len(EXPECTED)
    assert {key.split("/")[0] for _, key in requests.made} == set(EXPECTED)
    assert requests.made[-1][1].startswith("status/")
    stored = open_store(url).array("spatial")[rows[0] : rows[-1] + 1]
    np.testing.assert_array_equal(stored, columns["spatial"])
