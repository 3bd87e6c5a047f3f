"""The arrays of a store, as xarray and other readers find them."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from pipeline.status import Status
from pipeline.store.create import create_store
from pipeline.store.schema import StoreLayout
from tests.support.records import record_of
from tests.support.stores import EXPECTED, LAYOUT, write


@pytest.mark.filterwarnings("error")
def test_xarray_opens_a_store_with_nothing_but_its_url(group, url):
    written = write(group, 1)
    dataset = xr.open_zarr(url, consolidated=False)
    assert set(dataset.data_vars) == set(EXPECTED)
    sizes = {"clip": 10, "time": 4, "y": 3, "x": 2, "frame": 8, "rank": 5}
    assert dict(dataset.sizes) == sizes
    for name, (dims, dtype) in EXPECTED.items():
        assert dataset[name].dims == dims
        if dtype is str:
            assert [str(value) for value in dataset[name][4:8].values] == list(written[name])
        else:
            assert dataset[name].dtype == dtype
            np.testing.assert_array_equal(dataset[name][4:8].values, written[name])
        assert dataset[name].attrs["description"]
    assert dataset.attrs["class_names"] == ["a", "b"]


def test_what_is_not_written_reads_as_pending_unknown_and_nan(group, url):
    write(group, 1)
    unwritten = xr.open_zarr(url, consolidated=False).isel(clip=[0, 3, 8, 9]).compute()
    assert (unwritten["status"] == Status.PENDING).all()
    for name in ("label", "prediction", "top_classes", "frame_index"):
        assert (unwritten[name] == -1).all()
    for name, (_, dtype) in EXPECTED.items():
        if dtype is not str and np.issubdtype(dtype, np.floating):
            assert unwritten[name].isnull().all()


@pytest.mark.parametrize("shape", [(8, 14, 14), (16, 28, 28)])
def test_stored_spatial_maps_sum_to_1(tmp_path, shape):
    n_times, height, width = shape
    layout = StoreLayout(4, 4, n_frames=2, n_times=n_times, height=height, width=width, n_ranks=1)
    group = create_store(str(tmp_path), record_of(layout))
    write(group, 0)
    stored = xr.open_zarr(str(tmp_path), consolidated=False)["spatial"].astype("float64")
    np.testing.assert_allclose(stored.sum(["y", "x"]), 1, atol=1e-3)


@given(n_rows=st.integers(1, 500), rows_per_shard=st.integers(1, 60))
def test_shards_part_the_rows_in_order(n_rows, rows_per_shard):
    layout = StoreLayout(
        n_rows, rows_per_shard, n_frames=1, n_times=1, height=1, width=1, n_ranks=1
    )
    shards = [layout.shard_rows(shard) for shard in range(layout.n_shards)]
    assert [row for rows in shards for row in rows] == list(range(n_rows))
    assert all(len(rows) == rows_per_shard for rows in shards[:-1])
    assert 1 <= len(shards[-1]) <= rows_per_shard


@pytest.mark.parametrize(
    "sizes", [{}, {"n_layers": 3}, {"n_heads": 4}, {"n_layers": 3, "n_heads": 4}]
)
def test_layers_and_heads_are_arrays_of_their_own_and_count_as_bytes(tmp_path, sizes):
    layout = replace(LAYOUT, **sizes)
    specs = layout.arrays()
    group = create_store(str(tmp_path / "store"), record_of(layout))
    more = set(specs) - set(EXPECTED)
    expected = set()
    if "n_layers" in sizes:
        expected |= {"layer_spatial", "layer_temporal"}
        assert group.array("layer_spatial").shape == (10, 3, 4, 3, 2)
        dims = group.array("layer_spatial").metadata.dimension_names
        assert dims == ("clip", "layer", "time", "y", "x")
        # Layers are read one by one: an inner chunk has one.
        assert group.array("layer_temporal").chunks[1] == 1
    if "n_heads" in sizes:
        expected |= {"head_spatial", "head_temporal"}
        assert group.array("head_temporal").shape == (10, layout.n_layers, 4, 4)
    assert more == expected
    texts = {"video_id", "message"}
    n_bytes = sum(group.array(name).nbytes for name in specs if name not in texts)
    assert layout.row_bytes * layout.n_rows == n_bytes


def test_a_storage_chunk_of_every_array_is_a_shards_rows(group):
    for name in EXPECTED:
        array = group.array(name)
        assert (array.shards or array.chunks)[0] == LAYOUT.rows_per_shard, name
