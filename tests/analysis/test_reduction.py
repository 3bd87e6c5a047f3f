"""The pass over a store's blocks: the same bits whoever carries it out, in few tasks."""

from dataclasses import replace

import dask
import numpy as np
import pytest

from analysis import class_statistics, open_run, score_run, scores
from analysis.reduction import Grouping, Totals, block_tasks, tree
from pipeline.errors import StoreError
from pipeline.store.create import create_store
from pipeline.store.run_folder import store_url
from tests.analysis.stores import CLASS_NAMES, small_layout
from tests.support.records import record_of


def test_the_same_bits_from_any_scheduler_and_by_manifest_columns(scored):
    url, _, _ = scored
    ds = open_run(url, shards_per_chunk=1)
    tasks = block_tasks(ds, (Grouping(("label",)), Grouping(("prediction", "correct"))))
    results = [dask.compute(tree(tasks), scheduler=one)[0] for one in ("sync", "threads")]
    for first, second in zip(*(result.sums for result in results), strict=True):
        assert first.keys.equals(second.keys)
        np.testing.assert_array_equal(first.total, second.total)
        np.testing.assert_array_equal(first.histogram, second.histogram)
    by_split = score_run(url, by=[Grouping(("split", "label"))]).totals.sums[-1]
    table = scores(url)
    expected = table[table["status"] == "ok"].groupby(["split", "label_index"]).size()
    assert by_split.n.tolist() == expected.tolist()
    assert [tuple(key) for key in by_split.keys] == [tuple(key) for key in expected.index]
    with pytest.raises(StoreError, match="by: 'colour' is neither an array of the run nor"):
        score_run(url, by=[Grouping(("colour",))])


def test_merging_is_associative_and_commutative_but_for_rounding(scored):
    url, _, _ = scored
    tasks = block_tasks(open_run(url, shards_per_chunk=1), (Grouping(("label",)),))
    blocks = dask.compute(*tasks)
    forwards = Totals.of(blocks)
    backwards = Totals.of([Totals.of(blocks[3:]), Totals.of(blocks[:3][::-1])])
    assert forwards.coverage == backwards.coverage
    np.testing.assert_array_equal(forwards.sums[0].n, backwards.sums[0].n)
    np.testing.assert_array_equal(forwards.sums[0].histogram, backwards.sums[0].histogram)
    np.testing.assert_allclose(forwards.sums[0].total, backwards.sums[0].total, atol=1e-12)


@pytest.mark.parametrize(
    ("n_rows", "most"),
    [(240_000, 2_000), pytest.param(10_000_000, 20_000, marks=pytest.mark.slow)],
)
def test_the_graph_has_few_tasks_whatever_the_number_of_clips(tmp_path, n_rows, most):
    layout = replace(small_layout(n_rows, rows_per_shard=256), height=14, width=14, n_times=8)
    # The template of a store, without a shard.
    create_store(store_url(str(tmp_path)), record_of(layout, class_names=CLASS_NAMES))
    ds = open_run(str(tmp_path))
    tasks = block_tasks(ds, (Grouping(("label",)),), keep_scores=True)
    assert len(tree(tasks).__dask_graph__()) + len(tasks) < most


def test_statistics_of_kinetics_take_few_tasks(tmp_path):
    layout = replace(small_layout(240_000, rows_per_shard=256), height=14, width=14, n_times=8)
    create_store(store_url(str(tmp_path)), record_of(layout, class_names=CLASS_NAMES))
    assert len(class_statistics(open_run(str(tmp_path))).__dask_graph__()) < 2_000
