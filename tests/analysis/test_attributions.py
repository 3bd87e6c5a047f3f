"""A run's attributions: the product of what is stored, and the same after sharpening."""

from dataclasses import replace

import dask
import numpy as np
import pytest
import xarray as xr

from analysis import Focus, Threshold, focused_attribution, joint_attribution, open_run
from pipeline.errors import StoreError
from pipeline.status import Status
from tests.analysis.stores import random_columns, refuse_to_compute, small_layout, write_run


def test_joint_attribution_is_the_product_in_single_precision(tmp_path):
    layout = small_layout(6)
    status = np.array([1, 1, Status.TIMEOUT, 1, 1, 1], np.uint8)
    columns = random_columns(layout, status=status)
    joint = joint_attribution(open_run(write_run(tmp_path / "run", layout, columns)))
    assert joint.dims == ("clip", "time", "y", "x")
    assert joint.dtype == np.float32
    expected = columns["spatial"].astype(np.float32) * columns["temporal"][:, :, None, None]
    np.testing.assert_array_equal(joint.values, expected)
    assert np.isnan(joint.values[2]).all()
    sums = joint.values[status == Status.OK].sum(axis=(1, 2, 3))
    np.testing.assert_allclose(sums, 1, atol=2e-3)


def test_layers_and_heads_are_labelled_and_multiply_to_their_joint_attribution(tmp_path):
    layout = replace(small_layout(6), n_layers=2, n_heads=3)
    rng = np.random.default_rng(0)
    more = {
        name: rng.random((6, *spec.shape)).astype(spec.dtype)
        for name, spec in layout.arrays().items()
        if name.startswith(("layer_", "head_"))
    }
    url = write_run(tmp_path / "run", layout, random_columns(layout, **more), layers=(1, 3))
    ds = open_run(url, shards_per_chunk=1)
    assert ds["layer"].values.tolist() == [1, 3]
    of_layer, of_head = (joint_attribution(ds, per=per) for per in ("layer", "head"))
    assert of_layer.dims == ("clip", "layer", "time", "y", "x")
    assert of_head.dims == ("clip", "layer", "head", "time", "y", "x")
    assert of_head.chunksizes["clip"] == (4, 2)
    for prefix, joint in (("layer", of_layer), ("head", of_head)):
        spatial = more[f"{prefix}_spatial"].astype(np.float32)
        expected = spatial * more[f"{prefix}_temporal"][..., None, None]
        np.testing.assert_array_equal(joint.values, expected)
    np.testing.assert_array_equal(of_layer.sel(layer=3).values, of_layer.values[:, 1])
    focused = focused_attribution(ds, *STEPS, per="head")
    assert focused.dims == of_head.dims
    alone = STEPS[1].apply(STEPS[0].apply(of_head.values[4, 1, 2]))
    np.testing.assert_array_equal(focused.values[4, 1, 2], alone)


def test_a_run_without_layers_says_so(tmp_path):
    layout = small_layout(4)
    ds = open_run(write_run(tmp_path / "run", layout, random_columns(layout)))
    assert "layer" not in ds.coords
    with pytest.raises(StoreError, match="no attribution of each head: head_spatial"):
        joint_attribution(ds, per="head")


STEPS = (Threshold(kind="otsu", per_frame=True), Focus(smoothing=0.5, temperature=0.5))


def test_focused_attribution_is_lazy_and_a_chunk_per_shard(tmp_path):
    layout = small_layout(10, rows_per_shard=4)
    url = write_run(tmp_path / "run", layout, random_columns(layout))
    ds = open_run(url, shards_per_chunk=1)
    with dask.config.set(scheduler=refuse_to_compute):
        focused = focused_attribution(ds, *STEPS)
    assert focused.dims == ("clip", "time", "y", "x")
    assert focused.chunksizes["clip"] == (4, 4, 2)
    assert focused.dtype == np.float32


def test_focused_attribution_is_the_steps_applied_to_each_clip(tmp_path):
    layout = small_layout(6)
    status = np.array([1, 1, Status.TIMEOUT, 1, 1, 1], np.uint8)
    columns = random_columns(layout, status=status)
    ds = open_run(write_run(tmp_path / "run", layout, columns))
    focused = focused_attribution(ds, *STEPS).compute()
    joint = joint_attribution(ds).values
    for clip in range(6):
        alone = STEPS[1].apply(STEPS[0].apply(joint[clip]))
        np.testing.assert_array_equal(focused.sel(clip=clip).values, alone)
    assert np.isnan(focused.values[2]).all()
    some = focused_attribution(ds.isel(clip=[5, 1]), *STEPS).compute()
    np.testing.assert_array_equal(some.values, focused.values[[5, 1]])
    np.testing.assert_array_equal(focused_attribution(ds).values, joint)


def test_focused_attribution_records_its_steps_in_what_is_saved(tmp_path):
    layout = small_layout(4)
    ds = open_run(write_run(tmp_path / "run", layout, random_columns(layout)))
    focused = focused_attribution(ds, *STEPS).compute()
    focused.to_dataset().to_zarr(tmp_path / "focused.zarr", zarr_format=3, consolidated=False)
    saved = xr.open_zarr(tmp_path / "focused.zarr", consolidated=False)["focused"]
    np.testing.assert_array_equal(saved.values, focused.values)
    assert "otsu, per frame, then smoothing 0.5, temperature 0.5" in saved.attrs["description"]
    assert saved.attrs["steps"] == [
        {"step": "threshold", "kind": "otsu", "per_frame": True},
        {"step": "focus", "smoothing": 0.5, "temperature": 0.5},
    ]
