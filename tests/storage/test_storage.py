"""Zarr and Parquet on a real S3 server through faults, and errors told apart."""

import errno
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zarr

from pipeline.credentials import holds_credentials, without_credentials
from pipeline.dataset.manifest import METADATA_KEYS, SCHEMA, read_manifest, write_manifest
from pipeline.errors import ManifestError, StorageError
from pipeline.storage.files import read_bytes, write_bytes
from pipeline.storage.retries import PATIENCE_VARIABLE, is_transient
from pipeline.storage.zarr_store import zarr_location
from tests.support.object_storage import BUCKET, FAULTS, OWNER, all_refused, environment

ROWS = np.arange(64, dtype=np.float32).reshape(8, 8)
OF_ANY_OBJECT = [fault for fault in FAULTS if fault != "cut declared anew"]


@pytest.fixture
def s3(proxy, monkeypatch):
    monkeypatch.setenv(PATIENCE_VARIABLE, "60")
    with environment(monkeypatch, OWNER.environment(proxy.endpoint)):
        yield proxy


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


@pytest.mark.parametrize("fault", OF_ANY_OBJECT)
def test_a_manifest_survives_every_fault(s3, fault):
    url = f"s3://{BUCKET}/storage/{fault.replace(' ', '-')}.parquet"
    metadata = dict(zip(METADATA_KEYS, ("1", "s3://clips", "files"), strict=True))
    rows = [{"video_id": str(row), "path": f"{row}.mp4"} for row in range(100)]
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata))
    s3.plan = lambda method, path, nth: fault if nth < 1 else None
    write_manifest(table, url, rows_per_group=10)
    s3.reset(s3.plan)
    manifest = read_manifest(url)
    assert manifest.rows(20, 45)["path"].to_pylist() == [f"{row}.mp4" for row in range(20, 45)]
    assert s3.faults[fault] > 0


def test_bytes_are_written_whole_and_at_any_url(s3, tmp_path):
    for url in (f"s3://{BUCKET}/storage/bytes", str(tmp_path / "new" / "bytes")):
        for data in (b"first", b"2nd", b""):
            write_bytes(url, data)
            assert read_bytes(url) == data


def test_a_local_file_is_replaced_whole_while_it_is_read(tmp_path):
    path = tmp_path / "file"
    write_bytes(str(path), b"first")
    path.chmod(0o640)
    (tmp_path / "link").symlink_to(path)
    with path.open("rb") as reader:
        write_bytes(str(tmp_path / "link"), b"another")
        assert reader.read() == b"first"
    assert path.read_bytes() == b"another"
    assert path.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "link").is_symlink()
    assert {file.name for file in tmp_path.iterdir()} == {"file", "link"}


def test_a_local_file_stays_as_it_is_where_no_other_can_be_written(tmp_path):
    path = tmp_path / "file"
    write_bytes(str(path), b"first")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As on a disk that is full: the first bytes still go.
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_bytes(str(path), bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_bytes() == b"first"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    write_bytes(os.devnull, b"gone")
    assert not Path(os.devnull).is_file()
    with pytest.raises(IsADirectoryError):
        write_bytes(str(tmp_path), b"data")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (FileNotFoundError(), False),
        (PermissionError(), False),
        (OSError(errno.ENOSPC, "full"), False),
        (OSError(errno.EINVAL, "no such name"), False),
        (ValueError("a bug"), False),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (OSError(errno.EBUSY, "slow down"), True),
        (OSError("of a driver, without a number"), True),
        (RuntimeError("of a driver that isn't known here"), True),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_may_pass_is_tried_again_and_nothing_else(error, transient):
    assert is_transient(error) == transient


SECRET = "4b1dc0ffee"
SIGNED = (
    f"https://bucket.example/a.mp4?X-Amz-Algorithm=AWS4&X-Amz-Signature={SECRET}",
    f"https://account.example/a.mp4?sv=2024&sig={SECRET}",
    f"https://bucket.example/a.mp4?GoogleAccessId=me&Signature={SECRET}",
    f"https://host.example/a.mp4?token={SECRET}&part=1",
    f"https://user:{SECRET}@host.example/a.mp4",
)
UNSIGNED = (
    "s3://bucket/a.mp4",
    "bucket/key=3/a b?c=1.mp4",
    "s3://bucket/user@host/a.mp4",
    "/home/me@work/a.mp4",
)


@pytest.mark.parametrize("url", SIGNED)
def test_credentials_in_urls_are_found_and_blotted_out(url):
    assert holds_credentials(url)
    told = without_credentials(f"can't read {url}: refused")
    assert SECRET not in told
    assert told.startswith("can't read https://")


@pytest.mark.parametrize("url", UNSIGNED)
def test_other_urls_and_paths_are_left_alone(url):
    assert not holds_credentials(url)
    assert without_credentials(f"can't read {url}: refused") == f"can't read {url}: refused"


@pytest.mark.parametrize("key", ["root", "path"])
def test_a_manifest_that_holds_credentials_is_refused_and_they_are_not_told(tmp_path, key):
    signed = f"clip.mp4?X-Amz-Signature={SECRET}"
    root = f"https://me:{SECRET}@host.example" if key == "root" else "https://host.example"
    metadata = dict(zip(METADATA_KEYS, ("1", root, "files"), strict=True))
    path = signed if key == "path" else "clip.mp4"
    table = pa.Table.from_pylist(
        [{"video_id": "a", "path": path}], schema=SCHEMA.with_metadata(metadata)
    )
    url = str(tmp_path / "manifest.parquet")
    write_manifest(table, url)
    with pytest.raises(ManifestError, match="credentials or a signature") as caught:
        read_manifest(url)
    assert SECRET not in str(caught.value)
