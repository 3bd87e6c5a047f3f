"""The arrays of a store, as xarray and other readers find them."""

import numpy as np
import pytest
import xarray as xr

from pipeline.status import Status
from pipeline.store.create import create_store
from pipeline.store.schema import StoreLayout
from tests.support.stores import EXPECTED, write


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
    group = create_store(str(tmp_path), layout, {"run": 1}, {})
    write(group, 0)
    stored = xr.open_zarr(str(tmp_path), consolidated=False)["spatial"].astype("float64")
    np.testing.assert_allclose(stored.sum(["y", "x"]), 1, atol=1e-3)
