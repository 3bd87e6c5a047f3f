"""A run as a dataset: labels, chunks, and what it says of rows that are not there yet."""

import time
import warnings
from dataclasses import replace
from pathlib import Path
from threading import Thread

import dask
import numpy as np
import pytest
import zarr

from analysis import joint_attribution, ok, open_run
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


@pytest.mark.parametrize("content", [None, "{", '{"zarr_format": 3, "node_type": "grou"}'])
@pytest.mark.parametrize("name", ["status", "probability", "temporal", "spatial", "video_id"])
@pytest.mark.filterwarnings("error")
def test_a_run_of_which_an_array_lost_its_metadata_is_refused_by_name(tmp_path, name, content):
    layout = small_layout(10, rows_per_shard=4)
    url = write_run(tmp_path / "run", layout, random_columns(layout))
    metadata = Path(url, "attributions.zarr", name, "zarr.json")
    if content is None:
        metadata.unlink()
    else:
        metadata.write_text(content)
    with pytest.raises(StoreError, match=rf"{name}/zarr\.json is lost or damaged"):
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
