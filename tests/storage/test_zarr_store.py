"""Zarr on a real S3 server through faults: nothing is lost, or taken for absent."""

import numpy as np
import pytest
import zarr

from pipeline.errors import StorageError
from pipeline.storage.retries import PATIENCE_VARIABLE
from pipeline.storage.zarr_store import RetryingStore, zarr_location
from tests.support.object_storage import BUCKET, OF_ANY_OBJECT, all_refused

ROWS = np.arange(64, dtype=np.float32).reshape(8, 8)


@pytest.mark.parametrize("fault", OF_ANY_OBJECT)
def test_a_zarr_array_survives_every_fault(s3, fault):
    url = f"s3://{BUCKET}/storage/{fault.replace(' ', '-')}.zarr"
    s3.plan = lambda method, path, nth: fault if nth < 1 else None
    group = zarr.create_group(zarr_location(url))
    array = group.create_array("rows", shape=ROWS.shape, chunks=(4, 8), dtype=ROWS.dtype)
    array[:] = ROWS
    s3.reset(s3.plan)
    read = zarr.open_group(zarr_location(url), mode="r")
    np.testing.assert_array_equal(read["rows"][:], ROWS)
    assert list(read.array_keys()) == ["rows"]
    assert s3.faults[fault] > 2


def test_what_can_not_be_read_is_never_taken_for_absent(s3, monkeypatch):
    url = f"s3://{BUCKET}/storage/away.zarr"
    array = zarr.create_array(
        zarr_location(url), shape=ROWS.shape, chunks=(4, 8), dtype=ROWS.dtype, fill_value=-1
    )
    array[:] = ROWS
    monkeypatch.setenv(PATIENCE_VARIABLE, "0.1")
    s3.plan = all_refused
    with pytest.raises(StorageError, match=r"storage/away\.zarr/"):
        array[:]
    with pytest.raises(StorageError):
        zarr.open_array(zarr_location(url), mode="r")
    with pytest.raises(StorageError):
        array[:4] = 0


def test_an_object_that_is_read_is_asked_for_once(s3):
    url = f"s3://{BUCKET}/storage/once.zarr"
    array = zarr.create_array(
        zarr_location(url), shape=ROWS.shape, chunks=(4, 8), dtype=ROWS.dtype, fill_value=-1
    )
    array[:4] = ROWS[:4]
    s3.reset()
    read = zarr.open_array(zarr_location(url), mode="r")[:]
    np.testing.assert_array_equal(read[:4], ROWS[:4])
    assert (read[4:] == -1).all()
    of_values = sorted(request for request in s3.requests.elements() if "/c/" in request[1])
    assert [(method, path[-3:]) for method, path in of_values] == [("GET", "0/0"), ("GET", "1/0")]


def test_a_local_url_is_its_path_and_any_other_is_tried_again(tmp_path):
    assert zarr_location(str(tmp_path)) == str(tmp_path)
    assert zarr_location(f"file://{tmp_path}") == str(tmp_path)
    assert isinstance(zarr_location("memory://run"), RetryingStore)
    with pytest.raises(ValueError, match="gopher"):
        zarr_location("gopher://host/run")


def test_what_zarr_asks_of_a_store_goes_through_the_retries(s3):
    """Groups are listed, deleted and made again, each request refused once."""
    url = f"s3://{BUCKET}/storage/group.zarr"
    s3.plan = lambda method, path, nth: "503" if nth < 1 else None
    for _ in range(2):
        group = zarr.create_group(zarr_location(url), overwrite=True)
        for name in ("b", "a"):
            group.create_array(name, shape=(4,), chunks=(2,), dtype="i4")[:] = 7
        s3.reset(s3.plan)
        assert sorted(zarr.open_group(zarr_location(url), mode="r").array_keys()) == ["a", "b"]
    del group["a"]
    s3.reset(s3.plan)
    read = zarr.open_group(zarr_location(url), mode="r")
    assert list(read.array_keys()) == ["b"]
    s3.reset(s3.plan)
    assert read["b"].nchunks_initialized == 2
    assert s3.faults["503"] > 0
    assert read["b"][1:3].tolist() == [7, 7]
    assert s3.faults["503"] > 0
