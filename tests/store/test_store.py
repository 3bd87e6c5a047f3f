"""The store's contract, seen from outside: by xarray, by the objects on disk, and by faults."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.attribution.method import Method
from pipeline.errors import RunMismatchError, StoreError
from pipeline.status import Status
from pipeline.store.create import create_store
from pipeline.store.opening import (
    Absent,
    Foreign,
    Found,
    Unfinished,
    check_same_run,
    find_store,
    open_store,
)
from pipeline.store.pending import pending_rows
from pipeline.store.record import ModelIdentity
from pipeline.store.run_folder import store_url
from pipeline.store.schema import StoreLayout
from pipeline.store.shards import write_shard
from tests.support.records import identity_of, record_of

LAYOUT = StoreLayout(
    n_rows=10, rows_per_shard=4, n_frames=8, n_times=4, height=3, width=2, n_ranks=5
)
IDENTITY = identity_of(LAYOUT)
RECORD = record_of(LAYOUT)
EXPECTED = {
    "spatial": (("clip", "time", "y", "x"), np.float16),
    "temporal": (("clip", "time"), np.float32),
    "status": (("clip",), np.uint8),
    "label": (("clip",), np.int32),
    "prediction": (("clip",), np.int32),
    "probability": (("clip",), np.float32),
    "label_probability": (("clip",), np.float32),
    "top_classes": (("clip", "rank"), np.int32),
    "top_probabilities": (("clip", "rank"), np.float32),
    "frame_index": (("clip", "frame"), np.int32),
    "start_time": (("clip",), np.float64),
    "video_id": (("clip",), str),
    "message": (("clip",), str),
}
"""The table of the design, and so the format that readers of a store rely on."""

quick = settings(deadline=None, max_examples=25)


def columns_of(layout, rows, seed=0):
    """Columns of a shard that no fill value occurs in, told apart by their row."""
    rng = np.random.default_rng([seed, rows[0]])
    sizes = {
        "time": layout.n_times, "frame": layout.n_frames, "rank": layout.n_ranks,
        "y": layout.height, "x": layout.width,
    }  # fmt: skip
    columns = {}
    for name, (dims, dtype) in EXPECTED.items():
        shape = (len(rows), *(sizes[dim] for dim in dims[1:]))
        if dtype is str:
            columns[name] = np.array([f"{name} {row} é" for row in rows], dtype=object)
        elif np.issubdtype(dtype, np.floating):
            columns[name] = rng.uniform(0.1, 1, shape).astype(dtype)
        else:
            columns[name] = rng.integers(1, 9, shape).astype(dtype)
    spatial = columns["spatial"].astype(np.float64)
    columns["spatial"] = (spatial / spatial.sum(axis=(-2, -1), keepdims=True)).astype(np.float16)
    return columns


def write(group, shard, seed=0):
    rows = group.layout.shard_rows(shard)
    columns = columns_of(group.layout, rows, seed)
    write_shard(group, columns, np.array(rows))
    return columns


def objects(folder):
    """Every object of a store with its bytes, but no metadata."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in paths
        if path.name != "zarr.json"
    }


@pytest.fixture
def url(tmp_path):
    return str(tmp_path / "attributions.zarr")


@pytest.fixture
def group(url):
    return create_store(url, RECORD)


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


@quick
@given(
    n_rows=st.integers(1, 40),
    rows_per_shard=st.integers(1, 45),
    data=st.data(),
)
def test_pending_is_what_was_not_written_whatever_the_order(
    tmp_path_factory, n_rows, rows_per_shard, data
):
    url = str(tmp_path_factory.mktemp("store"))
    layout = StoreLayout(
        n_rows, rows_per_shard, n_frames=2, n_times=2, height=1, width=2, n_ranks=1
    )
    starts = list(range(0, n_rows, rows_per_shard))
    every_shard = list(range(len(starts)))
    order = data.draw(st.permutations(every_shard))
    done = order[: data.draw(st.integers(0, min(len(order), 4)))]

    group = create_store(url, record_of(layout))
    assert pending_rows(group).shards.tolist() == every_shard
    written = {shard: write(group, shard) for shard in done}

    reopened = open_store(url)
    assert pending_rows(reopened).shards.tolist() == sorted(set(every_shard) - set(done))
    for shard, columns in written.items():
        rows = slice(starts[shard], starts[shard] + rows_per_shard)
        np.testing.assert_array_equal(reopened.array("spatial")[rows], columns["spatial"])
        np.testing.assert_array_equal(reopened.array("video_id")[rows], columns["video_id"])
    n_written = sum(len(columns["status"]) for columns in written.values())
    assert (reopened.array("status")[:] != 0).sum() == n_written
    assert len(objects(url)) == len(EXPECTED) * len(done)


@pytest.mark.parametrize("rows_per_shard", [1, 4, 10, 37, 64, 100])
def test_a_shard_is_one_object_of_each_array_and_shares_none(tmp_path, rows_per_shard):
    layout = StoreLayout(100, rows_per_shard, n_frames=2, n_times=2, height=3, width=2, n_ranks=1)
    group = create_store(str(tmp_path), record_of(layout))
    before: dict[str, bytes] = {}
    for shard in range(min(layout.n_shards, 3)):
        write(group, shard)
        after = objects(tmp_path)
        new = after.keys() - before.keys()
        assert sorted(name.split("/")[0] for name in new) == sorted(EXPECTED)
        assert {name: after[name] for name in before} == before
        before = after


def forget(url, shard):
    """Take away a shard's commit mark."""
    (Path(url) / "status" / "c" / str(shard)).unlink()


def test_a_column_of_fill_values_is_written_as_well_as_any(group, url):
    """zarr keeps no object for it; written over a shard that had one, it must take it away."""
    write(group, 0)
    columns = columns_of(LAYOUT, range(0, 4)) | {"message": np.array([""] * 4, dtype=object)}
    forget(url, 0)
    write_shard(group, columns, np.arange(4))
    assert open_store(url).array("message")[:4].tolist() == [""] * 4


def test_a_shard_written_twice_is_the_same_bytes(group, url):
    write(group, 0)
    write(group, 2)
    once = objects(url)
    for shard in (2, 0):
        forget(url, shard)
        assert objects(url) != once
        write(open_store(url, mode="r+"), shard)
        assert objects(url) == once
    forget(url, 0)
    write(group, 0, seed=1)
    assert objects(url) != once


def test_a_failed_row_is_accounted_for_and_only_a_pending_one_is_not(group, url):
    for shard, status in enumerate([Status.MISSING, Status.MODEL_ERROR]):
        columns = columns_of(LAYOUT, LAYOUT.shard_rows(shard))
        columns["status"][:] = status
        write_shard(group, columns, np.array(LAYOUT.shard_rows(shard)))
    assert pending_rows(open_store(url)).shards.tolist() == [2]


BROKEN_ROWS = {
    "one row short": range(4, 7),
    "across two shards": range(2, 6),
    "out of order": [4, 5, 7, 6],
    "two shards": range(0, 8),
    "beyond the last row": range(8, 12),
    "no such shard": range(12, 16),
}


@pytest.mark.parametrize("rows", BROKEN_ROWS.values(), ids=BROKEN_ROWS.keys())
def test_rows_that_are_no_shard_are_refused_and_nothing_is_written(group, url, rows):
    write(group, 0)
    before = objects(url)
    columns = columns_of(LAYOUT, list(rows), seed=1)
    with pytest.raises(StoreError, match=f"rows {rows[0]} to {rows[-1]} .*not a whole shard"):
        write_shard(group, columns, np.array(rows))
    assert objects(url) == before


def test_negative_rows_are_refused(group):
    with pytest.raises(StoreError):
        write_shard(group, columns_of(LAYOUT, range(0, 4)), np.arange(-4, 0))


def test_no_rows_are_refused(group):
    columns = {name: column[:0] for name, column in columns_of(LAYOUT, range(0, 4)).items()}
    with pytest.raises(StoreError):
        write_shard(group, columns, np.arange(0))


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("fault", ["missing", "too short", "one axis more"])
def test_a_bad_column_is_named_and_nothing_is_written(group, url, name, fault):
    write(group, 0)
    before = objects(url)
    columns = columns_of(LAYOUT, range(0, 4), seed=1)
    good = columns.pop(name)
    if fault != "missing":
        columns[name] = good[:-1] if fault == "too short" else good[..., None]
    with pytest.raises(StoreError, match=f"row 0: column '{name}'"):
        write_shard(group, columns, np.arange(4))
    assert objects(url) == before


def test_a_row_that_stays_pending_is_refused_and_nothing_is_written(group, url):
    columns = columns_of(LAYOUT, range(0, 4))
    columns["status"][2] = Status.PENDING
    with pytest.raises(StoreError, match="pending"):
        write_shard(group, columns, np.arange(4))
    assert objects(url) == {}


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - {"status"}))
def test_if_any_array_fails_the_shard_stays_pending(group, url, name):
    # A file where the chunks' folder would be: also root can't write below it.
    blocked = Path(url) / name / "c"
    blocked.write_bytes(b"")
    with pytest.raises(OSError):  # noqa: PT011, the system's words
        write(group, 1)
    assert pending_rows(open_store(url)).shards.tolist() == [0, 1, 2]
    assert not (Path(url) / "status" / "c").exists()

    blocked.unlink()
    write(open_store(url, mode="r+"), 1)
    assert pending_rows(open_store(url)).shards.tolist() == [0, 2]


def test_status_is_the_last_object_of_a_shard(group, url):
    for shard in range(3):
        write(group, shard)
        written = {
            path.relative_to(url).parts[0]: path.stat().st_mtime_ns
            for path in Path(url).rglob("*")
            if path.is_file() and path.name != "zarr.json" and f"/c/{shard}" in path.as_posix()
        }
        assert len(written) == len(EXPECTED)
        status = written.pop("status")
        assert status >= max(written.values())


def test_the_same_run_may_go_on(group, url):
    check_same_run(open_store(url), IDENTITY)


def test_another_run_is_told_every_difference_with_both_values(group, url):
    other = identity_of(
        LAYOUT,
        manifest="ffff",
        model=ModelIdentity(weights="0000", config={"hidden_size": 768}),
        method=Method(residual=True).resolved(12),
    )
    with pytest.raises(RunMismatchError) as caught:
        check_same_run(open_store(url), other)
    message = str(caught.value)
    for difference in (
        "manifest is '3f2a' there and 'ffff' here",
        "model.weights is '9c1e' there and '0000' here",
        "method.residual is False there and True here",
    ):
        assert difference in message
    assert url in message
    assert "layers" not in message
    assert "model.config" not in message


def test_layout_and_record_come_back(group, url):
    found = find_store(url)
    assert isinstance(found, Found)
    assert found.store.record == RECORD
    with pytest.raises(StoreError, match="can't create"):
        create_store(url, RECORD)


def test_a_store_opened_to_read_can_not_be_written(group, url):
    with pytest.raises(ValueError, match="read-only"):
        write(open_store(url), 0)
    assert objects(url) == {}


@pytest.mark.parametrize("n_arrays", [0, 3])
def test_a_creation_that_was_cut_off_is_done_anew(url, n_arrays):
    half = zarr.create_group(url, attributes={"schema": {"name": "staa", "version": 1}})
    for index in range(n_arrays):
        half.create_array(f"old_{index}", shape=(7,), dtype="int8")
    assert isinstance(find_store(url), Unfinished)
    with pytest.raises(StoreError, match="creation was cut off"):
        open_store(url)
    create_store(url, RECORD)
    assert set(open_store(url).group.array_keys()) == set(EXPECTED)


def test_a_creation_that_fails_on_the_way_does_not_count(url):
    impossible = replace(LAYOUT, n_ranks=-1)
    with pytest.raises(StoreError, match=f"can't create a store at {url}"):
        create_store(url, record_of(impossible))
    assert "spatial" in zarr.open_group(url, mode="r")
    assert isinstance(find_store(url), Unfinished)
    create_store(url, RECORD)
    assert pending_rows(open_store(url)).shards.tolist() == [0, 1, 2]


def foreign_group(path):
    zarr.create_group(path, attributes={"title": "someone's"}).create_array(
        "theirs", shape=(3,), dtype="int8"
    )


def foreign_array(path):
    zarr.create_array(path, shape=(3,), dtype="int8")


def newer_schema(path):
    attributes = {"schema": {"name": "staa", "version": 999}, "identity": {}}
    zarr.create_group(path, attributes=attributes)


def plain_file(path):
    Path(path).write_text("notes")


def snapshot(path):
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return [(file, file.read_bytes()) for file in files if file.is_file()]


@pytest.mark.parametrize("make", [foreign_group, foreign_array, newer_schema, plain_file])
def test_what_is_no_store_is_refused_by_url_and_left_alone(url, make):
    make(url)
    before = snapshot(url)
    with pytest.raises(StoreError, match=url):
        open_store(url)
    with pytest.raises(StoreError, match=url):
        create_store(url, RECORD)
    assert snapshot(url) == before


@pytest.mark.parametrize("make", [foreign_group, foreign_array])
def test_another_zarr_is_foreign(url, make):
    make(url)
    assert isinstance(find_store(url), Foreign)


def plain_folder(path):
    Path(path).mkdir()
    (Path(path) / "notes.txt").write_text("notes")


def broken_metadata(path):
    Path(path).mkdir()
    (Path(path) / "zarr.json").write_text('{"zarr_fo')


def foreign_v2_group(path):
    zarr.create_group(path, zarr_format=2, attributes={"title": "someone's"})


@pytest.mark.parametrize("make", [plain_folder, broken_metadata, foreign_v2_group])
def test_a_folder_of_something_else_is_refused_and_left_alone(url, make):
    make(url)
    before = snapshot(url)
    with pytest.raises(StoreError, match=url):
        open_store(url)
    with pytest.raises(StoreError, match=url):
        create_store(url, RECORD)
    assert snapshot(url) == before


def test_nothing_there_is_no_store(url):
    assert find_store(url) == Absent()
    with pytest.raises(StoreError, match=f"no store at {url}"):
        open_store(url)


def test_an_unknown_protocol_is_refused_by_url():
    with pytest.raises(StoreError, match="nosuch://bucket/store"):
        create_store("nosuch://bucket/store", RECORD)
    with pytest.raises(StoreError, match="nosuch://bucket/store"):
        find_store("nosuch://bucket/store")


def url_of_memory(tmp_path):
    return f"memory://{tmp_path.name}/attributions.zarr"


def url_of_file(tmp_path):
    return f"file://{tmp_path}/attributions.zarr"


@pytest.mark.parametrize(
    "make_url",
    [url_of_memory, url_of_file],
)
def test_a_url_of_fsspec_does_all_that_a_path_does(tmp_path, make_url):
    url = make_url(tmp_path)
    assert find_store(url) == Absent()
    group = create_store(url, RECORD)
    written = write(group, 1)
    reopened = open_store(url, mode="r+")
    check_same_run(reopened, IDENTITY)
    assert pending_rows(reopened).shards.tolist() == [0, 2]
    write(reopened, 2)
    dataset = xr.open_zarr(url, consolidated=False)
    np.testing.assert_array_equal(dataset["temporal"][4:8], written["temporal"])
    assert pending_rows(open_store(url)).shards.tolist() == [0]


@pytest.mark.parametrize("shape", [(8, 14, 14), (16, 28, 28)])
def test_stored_spatial_maps_sum_to_1(tmp_path, shape):
    n_times, height, width = shape
    layout = StoreLayout(4, 4, n_frames=2, n_times=n_times, height=height, width=width, n_ranks=1)
    group = create_store(str(tmp_path), record_of(layout))
    write(group, 0)
    stored = xr.open_zarr(str(tmp_path), consolidated=False)["spatial"].astype("float64")
    np.testing.assert_allclose(stored.sum(["y", "x"]), 1, atol=1e-3)


@pytest.mark.parametrize("run_url", ["s3://bucket/run", "s3://bucket/run/", "/data/run//"])
def test_the_store_lies_in_the_runs_folder(run_url):
    assert store_url(run_url) == f"{run_url.rstrip('/')}/attributions.zarr"
