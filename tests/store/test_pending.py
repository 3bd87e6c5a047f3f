"""Which rows are to be computed: what was written isn't, in any order, also of half a shard."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.status import Status
from pipeline.store.create import create_store, open_store
from pipeline.store.pending import pending_rows
from pipeline.store.schema import StoreLayout
from pipeline.store.shards import write_shard
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

    group = create_store(url, layout, {"run": 1}, {})
    assert pending_rows(group).shards.tolist() == every_shard
    written = {shard: write(group, shard) for shard in done}

    reopened = open_store(url)
    assert pending_rows(reopened).shards.tolist() == sorted(set(every_shard) - set(done))
    for shard, columns in written.items():
        rows = slice(starts[shard], starts[shard] + rows_per_shard)
        np.testing.assert_array_equal(reopened["spatial"][rows], columns["spatial"])
        np.testing.assert_array_equal(reopened["video_id"][rows], columns["video_id"])
    n_written = sum(len(columns["status"]) for columns in written.values())
    assert (reopened["status"][:] != 0).sum() == n_written
    assert len(objects(url)) == len(EXPECTED) * len(done)


def test_a_failed_row_is_accounted_for_and_only_a_pending_one_is_not(group, url):
    for shard, status in enumerate([Status.MISSING, Status.MODEL_ERROR]):
        columns = columns_of(LAYOUT, LAYOUT.shard_rows(shard))
        columns["status"][:] = status
        write_shard(group, columns, np.array(LAYOUT.shard_rows(shard)))
    assert pending_rows(open_store(url)).shards.tolist() == [2]
