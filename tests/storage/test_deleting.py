"""What is deleted by its name goes, and what its name would match as a pattern stays."""

from uuid import uuid4

import fsspec
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.errors import StorageError
from pipeline.storage.deleting import delete_remote_tree
from pipeline.storage.files import delete_file, delete_tree, open_filesystem, write_bytes
from pipeline.storage.retries import PATIENCE_VARIABLE
from pipeline.storage.zarr_store import zarr_location
from tests.support.object_storage import BUCKET, filesystem_at

PATTERNS = {"lr[1]": "lr1", "lr*": "lr-b", "l?": "lr"}
"""A name that fsspec would take for a pattern, and another that it matches."""


@pytest.fixture(params=["memory", "s3", "disk"])
def base(request, tmp_path):
    """URL of an empty folder, on each kind of storage."""
    if request.param == "disk":
        return str(tmp_path)
    if request.param == "memory":
        return f"memory://{uuid4().hex}"
    request.getfixturevalue("s3")
    return f"s3://{BUCKET}/deleting/{uuid4().hex}"


def below(url):
    """Names of the objects below a URL; the S3 server lists a folder also once it is empty."""
    filesystem, path = open_filesystem(url)
    filesystem.invalidate_cache()
    found = filesystem.find(path, detail=True)
    return sorted(name.removeprefix(path) for name, info in found.items() if info["type"] == "file")


@pytest.mark.parametrize("name", PATTERNS)
def test_a_tree_goes_and_what_its_name_would_match_stays(base, name):
    sibling = PATTERNS[name]
    for folder in (name, sibling):
        for file in ("zarr.json", "a/c/0", "a/c/[1]"):
            write_bytes(f"{base}/{folder}/{file}", b"data")
    delete_tree(f"{base}/{name}")
    assert below(f"{base}/{name}") == []
    assert below(f"{base}/{sibling}") == ["/a/c/0", "/a/c/[1]", "/zarr.json"]
    if not base.startswith("s3:"):
        filesystem, path = open_filesystem(f"{base}/{name}")
        assert not filesystem.exists(path)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("delete", [delete_file, delete_tree])
def test_a_file_goes_and_what_its_name_would_match_stays(base, name, delete):
    for file in (name, PATTERNS[name]):
        write_bytes(f"{base}/{file}", b"data")
    delete(f"{base}/{name}")
    assert below(base) == [f"/{PATTERNS[name]}"]


@pytest.mark.parametrize("delete", [delete_file, delete_tree])
def test_where_nothing_is_nothing_is_deleted(base, delete):
    write_bytes(f"{base}/lr1", b"data")
    write_bytes(f"{base}/lr1-b/c", b"data")
    for name in ("lr[1]", "lr", "absent/lr1"):
        delete(f"{base}/{name}")
    assert below(base) == ["/lr1", "/lr1-b/c"]


@pytest.mark.parametrize("name", PATTERNS)
def test_zarr_deletes_by_name_too(base, name):
    for folder in (name, PATTERNS[name]):
        group = zarr.create_group(zarr_location(f"{base}/{folder}"))
        for array in ("b[1]", "b1"):
            group.create_array(array, shape=(4,), chunks=(2,), dtype="i4")[:] = 7
    whole = below(f"{base}/{PATTERNS[name]}")
    group = zarr.open_group(zarr_location(f"{base}/{name}"))
    del group["b[1]"]
    assert list(group.array_keys()) == ["b1"]
    # A chunk of fill values is no object.
    group["b1"][:] = 0
    assert below(f"{base}/{name}") == ["/b1/zarr.json", "/zarr.json"]
    zarr.create_group(zarr_location(f"{base}/{name}"), overwrite=True)
    assert below(f"{base}/{name}") == ["/zarr.json"]
    assert below(f"{base}/{PATTERNS[name]}") == whole
    assert (zarr.open_group(zarr_location(f"{base}/{PATTERNS[name]}"))["b1"][:] == 7).all()


def test_a_whole_zarr_store_is_cleared_by_name():
    base = f"memory://{uuid4().hex}"
    for name in ("lr[1]", "lr1"):
        write_bytes(f"{base}/{name}/a", b"data")
    zarr.core.sync.sync(zarr_location(f"{base}/lr[1]").clear())
    assert below(base) == ["/lr1/a"]


def test_objects_are_deleted_through_faults_and_each_once(s3, s3_server):
    url = f"s3://{BUCKET}/deleting/{uuid4().hex}"
    filesystem_at(s3_server).pipe({f"{url}/run/{n}": b"data" for n in range(40)})
    s3.plan = lambda method, path, nth: "503" if nth < 1 else None
    delete_tree(f"{url}/run")
    deleted = [count for (method, _), count in s3.done.items() if method == "DELETE"]
    assert deleted == [1] * 40
    s3.reset()
    assert below(url) == []


def test_an_object_with_the_name_of_a_folder_goes_with_it():
    class Both(MemoryFileSystem):
        """As on S3, where an object may lie beside what is below it."""

        cachable = False
        store = {"/run": b"", "/run/a": b"", "/run1": b""}  # noqa: RUF012  of one test

        def find(self, path, maxdepth=None, withdirs=False, detail=False, **kwargs):
            found = [name for name in self.store if name.startswith(f"{path}/")]
            return {name: {} for name in found or {path} & self.store.keys()}

        def rm_file(self, path):
            del self.store[path]

    both = Both()
    delete_remote_tree(both, "/run")
    assert list(both.store) == ["/run1"]


def test_a_storage_that_stays_away_is_told_after_its_patience(s3, s3_server, monkeypatch):
    url = f"s3://{BUCKET}/deleting/{uuid4().hex}"
    filesystem_at(s3_server).pipe({f"{url}/run/{n}": b"data" for n in range(3)})
    monkeypatch.setenv(PATIENCE_VARIABLE, "0.1")
    s3.plan = lambda method, path, nth: "503" if method == "DELETE" else None
    with pytest.raises(StorageError, match="run/"):
        delete_tree(f"{url}/run")
    with pytest.raises(StorageError, match="run/0"):
        delete_file(f"{url}/run/0")
    s3.reset()
    delete_tree(f"{url}/run")
    assert below(url) == []


def test_what_a_storage_does_not_delete_is_told():
    class Keeping(MemoryFileSystem):
        """Deletes nothing, and says that it did."""

        cachable = False

        def rm_file(self, path):
            pass

    name = uuid4().hex
    fsspec.filesystem("memory").pipe_file(f"/{name}/a", b"")
    with pytest.raises(OSError, match="not empty") as caught:
        delete_remote_tree(Keeping(), f"/{name}")
    assert caught.value.filename == f"/{name}"
