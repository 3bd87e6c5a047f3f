"""What is at a target: nothing, something else, half a store, another run's, or the run's own."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from pipeline.attribution.method import Method
from pipeline.errors import RunMismatchError, StoreError
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
from tests.support.records import identity_of
from tests.support.stores import IDENTITY, RECORD, write
from tests.support.stores import LAYOUT as STORED


def test_layout_and_attributes_come_back(group, url):
    found = find_store(url)
    assert isinstance(found, Found)
    assert found.store.record == RECORD
    with pytest.raises(StoreError, match="can't create"):
        create_store(url, RECORD)


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


def test_the_same_run_may_go_on(group, url):
    check_same_run(open_store(url), IDENTITY)


def test_another_run_is_told_every_difference_with_both_values(group, url):
    other = identity_of(
        STORED,
        manifest="ffff",
        model=ModelIdentity(weights="0000", config={"hidden_size": 768}),
        method=Method(name="staa-paper", residual=True).resolved(12, pools_mean=False),
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


def test_a_longer_manifest_alone_is_told_how_to_be_taken_in(group):
    with pytest.raises(RunMismatchError, match="--append takes in rows"):
        check_same_run(group, identity_of(STORED, manifest="ffff"))
    with pytest.raises(RunMismatchError) as caught:
        check_same_run(group, identity_of(STORED, batch_size=2))
    assert "--append" not in str(caught.value)


def test_a_store_without_identity_is_unfinished_and_is_not_opened(group, url):
    """Identity is written last, and deleted first."""
    for attributes in (
        {"schema": group.group.attrs["schema"]},
        {k: v for k, v in group.group.attrs.asdict().items() if k != "identity"},
    ):
        group.group.attrs.put(attributes)
        assert find_store(url) == Unfinished()
        with pytest.raises(StoreError, match="holds a store whose creation was cut off"):
            open_store(url)
