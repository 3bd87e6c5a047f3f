"""Class statistics against plain loops over clips in NumPy."""

import warnings
from collections import Counter

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from dask.callbacks import Callback
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import (
    class_statistics,
    open_run,
    open_statistics,
    overall_statistics,
    save_statistics,
)
from analysis.reduction import Block
from pipeline.errors import StoreError
from pipeline.status import Status
from tests.analysis.stores import (
    CLASS_NAMES,
    random_columns,
    refuse_to_compute,
    small_layout,
    write_run,
)


def _by_hand(columns, by):
    """Statistics of each class, clip by clip in float64."""
    rows = []
    for index in range(len(CLASS_NAMES)):
        maps, profiles, entropies, right, probabilities, n_failed = [], [], [], [], [], 0
        for clip, status in enumerate(columns["status"]):
            if Status(status).failed and columns["label"][clip] == index:
                n_failed += 1
            if status != 1 or columns[by][clip] != index:
                continue
            spatial = columns["spatial"][clip].astype(np.float32)
            temporal = columns["temporal"][clip]
            joint = (spatial * temporal[:, None, None]).astype(np.float64)
            maps.append(joint.sum(axis=0))
            profiles.append(temporal.astype(np.float64))
            share = joint[joint > 0] / joint.sum()
            entropies.append(-(share * np.log(share)).sum() / np.log(joint.size))
            probabilities.append(float(columns["probability"][clip]))
            if columns["label"][clip] >= 0:
                right.append(columns["label"][clip] == columns["prediction"][clip])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows.append(
                {
                    "n_clips": len(maps),
                    "n_failed": n_failed,
                    "accuracy": np.mean(right),
                    "probability": np.mean(probabilities),
                    "spatial_map": np.mean(maps or [np.full((3, 5), np.nan)], axis=0),
                    "spatial_map_std": np.std(maps or [np.full((3, 5), np.nan)], axis=0),
                    "temporal_profile": np.mean(profiles or [np.full(2, np.nan)], axis=0),
                    "temporal_profile_std": np.std(profiles or [np.full(2, np.nan)], axis=0),
                    "entropy": np.mean(entropies),
                    "entropy_std": np.std(entropies),
                }
            )
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@st.composite
def runs(draw):
    """Layouts of any number of rows per shard, with labels, failures and shards that are absent."""
    n_rows = draw(st.integers(1, 24))
    layout = small_layout(n_rows, draw(st.integers(1, 10)))
    column = st.lists(st.integers(-1, 2), min_size=n_rows, max_size=n_rows)
    statuses = st.lists(
        st.sampled_from([1, 1, 1, *map(int, Status)]), min_size=n_rows, max_size=n_rows
    )
    status = np.array(draw(statuses), np.uint8)
    columns = random_columns(
        layout,
        draw(st.integers(0, 99)),
        status=np.maximum(status, Status.OK),
        label=np.array(draw(column), np.int32),
        prediction=np.maximum(np.array(draw(column), np.int32), 0),
    )
    pending = draw(st.sets(st.integers(0, layout.n_shards - 1), max_size=2))
    return layout, columns, tuple(pending)


@pytest.mark.parametrize("by", ["label", "prediction"])
@settings(max_examples=12, deadline=None)
@given(run=runs())
def test_statistics_are_those_of_a_loop_over_clips(tmp_path_factory, by, run):
    layout, columns, pending = run
    url = write_run(tmp_path_factory.mktemp("run"), layout, columns, pending_shards=pending)
    for shard in pending:
        columns["status"][np.asarray(layout.shard_rows(shard))] = Status.PENDING
    statistics = class_statistics(open_run(url), by).compute()
    assert statistics["class"].values.tolist() == list(CLASS_NAMES)
    expected = _by_hand(columns, by)
    assert set(statistics.data_vars) == {*expected, "coverage"}
    for name, values in expected.items():
        np.testing.assert_allclose(statistics[name], values, rtol=1e-5, atol=2e-7, err_msg=name)


def test_a_class_without_clips_counts_0_and_is_nan_elsewhere(tmp_path):
    layout = small_layout(8)
    columns = random_columns(layout, label=np.zeros(8, np.int32))
    statistics = class_statistics(open_run(write_run(tmp_path / "run", layout, columns))).compute()
    empty = statistics.sel({"class": "cooking"})
    assert empty["n_clips"] == 0
    assert empty["n_failed"] == 0
    for name in set(statistics.data_vars) - {"n_clips", "n_failed", "coverage"}:
        assert np.isnan(empty[name]).all(), name


def test_a_run_without_labels_is_grouped_by_prediction(tmp_path):
    layout = small_layout(9)
    columns = random_columns(layout, label=np.full(9, -1, np.int32))
    ds = open_run(write_run(tmp_path / "run", layout, columns))
    assert class_statistics(ds, by="label")["n_clips"].sum() == 0
    statistics = class_statistics(ds).compute()
    assert statistics.identical(class_statistics(ds, by="prediction").compute())
    assert statistics["n_clips"].sum() == 9
    assert np.isnan(statistics["accuracy"]).all()
    assert statistics.attrs["by"] == "prediction"


def test_a_label_beyond_the_classes_is_left_out(tmp_path):
    layout = small_layout(4)
    columns = random_columns(layout, label=np.array([0, 1, 2, 7], np.int32))
    ds = open_run(write_run(tmp_path / "run", layout, columns))
    assert class_statistics(ds)["n_clips"].values.tolist() == [1, 1, 1]


def test_a_selection_of_clips_has_statistics_too(tmp_path):
    layout = small_layout(12)
    columns = random_columns(layout)
    ds = open_run(write_run(tmp_path / "run", layout, columns)).isel(clip=slice(3, 11))
    part = {name: column[3:11] for name, column in columns.items()}
    expected = _by_hand(part, "label")["spatial_map"]
    np.testing.assert_allclose(class_statistics(ds)["spatial_map"], expected, rtol=1e-6)


def test_nothing_is_computed_before_compute(tmp_path):
    layout = small_layout(20)
    ds = open_run(write_run(tmp_path / "run", layout, random_columns(layout)))
    with dask.config.set(scheduler=refuse_to_compute):
        statistics = class_statistics(ds, by="label")
        assert all(dask.is_dask_collection(array.data) for array in statistics.values())


def test_each_shard_is_read_and_reduced_in_one_task(tmp_path):
    layout = small_layout(20, rows_per_shard=2)
    url = write_run(tmp_path / "run", layout, random_columns(layout))
    results = Counter()

    class CountResults(Callback):
        def _posttask(self, key, result, _dsk, _state, _worker):
            results[type(result).__name__] += 1
            # No task gives clips' maps: what a block reads stays in its task.
            assert getattr(result, "shape", ())[1:] != (2, 3, 5)

    with CountResults():
        class_statistics(open_run(url, shards_per_chunk=1)).compute(scheduler="synchronous")
    assert results[Block.__name__] == layout.n_shards


def test_half_precision_is_not_summed_in_half_precision(tmp_path):
    layout = small_layout(4096, rows_per_shard=2048)
    uniform = np.full((4096, 2, 3, 5), 1 / 15, np.float16)
    columns = random_columns(layout, spatial=uniform, label=np.zeros(4096, np.int32))
    statistics = class_statistics(open_run(write_run(tmp_path / "run", layout, columns)))
    stored = float(np.float16(1 / 15))
    np.testing.assert_allclose(statistics["spatial_map"][0], stored, rtol=1e-6)
    assert float(statistics["spatial_map_std"][0].max()) < 1e-7


def test_overall_statistics_weigh_each_clip_alike(tmp_path):
    layout = small_layout(15)
    columns = random_columns(layout)
    ds = open_run(write_run(tmp_path / "run", layout, columns))
    overall = overall_statistics(class_statistics(ds)).compute()
    one_class = {**columns, "label": np.zeros(15, np.int32)}
    expected = _by_hand(one_class, "label")
    for name in ("spatial_map", "temporal_profile", "entropy", "probability"):
        np.testing.assert_allclose(overall[name], expected[name][0], rtol=1e-6, err_msg=name)


def test_an_unknown_grouping_is_refused(tmp_path):
    layout = small_layout(4)
    ds = open_run(write_run(tmp_path / "run", layout, random_columns(layout)))
    with pytest.raises(ValueError, match="by: 'video_id' is not one of label, prediction"):
        class_statistics(ds, by="video_id")


@pytest.mark.parametrize("place", ["local", "memory"])
def test_saved_statistics_come_back_as_they_were(tmp_path, place):
    layout = small_layout(12)
    run = tmp_path / "run" if place == "local" else "memory://analysis-statistics/run"
    url = write_run(run, layout, random_columns(layout))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        statistics = class_statistics(open_run(url))
        save_statistics(class_statistics(open_run(url), "prediction"), url)
        assert save_statistics(statistics, url) == f"{url}/statistics.zarr"
        opened = open_statistics(url)
    xr.testing.assert_equal(opened, statistics.compute())
    assert list(opened.data_vars) == list(statistics.data_vars)
    assert opened.attrs["identity"] == open_run(url).attrs["identity"]
    assert opened.attrs["by"] == "label"
    assert statistics.attrs["identity"] == opened.attrs["identity"]


def test_statistics_that_were_cut_off_are_refused(tmp_path):
    layout = small_layout(4)
    url = write_run(tmp_path / "run", layout, random_columns(layout))
    with pytest.raises(StoreError, match="no statistics at"):
        open_statistics(url)
    save_statistics(class_statistics(open_run(url)), url)
    group = zarr.open_group(f"{url}/statistics.zarr/by_label", mode="r+")
    attributes = dict(group.attrs)
    del attributes["identity"]
    group.attrs.put(attributes)
    with pytest.raises(StoreError, match="is not complete"):
        open_statistics(url)


def test_a_failed_computation_leaves_the_former_statistics(tmp_path):
    layout = small_layout(4)
    url = write_run(tmp_path / "run", layout, random_columns(layout))
    statistics = class_statistics(open_run(url))
    save_statistics(statistics, url)
    with dask.config.set(scheduler=refuse_to_compute), pytest.raises(AssertionError):
        save_statistics(statistics, url)
    assert open_statistics(url)["n_clips"].sum() == 4
