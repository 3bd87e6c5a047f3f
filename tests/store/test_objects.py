"""Objects of the stores beside a run: which are gone is known, and a turned bit is an error."""

import errno
import os
from datetime import UTC, datetime

import numpy as np
import pytest
import zarr

from pipeline.errors import StorageError
from pipeline.storage.retries import PATIENCE_VARIABLE
from pipeline.storage.zarr_store import zarr_location
from pipeline.store.objects import CHECKED, OBJECTS, lost_objects, n_objects, note_objects
from tests.support.http_server import served
from tests.support.object_storage import BUCKET, all_refused


@pytest.fixture
def group(tmp_path):
    return made_at(str(tmp_path))


def made_at(url):
    made = zarr.create_group(zarr_location(url))
    for name, n_rows in (("one", 9), ("other", 4)):
        made.create_array(name, shape=(n_rows,), chunks=(2,), dtype="f8", compressors=CHECKED)
        # The last one is all fill value, and isn't written.
        made[name][: n_rows - 1] = np.arange(1, n_rows)
    return made


def test_objects_that_are_gone_are_counted(group, tmp_path):
    assert lost_objects(group) == ""
    note_objects(group)
    assert lost_objects(zarr.open_group(str(tmp_path), mode="r")) == ""
    (tmp_path / "other" / "c" / "0").unlink()
    assert lost_objects(group) == "other has 1 of 2"
    (tmp_path / "one" / "c" / "1").unlink()
    assert lost_objects(group) in ("one has 3 of 4", "other has 1 of 2")


@pytest.mark.parametrize("url", ["c", "./c", "d/c"])
def test_a_relative_root_is_counted_like_any(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    note_objects(made_at(url))
    for root in (url, str(tmp_path / url)):
        there = zarr.open_group(zarr_location(root), mode="r")
        assert there.attrs[OBJECTS] == {"one": 4, "other": 2}
        assert lost_objects(there) == ""
    (tmp_path / url / "one" / "c" / "1").unlink()
    assert lost_objects(zarr.open_group(zarr_location(url), mode="r")) == "one has 3 of 4"


def test_a_folder_that_can_not_be_read_tells_no_count(group, tmp_path, monkeypatch):
    listed = os.scandir

    def refused(path):
        if str(path) == str(tmp_path / "one" / "c"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    # Whoever may do everything can list any folder.
    monkeypatch.setattr(os, "scandir", refused)
    assert n_objects(group["one"]) is None
    assert n_objects(group["other"]) == 2


def test_a_file_that_is_being_written_is_no_object(group, tmp_path):
    note_objects(group)
    (tmp_path / "one" / "c" / "1").rename(tmp_path / "one" / "c" / "1.0a1b2c.partial")
    (tmp_path / "one" / "c" / ".nfs0001").write_bytes(b"")
    assert n_objects(group["one"]) == 3
    assert lost_objects(group) == "one has 3 of 4"


def test_objects_of_several_dimensions_and_of_none_are_counted(tmp_path):
    made = zarr.create_group(str(tmp_path))
    for name, shape in (("c", (4, 6)), ("scalar", ())):
        made.create_array(name, shape=shape, chunks=tuple(2 for _ in shape), dtype="f8")[...] = 1
    assert n_objects(made["c"]) == 6
    assert n_objects(made["scalar"]) == 1


def test_counting_takes_as_long_as_what_is_there_and_not_what_might_be(tmp_path):
    """Datasets have an object for each clip; Zarr's own count would take hours here."""
    made = zarr.create_group(str(tmp_path))
    array = made.create_array("one", shape=(1,), chunks=(1,), dtype="i1")
    array[:] = 1
    array.resize((10**8,))
    assert n_objects(array) == 1


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("status", [403, 404, 405])
def test_a_web_server_that_lists_no_folder_has_lost_nothing(group, tmp_path, status):
    note_objects(group)
    with served(contents(tmp_path)) as server:
        server.answer = lambda path, nth: status if (tmp_path / path).is_dir() else None
        there = zarr.open_group(zarr_location(server.url), mode="r")
        assert there.attrs[OBJECTS] == {"one": 4, "other": 2}
        assert n_objects(there["one"]) is None
        assert lost_objects(there) == ""
        np.testing.assert_array_equal(there["one"][:8], np.arange(1, 9))


def test_objects_in_a_bucket_are_counted_through_faults(s3, monkeypatch):
    url = f"s3://{BUCKET}/store/objects.zarr"
    note_objects(made_at(url))
    s3.reset(lambda method, path, nth: "503" if nth < 1 else None)
    there = zarr.open_group(zarr_location(url), mode="r")
    assert (n_objects(there["one"]), lost_objects(there)) == (4, "")
    one = there["one"]
    one.store._store.fs.invalidate_cache()
    s3.reset(all_refused)
    monkeypatch.setenv(PATIENCE_VARIABLE, "0.1")
    with pytest.raises(StorageError):
        n_objects(one)


def test_every_bit_that_is_turned_is_an_error(group, tmp_path):
    path = tmp_path / "one" / "c" / "1"
    whole = path.read_bytes()
    seed = int(datetime.now(UTC).strftime("%Y%m%d"))
    print(f"seed {seed}")
    for bit in np.random.default_rng(seed).integers(0, 8 * len(whole), 40).tolist():
        turned = bytearray(whole)
        turned[bit // 8] ^= 1 << bit % 8
        path.write_bytes(turned)
        with pytest.raises(ValueError, match="checksum"):
            group["one"][:]
