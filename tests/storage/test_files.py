"""Whole files, read and written at any URL: replaced at once or left as they are."""

import io
import os
import resource
import signal
from pathlib import Path

import fsspec
import pytest

from pipeline.storage.files import (
    RetryingReader,
    open_filesystem,
    read_bytes,
    write_bytes,
    written_in_parts,
)
from pipeline.storage.retries import PATIENCE_VARIABLE
from pipeline.storage.zarr_store import zarr_location
from tests.support.object_storage import BUCKET


def test_bytes_are_written_whole_and_at_any_url(s3, tmp_path):
    for url in (f"s3://{BUCKET}/storage/bytes", str(tmp_path / "new" / "bytes")):
        for data in (b"first", b"2nd", b""):
            write_bytes(url, data)
            assert read_bytes(url) == data


def test_parts_that_are_written_are_a_whole_or_nothing(s3, tmp_path):
    for url in (f"s3://{BUCKET}/storage/parts", str(tmp_path / "new" / "parts")):
        with written_in_parts(url) as file:
            file.write(b"first, ")
            file.write(b"second")
        assert read_bytes(url) == b"first, second"
        # It breaks off between two parts, so that the block has more than one statement.
        with pytest.raises(ZeroDivisionError), written_in_parts(url) as file:  # noqa: PT012
            file.write(b"half")
            file.write(bytes(1 // 0))
        assert read_bytes(url) == b"first, second"
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["parts"]


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


def test_a_driver_that_is_not_installed_names_the_extra(monkeypatch):
    def absent(url):
        raise ImportError("no module named gcsfs")

    monkeypatch.setattr("fsspec.core.url_to_fs", absent)
    with pytest.raises(ImportError, match=r"no driver for gs:// .* extra 'gcs'.*'\.\[gcs\]'"):
        open_filesystem("gs://bucket/a")
    with pytest.raises(ImportError, match=r"^no module named gcsfs$"):
        open_filesystem("smb://host/a")


@pytest.mark.parametrize("protocol", ["http", "https"])
def test_a_web_server_may_take_any_time_as_long_as_it_sends(monkeypatch, protocol):
    def timeout():
        return open_filesystem(f"{protocol}://127.0.0.1/clips")[0].client_kwargs["timeout"]

    monkeypatch.setenv(PATIENCE_VARIABLE, "40")
    assert (timeout().total, timeout().sock_connect, timeout().sock_read) == (None, 40, 40)
    store = zarr_location(f"{protocol}://127.0.0.1/run")
    assert store._store.fs.client_kwargs["timeout"] == timeout()


@pytest.mark.parametrize("protocol", ["http", "https"])
@pytest.mark.parametrize("configured_for", ["http", "https"])
def test_a_web_client_that_a_user_has_configured_stays_as_it_is(
    monkeypatch, protocol, configured_for
):
    def client():
        return open_filesystem(f"{protocol}://127.0.0.1/clips")[0].client_kwargs

    configured = {"client_kwargs": {"trust_env": True}}
    monkeypatch.setitem(fsspec.config.conf, configured_for, configured)
    assert client()["trust_env"]
    assert client()["timeout"].total is None
    configured["client_kwargs"]["timeout"] = "a user's"
    assert client() == {"trust_env": True, "timeout": "a user's"}


def test_a_protocol_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="gopher"):
        open_filesystem("gopher://host/a")


def test_parts_of_a_file_are_read_as_a_whole_file_is(tmp_path):
    data = bytes(range(256)) * 4
    (tmp_path / "file").write_bytes(data)
    filesystem, path = open_filesystem(str(tmp_path / "file"))
    with RetryingReader(filesystem, path) as reader:
        assert reader.readable()
        assert reader.seekable()
        assert reader.read(10) == data[:10]
        assert reader.seek(-6, os.SEEK_END) == len(data) - 6
        assert (reader.read(), reader.tell()) == (data[-6:], len(data))
        reader.seek(500)
        assert reader.read(3) == data[500:503]
    assert reader.closed
    reader.close()


class Flaky(io.BytesIO):
    """A file whose reading breaks off once, having gone on by some bytes."""

    broken = False

    def read(self, size=-1):
        data = super().read(size)
        if not self.broken:
            self.broken = True
            raise ConnectionResetError
        return data


def test_a_part_that_is_read_again_is_read_from_where_it_began(monkeypatch):
    class Filesystem:
        def open(self, path, mode):
            return Flaky(b"0123456789")

    reader = RetryingReader(Filesystem(), "s3://bucket/a")
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    reader.seek(2)
    assert reader.read(3) == b"234"
    assert reader.read(2) == b"56"
