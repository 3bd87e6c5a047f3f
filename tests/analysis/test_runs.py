"""A run as a dataset: labels, chunks, and what it says of rows that are not there yet."""

import time
import warnings
from dataclasses import replace
from pathlib import Path
from threading import Thread

import dask
import numpy as np
import pytest
import xarray as xr
import zarr

from analysis import Focus, Threshold, focused_attribution, joint_attribution, ok, open_run
from pipeline.errors import StoreError
from pipeline.status import Status
from pipeline.store.append import append_rows
from pipeline.store.opening import open_store
from pipeline.store.run_folder import store_url
from tests.analysis.stores import (
    CLASS_NAMES,
    random_columns,
    refuse_to_compute,
    small_layout,
    write_run,
)
from tests.support.records import record_of


def test_a_run_opens_lazily_with_a_chunk_per_shard_and_without_warnings(tmp_path):
    layout = small_layout(10, rows_per_shard=4)
    url = write_run(tmp_path / "run", layout, random_columns(layout))
    with warnings.catch_warnings(), dask.config.set(scheduler=refuse_to_compute):
        warnings.simplefilter("error")
        ds = open_run(url, shards_per_chunk=1)
        joint = joint_attribution(ds)
    assert list(ds.data_vars) == list(layout.arrays())
    for name, spec in layout.arrays().items():
        assert ds[name].dims == ("clip", *spec.dims[1:])
        assert ds[name].chunksizes["clip"] == (4, 4, 2)
    assert joint.chunksizes["clip"] == (4, 4, 2)
    assert ds.attrs["config"]["model"] == "org/model"


def test_values_and_coordinates_are_the_stores(tmp_path):
    layout = small_layout(9)
    columns = random_columns(layout)
    ds = open_run(write_run(tmp_path / "run", layout, columns) + "/").compute()
    for name, column in columns.items():
        np.testing.assert_array_equal(ds[name].values, column)
    assert ds["class"].values.tolist() == list(CLASS_NAMES)
    names = [CLASS_NAMES[label] for label in columns["label"]]
    assert ds["class"][ds["label"]].values.tolist() == names
    assert ds.isel(clip=[5, 2])["clip"].values.tolist() == [5, 2]


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


def test_rows_of_a_run_in_progress_are_pending(tmp_path):
    layout = small_layout(10)
    url = write_run(tmp_path / "run", layout, random_columns(layout), pending_shards=(1,))
    ds = open_run(url).compute()
    assert np.flatnonzero(ds["status"] == Status.PENDING).tolist() == [4, 5, 6, 7]
    assert (ds["label"][4:8] == -1).all()
    assert np.isnan(ds["spatial"][4:8]).all()


def test_a_run_that_grows_while_it_is_opened_has_arrays_of_one_size(tmp_path):
    layout = small_layout(8)
    url = write_run(tmp_path / "run", layout, random_columns(layout))
    store, failed = open_store(store_url(url), mode="r+"), []

    def grow():
        try:
            grown = store
            for n_rows in range(9, 70):
                record = record_of(replace(layout, n_rows=n_rows), class_names=CLASS_NAMES)
                grown = append_rows(grown, record)
                # Else no look would find it settled.
                time.sleep(0.05)
        except Exception as error:
            failed.append(error)

    growing, seen = Thread(target=grow), set()
    growing.start()
    while growing.is_alive():
        try:
            ds = open_run(url)
        except StoreError as error:
            # On a busy machine it may be in between at each look.
            if "is being enlarged" not in str(error):
                raise
            continue
        seen.add(ds.sizes["clip"])
        assert {array.sizes["clip"] for array in ds.values()} == {ds.sizes["clip"]}
    assert failed == []
    assert open_run(url).sizes["clip"] == 69
    assert len(seen) > 1


def test_any_fsspec_url_will_do():
    layout = small_layout(5)
    columns = random_columns(layout)
    ds = open_run(write_run("memory://analysis-runs/run", layout, columns))
    np.testing.assert_array_equal(ds["label"].values, columns["label"])


def test_arrays_that_the_template_lacks_come_after_its_own(tmp_path):
    layout = small_layout(4)
    url = write_run(tmp_path / "run", layout, random_columns(layout))
    group = zarr.open_group(f"{url}/attributions.zarr", mode="r+")
    group.create_array("layer_mean", shape=(4,), dtype="f4", dimension_names=["clip"])
    assert list(open_run(url).data_vars) == [*layout.arrays(), "layer_mean"]


def test_a_wrong_url_is_refused(tmp_path):
    with pytest.raises(StoreError, match="no store at"):
        open_run(str(tmp_path / "nothing"))
    zarr.create_group(str(tmp_path / "other" / "attributions.zarr"))
    with pytest.raises(StoreError, match="not a store of this product"):
        open_run(str(Path(tmp_path / "other")))


@pytest.mark.parametrize("content", [None, "{"])
def test_a_run_whose_status_lost_its_metadata_is_refused_by_name(tmp_path, content):
    layout = small_layout(10, rows_per_shard=4)
    url = write_run(tmp_path / "run", layout, random_columns(layout))
    metadata = Path(url, "attributions.zarr", "status", "zarr.json")
    if content is None:
        metadata.unlink()
    else:
        metadata.write_text(content)
    with pytest.raises(StoreError, match=r"status/zarr\.json is lost or damaged"):
        open_run(url)


def test_ok_takes_the_clips_that_have_an_attribution(tmp_path):
    layout = small_layout(9)
    status = np.array([1, 1, Status.TIMEOUT, 1, 0, 0, 0, 0, Status.REMOVED], np.uint8)
    columns = random_columns(layout, status=status)
    ds = open_run(write_run(tmp_path / "run", layout, columns, pending_shards=(1,)))
    clips = ok(ds)
    assert clips["clip"].values.tolist() == [0, 1, 3]
    assert (clips["status"] == Status.OK).all()
    assert not clips["temporal"].isnull().any()
    assert clips.attrs == ds.attrs
    assert ok(ds.isel(clip=[3, 2]))["clip"].values.tolist() == [3]


def test_ok_of_several_runs_is_refused(tmp_path):
    layout = small_layout(4)
    urls = [write_run(tmp_path / name, layout, random_columns(layout)) for name in ("a", "b")]
    with pytest.raises(StoreError, match=r"take one run, as in ds.isel\(run=0\)"):
        ok(open_run(urls))


def test_a_checked_run_is_whole_and_a_damaged_one_is_named(tmp_path):
    layout = replace(small_layout(10), checksums=True)
    url = write_run(tmp_path / "run", layout, random_columns(layout))
    assert open_run(url, check=True).identical(open_run(url))
    lost = tmp_path / "run" / "attributions.zarr" / "label" / "c" / "1"
    lost.unlink()
    # Zarr makes up -1 for it, "unknown".
    assert (open_run(url)["label"].values[4:8] == -1).all()
    with pytest.raises(
        StoreError, match=r"label/c/1, rows 4 to 7: the object is lost; jobs\.verify names"
    ):
        open_run(url, check=True)


def test_rows_that_were_removed_are_in_no_join(tmp_path):
    layout = small_layout(5)
    columns = random_columns(layout)
    columns["video_id"][1] = columns["video_id"][3] = ""
    columns["status"][[1, 3]] = Status.REMOVED
    urls = [
        write_run(tmp_path / name, layout, columns, digest=name) for name in ("first", "second")
    ]
    assert open_run(urls)["clip"].values.tolist() == [0, 2, 4]
