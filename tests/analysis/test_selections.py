"""Statistics of what users make of a run: selections, orders, chunks, memory, dimensions.

Each is held against a loop over the clips that were chosen, class by class, by name.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import (
    by_video,
    class_names,
    class_statistics,
    for_netcdf,
    open_run,
    open_statistics,
    overall_statistics,
    save_statistics,
)
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import ViewsConfig
from pipeline.errors import StoreError
from pipeline.status import Status
from pipeline.store.run_folder import store_url
from tests.analysis.stores import CLASS_NAMES, random_columns, small_layout, write_run

N_CLIPS = 17
STATUS = np.full(N_CLIPS, Status.OK, np.uint8)
STATUS[[3, 11]] = Status.TIMEOUT


def columns_of(layout, seed=0):
    labels = np.random.default_rng(seed).integers(-1, 2, layout.n_rows).astype(np.int32)
    # Of the last class there is no clip.
    return random_columns(layout, seed, label=labels, status=STATUS[: layout.n_rows].copy())


def by_hand(columns, by, name, clips):
    """Clips, mean map and mean profile of the class of a name among the chosen clips."""
    index = CLASS_NAMES.index(name)
    chosen = [i for i in clips if columns["status"][i] == 1 and columns[by][i] == index]
    failed = [i for i in clips if columns["status"][i] > 1 and columns["label"][i] == index]
    joint = columns["spatial"].astype(np.float64) * columns["temporal"][:, :, None, None]
    return len(chosen), len(failed), joint[chosen].sum(axis=1), columns["temporal"][chosen]


def check(statistics, columns, by, names, clips):
    assert statistics["class"].values.tolist() == list(names)
    for position, name in enumerate(names):
        n_clips, n_failed, maps, profiles = by_hand(columns, by, name, clips)
        one = statistics.isel({"class": position})
        assert int(one["n_clips"]) == n_clips
        assert int(one["n_failed"]) == n_failed
        if not n_clips:
            assert np.isnan(one["spatial_map"]).all()
            assert np.isnan(one["entropy"])
            continue
        np.testing.assert_allclose(one["spatial_map"], maps.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(one["temporal_profile_std"], profiles.std(axis=0), atol=1e-6)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    layout = small_layout(N_CLIPS)
    columns = columns_of(layout)
    return write_run(tmp_path_factory.mktemp("run") / "run", layout, columns), columns


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_selection_order_and_chunking_lazy_or_in_memory(run, data):
    url, columns = run
    ds = open_run(url, shards_per_chunk=data.draw(st.integers(1, 3)))
    names = data.draw(st.lists(st.sampled_from(CLASS_NAMES), unique=True, min_size=1))
    clips = data.draw(st.lists(st.integers(0, N_CLIPS - 1), unique=True))
    by = data.draw(st.sampled_from(["label", "prediction"]))
    chosen = ds.sel({"class": names}).isel(clip=clips)
    match data.draw(st.sampled_from(["as it is", "loaded", "rechunked", "transposed"])):
        case "loaded":
            chosen = chosen.load()
        case "rechunked":
            chosen = chosen.chunk(clip=data.draw(st.integers(1, 9)), time=1, x=2)
        case "transposed":
            chosen = chosen.transpose("x", "time", ...)
    check(class_statistics(chosen, by).compute(), columns, by, names, clips)


def test_one_class_or_clip_is_selected_by_name_or_in_a_list(run):
    url, columns = run
    one = class_statistics(open_run(url).sel({"class": "bowling"}))
    assert "class" not in one.dims
    assert int(one["n_clips"]) == by_hand(columns, "label", "bowling", range(N_CLIPS))[0]
    with pytest.raises(StoreError, match=r"expected 'clip' among them; select one clip by"):
        class_statistics(open_run(url).isel(clip=5))


@pytest.mark.parametrize("load", [False, True])
def test_clips_that_where_takes_out_are_left_out(run, load):
    url, columns = run
    ds = open_run(url).load() if load else open_run(url)
    keep = columns["probability"] > 0.5
    statistics = class_statistics(ds.where(xr.DataArray(keep, dims="clip"))).compute()
    check(statistics, columns, "label", CLASS_NAMES, np.flatnonzero(keep))


def test_a_selection_goes_into_a_netcdf_file_and_back(run, tmp_path):
    url, columns = run
    ds = open_run(url).isel(clip=[4, 2])
    for_netcdf(ds).to_netcdf(tmp_path / "part.nc")
    back = xr.load_dataset(tmp_path / "part.nc")
    np.testing.assert_array_equal(back["spatial"], columns["spatial"][[4, 2]])
    assert back["video_id"].values.tolist() == ["clip4", "clip2"]
    assert json.loads(back.attrs["identity"]) == ds.attrs["identity"]


def test_clips_are_grouped_by_a_column(run):
    url, columns = run
    ds = open_run(url)
    means = ds[["temporal"]].groupby(ds["label"].compute()).mean().compute()
    one = columns["temporal"][(columns["label"] == 1) & (STATUS == 1)]
    np.testing.assert_allclose(means["temporal"].sel(label=1), one.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("load", [False, True])
def test_a_dimension_that_runs_lack_is_kept(run, tmp_path, load):
    url, columns = run
    other = columns_of(small_layout(N_CLIPS), seed=1)
    runs = [url, write_run(tmp_path / "other", small_layout(N_CLIPS), other)]
    joined = open_run(runs)
    statistics = class_statistics(joined.load() if load else joined).compute()
    assert statistics["run"].values.tolist() == runs
    assert statistics["spatial_map"].dims == ("run", "class", "y", "x")
    for name, of_run in zip(runs, (columns, other), strict=True):
        check(statistics.sel(run=name), of_run, "label", CLASS_NAMES, range(N_CLIPS))


def test_runs_over_different_manifests_are_joined_on_the_video(run, tmp_path):
    url, columns = run
    order = np.random.default_rng(2).permutation(N_CLIPS)[:9]
    part = {name: column[order] for name, column in columns.items()}
    other = write_run(tmp_path / "other", small_layout(9), part, digest="1")
    joined = open_run([url, other]).compute()
    assert joined["clip"].values.tolist() == sorted(order.tolist())
    first, second = joined.isel(run=0), joined.isel(run=1)
    assert first["video_id"].values.tolist() == second["video_id"].values.tolist()
    np.testing.assert_array_equal(first["spatial"], second["spatial"])


def test_runs_that_cannot_be_compared_are_refused_by_name(run, tmp_path):
    url, columns = run
    layout = small_layout(N_CLIPS)
    names = ("archery", "bowling", "baking")
    other = write_run(tmp_path / "classes", layout, columns, class_names=names)
    with pytest.raises(StoreError, match="other classes"):
        open_run([url, other])
    finer = replace(layout, width=6)
    other = write_run(tmp_path / "grid", finer, random_columns(finer), digest="1")
    with pytest.raises(StoreError, match=r"has 6 steps of x, and .* 5"):
        open_run([url, other])
    twice = {**columns, "video_id": np.array(["same"] * N_CLIPS, object)}
    other = write_run(tmp_path / "twice", layout, twice, digest="1")
    with pytest.raises(StoreError, match="'same' more than once"):
        open_run([url, other])


def test_views_count_as_clips_in_whichever_form(tmp_path):
    layout = small_layout(16)
    columns = columns_of(layout)
    two = {"views": ViewsConfig(clips=2), "sampling": Sampling("strided", 4, stride=2)}
    url = write_run(tmp_path / "run", layout, columns, **two)
    ds = open_run(url)
    check(class_statistics(by_video(ds)).compute(), columns, "label", CLASS_NAMES, range(16))
    first = by_video(ds).isel(view=0)
    check(class_statistics(first).compute(), columns, "label", CLASS_NAMES, range(0, 16, 2))
    for clips in ([1, 2, 3, 4], [0, 1, 2], [1, 0, 2, 3]):
        with pytest.raises(StoreError, match="expected whole videos, each with its 2 views"):
            by_video(ds.isel(clip=clips))
    assert by_video(ds.isel(clip=[4, 5, 0, 1]))["video"].values.tolist() == [2, 0]


def test_names_follow_the_classes_wherever_they_stand(run):
    url, columns = run
    expected = [CLASS_NAMES[label] if label >= 0 else "" for label in columns["label"]]
    ds = open_run(url)
    assert class_names(ds).values.tolist() == expected
    turned = ds.isel({"class": [2, 0, 1]})
    assert class_names(turned).values.tolist() == expected
    assert class_names(turned, "top_classes").dims == ("clip", "rank")


def test_what_was_dropped_is_named_in_one_line(run):
    url, columns = run
    ds = open_run(url)
    bare = ds.drop_attrs()
    check(class_statistics(bare).compute(), columns, "label", CLASS_NAMES, range(N_CLIPS))
    with pytest.raises(StoreError, match="no attribute 'identity'"):
        save_statistics(class_statistics(bare), url)
    with pytest.raises(StoreError, match="no attribute 'schema'"):
        by_video(bare)
    with pytest.raises(StoreError, match="no coordinate 'class_index'"):
        class_statistics(ds.drop_vars("class_index"))
    with pytest.raises(StoreError, match="has no 'temporal'"):
        class_statistics(ds.drop_vars("temporal"))


def test_statistics_of_a_run_that_has_gone_on_are_not_current(run, tmp_path):
    _, columns = run
    layout = small_layout(N_CLIPS)
    url = write_run(tmp_path / "run", layout, columns, pending_shards=(1,))
    save_statistics(class_statistics(open_run(url)), url)
    assert open_statistics(url)["n_clips"].sum() > 0
    status = zarr.open_group(store_url(url), mode="r+")["status"]
    status[4:8] = Status.MISSING
    with pytest.raises(
        StoreError, match=r"don't match the run's rows as they are now \(17 of 17 are done"
    ):
        open_statistics(url)


def test_both_groupings_are_kept_and_each_replaces_its_own(run, tmp_path):
    _, columns = run
    layout = small_layout(N_CLIPS)
    url = write_run(tmp_path / "run", layout, columns)
    with pytest.raises(StoreError, match="no statistics at"):
        open_statistics(url)
    for by in ("label", "prediction", "label"):
        save_statistics(class_statistics(open_run(url), by), url)
    for by in ("label", "prediction"):
        xr.testing.assert_equal(
            open_statistics(url, by), class_statistics(open_run(url), by).compute()
        )
    assert open_statistics(url).attrs["by"] == "label"


def test_a_class_that_lost_clips_is_not_passed_over_in_the_whole(run):
    url, _ = run
    statistics = class_statistics(open_run(url)).compute()
    assert np.isfinite(overall_statistics(statistics)["entropy"])
    statistics["entropy"][0] = np.nan
    assert np.isnan(overall_statistics(statistics)["entropy"])
