"""Shards are whole when the last of their tasks is there, in whatever order tasks end."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.run.gather import ShardGathering, concatenated
from pipeline.store.schema import StoreLayout


def layout_of(n_rows, rows_per_shard):
    return StoreLayout(n_rows, rows_per_shard, n_frames=1, n_times=1, height=1, width=1, n_ranks=1)


def tasks_of(layout, sizes):
    """Rows of tasks that part the shards, of sizes that take turns."""
    tasks = []
    for shard in range(layout.n_shards):
        rows = layout.shard_rows(shard)
        start = rows.start
        while start < rows.stop:
            size = sizes[len(tasks) % len(sizes)]
            tasks.append(np.arange(start, min(start + size, rows.stop)))
            start += size
    return tasks


@given(
    n_rows=st.integers(1, 60),
    rows_per_shard=st.integers(1, 20),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    data=st.data(),
)
def test_each_shard_comes_once_and_whole_and_in_order(n_rows, rows_per_shard, sizes, data):
    layout = layout_of(n_rows, rows_per_shard)
    gathering = ShardGathering(layout)
    found = []
    for rows in data.draw(st.permutations(tasks_of(layout, sizes))):
        if parts := gathering.add({"row": rows, "video_id": rows.astype(str).astype(object)}):
            whole = concatenated(parts)
            assert whole["video_id"].tolist() == [str(row) for row in whole["row"]]
            found.append(whole["row"].tolist())
            gathering.forget(found[-1][0])
    assert sorted(found) == [list(layout.shard_rows(shard)) for shard in range(layout.n_shards)]
    assert gathering.n_rows == 0


def test_a_task_that_is_done_again_gets_the_shard_again_until_it_is_written():
    gathering = ShardGathering(layout_of(4, 4))
    first, second = ({"row": np.arange(start, start + 2)} for start in (0, 2))
    assert gathering.add(second) == []
    assert gathering.add(second) == []
    assert gathering.add(first) == [first, second]
    assert gathering.add(first) == [first, second]
    gathering.forget(0)
    assert gathering.add(second) == []


def test_a_shard_that_is_held_up_holds_up_no_other():
    gathering = ShardGathering(layout_of(8, 4))
    gathering.add({"row": np.arange(2)})
    for start in (4, 6):
        parts = gathering.add({"row": np.arange(start, start + 2)})
    assert concatenated(parts)["row"].tolist() == [4, 5, 6, 7]
    assert gathering.n_rows == 6
