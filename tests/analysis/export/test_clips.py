"""Selected clips as NumPy arrays and as a Zarr store."""

import io
import json

import numpy as np
import pytest
import xarray as xr

from analysis import open_run, scores
from analysis.export.clips import as_npz, selected_clips, write_zarr
from pipeline.errors import ConfigError
from pipeline.status import Status
from pipeline.store.conforming import problems_of
from pipeline.store.foreign import take_in


def test_clips_without_an_attribution_are_left_out_and_counted(scored):
    url, columns, _ = scored
    ds, left_out = selected_clips(url, rows=[9, 4, 0])
    assert (ds["row"].values.tolist(), left_out) == ([4, 0], 1)
    ds, left_out = selected_clips(url)
    assert (ds.sizes["clip"], left_out) == (21, 2)
    assert (columns["status"][ds["row"].values] == Status.OK).all()
    ds, _ = selected_clips(url, where="entropy > 0.5", rows=range(10))
    table = scores(url)
    expected = table.index[(table["entropy"] > 0.5) & (table.index < 10)]
    assert ds["row"].values.tolist() == expected.tolist()


def test_nothing_to_write_is_refused(scored):
    url = scored[0]
    for chosen in ({"rows": [2]}, {"where": "entropy > 2"}):
        with pytest.raises(ConfigError, match="has an attribution"):
            selected_clips(url, **chosen)
    with pytest.raises(ConfigError, match="has no row -1: expected 0 to 22"):
        selected_clips(url, rows=[-1])


def test_an_npz_opens_without_pickle_and_holds_the_runs_values(scored):
    url, columns, _ = scored
    ds, _ = selected_clips(url, rows=[7, 3])
    with np.load(io.BytesIO(as_npz(ds)), allow_pickle=False) as read:
        assert read["row"].tolist() == [7, 3]
        for name in ("spatial", "temporal", "label", "probability", "frame_index"):
            np.testing.assert_array_equal(read[name], columns[name][[7, 3]])
            assert read[name].dtype == open_run(url)[name].dtype
        assert read["video_id"].tolist() == ["clip7", "clip3"]
        assert read["class_names"].tolist() == ["archery", "bowling", "cooking"]
        about = json.loads(str(read["about"]))
        assert about["identity"]["method"]["name"] == "staa-paper"


def test_more_than_fits_into_one_file_is_refused(scored):
    ds, _ = selected_clips(scored[0])
    with pytest.raises(ConfigError, match=r"format: npz would hold .* or --format zarr"):
        as_npz(ds, max_bytes=1000)


def test_a_zarr_store_opens_in_xarray_keeps_the_convention_and_becomes_a_run(scored, tmp_path):
    url, columns, _ = scored
    rows = [7, 3, 0, 1, 4, 12]
    ds, _ = selected_clips(url, rows=rows)
    store = str(tmp_path / "chosen.zarr")
    write_zarr(ds, store, rows_at_once=4)
    read = xr.open_zarr(store, consolidated=False)
    assert read["row"].values.tolist() == rows
    assert read["spatial"].dims == ("clip", "time", "y", "x")
    np.testing.assert_array_equal(read["spatial"], columns["spatial"][rows])
    assert read["video_id"].values.tolist() == [f"clip{row}" for row in rows]
    assert read.attrs["run"]["model"]["name"] == "org/model"
    assert problems_of(store) == []
    take_in(store, str(tmp_path / "run"))
    run = open_run(str(tmp_path / "run"))
    np.testing.assert_array_equal(run["spatial"], columns["spatial"][rows])
    np.testing.assert_array_equal(run["label"], columns["label"][rows])
    with pytest.raises(ConfigError, match="is there already"):
        write_zarr(ds, store)
