"""Which rows are to be computed: what was written isn't, in any order, also of half a shard."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.status import Status
from pipeline.store.append import append_rows
from pipeline.store.create import consolidate, create_store
from pipeline.store.opening import open_store
from pipeline.store.pending import pending_rows, read_status, reset_rows
from pipeline.store.schema import StoreLayout
from pipeline.store.shards import write_shard
from tests.support.object_storage import BUCKET
from tests.support.records import record_of
from tests.support.stores import EXPECTED, LAYOUT, columns_of, objects, write

quick = settings(deadline=None, max_examples=25)


@quick
@given(
    n_rows=st.integers(1, 40),
    rows_per_shard=st.integers(1, 45),
    data=st.data(),
)
def test_pending_is_what_was_not_written_whatever_the_order(
    tmp_path_factory, n_rows, rows_per_shard, data
):
    url = str(tmp_path_factory.mktemp("store"))
    layout = StoreLayout(
        n_rows, rows_per_shard, n_frames=2, n_times=2, height=1, width=2, n_ranks=1
    )
    starts = list(range(0, n_rows, rows_per_shard))
    every_shard = list(range(len(starts)))
    order = data.draw(st.permutations(every_shard))
    done = order[: data.draw(st.integers(0, min(len(order), 4)))]

    group = create_store(url, record_of(layout))
    assert pending_rows(group).shards.tolist() == every_shard
    written = {shard: write(group, shard) for shard in done}

    reopened = open_store(url)
    assert pending_rows(reopened).shards.tolist() == sorted(set(every_shard) - set(done))
    for shard, columns in written.items():
        rows = slice(starts[shard], starts[shard] + rows_per_shard)
        np.testing.assert_array_equal(reopened.array("spatial")[rows], columns["spatial"])
        np.testing.assert_array_equal(reopened.array("video_id")[rows], columns["video_id"])
    n_written = sum(len(columns["status"]) for columns in written.values())
    assert (reopened.array("status")[:] != 0).sum() == n_written
    assert len(objects(url)) == len(EXPECTED) * len(done)


def test_a_new_run_reads_the_status_of_no_shard_and_a_resumed_one_of_each_once(s3):
    url = f"s3://{BUCKET}/pending/attributions.zarr"
    store = create_store(url, record_of(LAYOUT))
    n_shards = -(-LAYOUT.n_rows // LAYOUT.rows_per_shard)

    def requests_of_status():
        s3.reset()
        pending = pending_rows(store)
        made = Counter(method for method, path in s3.requests.elements() if "/status/c/" in path)
        return pending.shards.tolist(), made

    assert requests_of_status() == (list(range(n_shards)), {})
    write(store, 1)
    left = [shard for shard in range(n_shards) if shard != 1]
    assert requests_of_status() == (left, {"GET": n_shards})


def test_a_failed_row_is_accounted_for_and_only_a_pending_one_is_not(group, url):
    for shard, status in enumerate([Status.MISSING, Status.MODEL_ERROR]):
        columns = columns_of(LAYOUT, LAYOUT.shard_rows(shard))
        columns["status"][:] = status
        write_shard(group, columns, np.array(LAYOUT.shard_rows(shard)))
    assert pending_rows(open_store(url)).shards.tolist() == [2]


@quick
@given(n_rows=st.integers(1, 30), rows_per_shard=st.integers(1, 9), data=st.data())
def test_the_mask_is_true_for_pending_rows_whatever_is_done(
    tmp_path_factory, n_rows, rows_per_shard, data
):
    layout = StoreLayout(
        n_rows, rows_per_shard, n_frames=1, n_times=1, height=1, width=1, n_ranks=1
    )
    group = create_store(str(tmp_path_factory.mktemp("store")), record_of(layout))
    codes = data.draw(st.lists(st.integers(0, 3), min_size=n_rows, max_size=n_rows))
    group.array("status")[:] = np.array(codes, np.uint8)
    pending = pending_rows(group)
    expected = np.array(codes) == 0
    assert pending.n_rows == expected.sum()
    for shard in pending.shards.tolist():
        rows = np.array(layout.shard_rows(shard))
        np.testing.assert_array_equal(pending.mask(rows), expected[rows])
        is_partial = not expected[rows].all()
        assert (shard in pending.partial_shards) == is_partial
    untouched = set(range(layout.n_shards)) - set(pending.shards.tolist())
    assert not any(expected[list(layout.shard_rows(shard))].any() for shard in untouched)


def test_rows_behind_a_cut_off_enlargement_are_pending(group):
    """The layout has them already; the arrays, of which status is the last, haven't."""
    for shard in range(3):
        write(group, shard)
    enlarged = record_of(replace(LAYOUT, n_rows=15))
    group.group.update_attributes(enlarged.to_attributes())
    group = open_store(group.url)
    status = read_status(group)
    assert status.shape == (15,)
    assert (status[10:] == Status.PENDING).all()
    pending = pending_rows(group)
    assert pending.n_rows == 5
    # Rows 8 and 9 of the shard that was the last, and short, are done.
    assert pending.shards.tolist() == [2, 3]
    assert pending.partial_shards.tolist() == [2]
    assert pending.rows_of_partial.tolist() == [10, 11]
    assert pending.mask(np.arange(8, 12)).tolist() == [False, False, True, True]


def test_rows_of_a_status_are_reset_and_no_other_byte_is_touched(group, url):
    codes = [1, 2, 1, 7, 1, 1, 1, 1, 2, 1]
    for shard in range(3):
        rows = LAYOUT.shard_rows(shard)
        columns = columns_of(LAYOUT, rows)
        columns["status"][:] = [codes[row] for row in rows]
        write_shard(group, columns, np.array(rows))
    before = objects(url)
    counts = reset_rows(open_store(url, mode="r+"), [Status.MISSING, Status.EMPTY])
    assert counts == {Status.MISSING: 2}
    assert read_status(open_store(url)).tolist() == [1, 0, 1, 7, 1, 1, 1, 1, 0, 1]
    changed = {name for name, data in objects(url).items() if data != before[name]}
    assert changed == {"status/c/0", "status/c/2"}


def test_consolidated_metadata_are_gone_before_a_row_is_pending(group, url):
    def is_consolidated():
        return zarr.open_group(url, mode="r").metadata.consolidated_metadata is not None

    for shard in range(3):
        write(group, shard)
    consolidate(group)
    there = set(read_status(group).tolist())
    absent = [status for status in Status if status not in there]
    assert reset_rows(open_store(url, mode="r+"), absent) == {}
    assert is_consolidated()
    assert reset_rows(open_store(url, mode="r+"), [Status(there.pop())])
    assert not is_consolidated()


def test_rows_that_were_appended_stay_when_others_are_reset(group, url):
    for shard in range(3):
        write(group, shard)
    consolidate(group)
    longer = record_of(replace(LAYOUT, n_rows=13))
    store = append_rows(open_store(url, mode="r+"), longer)
    reset_rows(store, list(Status))
    assert open_store(url).record == longer
    assert read_status(open_store(url)).tolist() == [0] * 13


@pytest.mark.parametrize("damage", [b"", b"\0" * 40])
def test_a_damaged_status_is_named_and_says_what_to_do(group, url, damage):
    for shard in range(3):
        write(group, shard)
    (Path(url) / "status" / "c" / "1").write_bytes(damage)
    with pytest.raises(StoreError, match=r"status/c/1 can't be read: .*jobs.verify names"):
        pending_rows(open_store(url))


def test_lost_metadata_of_status_is_named(group, url):
    (Path(url) / "status" / "zarr.json").unlink()
    with pytest.raises(StoreError, match=r"status/zarr.json is lost or damaged"):
        read_status(open_store(url))
