"""Bytes of a clip from a real S3 server: tried again, a status, or the end of the pass."""

import errno
import os
import traceback
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem

from pipeline.clips.fetch import check_same_file, digest_of, fetch_clip, file_key
from pipeline.clips.reachable import find_witness
from pipeline.dataset.manifest import METADATA_KEYS, SCHEMA, read_manifest, write_manifest
from pipeline.errors import ManifestError, StorageError
from pipeline.status import DecodeError, Status
from pipeline.storage.retries import PATIENCE_VARIABLE
from tests.support.object_storage import (
    BUCKET,
    CANARIES,
    FAULTS,
    OWNER,
    READER,
    STRANGER,
    Identity,
    all_refused,
    environment,
    filesystem_at,
)

ROOT = f"s3://{BUCKET}/fetch"
CONTENT = bytes(range(256)) * 40
NAMES = ("clip.mp4", "a b/ü ['1'] #?%20.mp4", "x=1&y+2.mp4")


@pytest.fixture(scope="module")
def stored(s3_server):
    filesystem = filesystem_at(s3_server)
    for name in NAMES:
        filesystem.pipe_file(f"{BUCKET}/fetch/{name}", CONTENT)
    filesystem.pipe_file(f"{BUCKET}/fetch/empty.mp4", b"")


@pytest.fixture
def s3(stored, proxy, monkeypatch):
    monkeypatch.setenv(PATIENCE_VARIABLE, "30")
    with environment(monkeypatch, OWNER.environment(proxy.endpoint)):
        yield proxy


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_comes_whole_by_two_requests(s3, name):
    assert fetch_clip(ROOT, name) == CONTENT
    assert sorted(method for method, _ in s3.requests.elements()) == ["GET", "HEAD"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_leaves_no_trace(s3, fault):
    s3.plan = lambda method, path, nth: fault if nth < 2 else None
    assert fetch_clip(ROOT, "clip.mp4") == CONTENT
    assert s3.faults[fault] >= 2


def test_what_is_no_clip_has_a_status_at_once_and_the_same_message_each_time(s3):
    expected = {
        "absent.mp4": Status.MISSING,
        "a b": Status.UNREADABLE,
    }
    for path, status in expected.items():
        messages = set()
        for _ in range(2):
            s3.reset()
            with pytest.raises(DecodeError) as caught:
                fetch_clip(ROOT, path)
            assert caught.value.status is status, path
            messages.add(caught.value.message)
            assert max(s3.requests.values()) == 1, path
        assert len(messages) == 1
    assert fetch_clip(ROOT, "empty.mp4") == b""


def test_a_clip_that_may_not_be_read_is_unreadable(s3, s3_server, monkeypatch):
    filesystem = filesystem_at(s3_server)
    filesystem.mkdir("sealed")
    filesystem.pipe_file("sealed/clip.mp4", CONTENT)
    with environment(monkeypatch, READER.environment(s3.endpoint)):
        assert fetch_clip(ROOT, "clip.mp4") == CONTENT
        with pytest.raises(DecodeError) as caught:
            fetch_clip("s3://sealed", "clip.mp4")
    assert caught.value.status is Status.UNREADABLE
    assert caught.value.message == "no permission to read sealed/clip.mp4"


def test_a_storage_that_is_away_fails_no_clip(s3, monkeypatch, caplog):
    # Longer than the driver itself tries, which is longer beside a busy Ray.
    monkeypatch.setenv(PATIENCE_VARIABLE, "5")
    s3.plan = all_refused
    with pytest.raises(StorageError, match=r"fetch/clip\.mp4: "):
        fetch_clip(ROOT, "clip.mp4")
    assert s3.faults.total() > 1
    assert "trying again" in caplog.text


def test_a_storage_that_keeps_giving_less_than_it_has_fails_no_clip(s3, monkeypatch):
    monkeypatch.setenv(PATIENCE_VARIABLE, "0.2")
    s3.plan = lambda method, path, nth: "cut declared anew" if method == "GET" else None
    with pytest.raises(StorageError, match=f"{len(CONTENT) // 2} of {len(CONTENT)} bytes came"):
        fetch_clip(ROOT, "clip.mp4")


@pytest.mark.parametrize("known", [False, True])
def test_credentials_that_are_refused_fail_no_clip_and_are_not_told(s3, monkeypatch, known):
    user = Identity(OWNER.access_key if known else STRANGER.access_key, STRANGER.secret_key)
    with (
        environment(monkeypatch, user.environment(s3.endpoint)),
        pytest.raises(StorageError) as caught,
    ):
        fetch_clip(ROOT, "clip.mp4")
    told = "".join(traceback.format_exception(caught.value))
    assert not [key for key in CANARIES if key in told]
    # Not tried again, as a key doesn't become right.
    assert s3.requests.total() == 2


def test_no_credentials_at_all_fail_no_clip(s3, monkeypatch):
    monkeypatch.setenv("HOME", "/nonexistent")
    variables = OWNER.environment(s3.endpoint)
    with (
        environment(monkeypatch, {k: v for k, v in variables.items() if "KEY" not in k}),
        pytest.raises(StorageError, match="Unable to locate credentials"),
    ):
        fetch_clip(ROOT, "clip.mp4")
    assert s3.requests.total() == 0


def test_local_failures_are_as_those_of_any_storage(tmp_path, monkeypatch):
    monkeypatch.setenv(PATIENCE_VARIABLE, "0.1")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DecodeError) as caught:
        fetch_clip(str(tmp_path), "pipe")
    assert caught.value.status is Status.UNREADABLE

    def fail_with(error):
        def cat_file(self, path, **kwargs):
            raise error

        monkeypatch.setattr(type(fsspec.filesystem("file")), "cat_file", cat_file)

    (tmp_path / "clip.mp4").write_bytes(CONTENT)
    fail_with(PermissionError(errno.EACCES, "denied"))
    with pytest.raises(DecodeError, match="permission") as caught:
        fetch_clip(str(tmp_path), "clip.mp4")
    assert caught.value.status is Status.UNREADABLE
    fail_with(OSError(errno.ESTALE, "Stale file handle"))
    with pytest.raises(StorageError, match="Stale file handle"):
        fetch_clip(str(tmp_path), "clip.mp4")


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_a_clip_that_is_too_large_is_not_read(where, request, tmp_path):
    root, max_bytes = str(tmp_path), 4_000_000_000
    if where == "disk":
        with (tmp_path / "clip.mp4").open("wb") as file:
            file.truncate(1 << 43)
        told = "8796093022208 bytes"
    else:
        s3 = request.getfixturevalue("s3")
        root, max_bytes, told = ROOT, len(CONTENT) - 1, f"{len(CONTENT)} bytes"
        assert fetch_clip(root, "clip.mp4", max_bytes=len(CONTENT)) == CONTENT
        s3.reset()
    with pytest.raises(DecodeError) as caught:
        fetch_clip(root, "clip.mp4", max_bytes=max_bytes)
    assert caught.value.status is Status.CRASHED
    assert caught.value.message == (
        f"the file has {told}, more than decode_memory, {max_bytes} bytes"
    )
    if where == "s3":
        assert {method for method, _ in s3.requests} == {"HEAD"}


class Damaged(LocalFileSystem):
    """This machine's disk, which has lost what some file holds."""

    protocol = "damaged"
    number = errno.EIO
    is_of_inode = False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("damaged://"))

    def _check(self, path):
        if path.endswith("/bad.mp4"):
            raise OSError(self.number, os.strerror(self.number), path)

    def info(self, path, **kwargs):
        if self.is_of_inode:
            self._check(str(path))
        return super().info(path, **kwargs)

    def cat_file(self, path, *args, **kwargs):
        self._check(path)
        return super().cat_file(path, *args, **kwargs)


@pytest.fixture
def damaged(tmp_path, monkeypatch):
    """Root of a folder on such a disk, with nothing but a clip that is damaged in it."""
    monkeypatch.setenv(PATIENCE_VARIABLE, "0")
    fsspec.register_implementation("damaged", Damaged, clobber=True)
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "bad.mp4").write_bytes(CONTENT)
    return f"damaged://{folder}"


@pytest.mark.parametrize("is_of_inode", [False, True])
@pytest.mark.parametrize("name", ["EIO", "EUCLEAN", "EBADMSG", "EOVERFLOW"])
def test_a_clip_that_is_damaged_on_the_disk_is_unreadable(damaged, monkeypatch, name, is_of_inode):
    monkeypatch.setattr(Damaged, "number", getattr(errno, name))
    monkeypatch.setattr(Damaged, "is_of_inode", is_of_inode)
    folder = Path(damaged.removeprefix("damaged://"))
    (folder / "sub").mkdir()
    (folder / "sub" / "good.mp4").write_bytes(CONTENT)
    known = [{"witness": "sub/good.mp4"}, {"last_read": {damaged: "sub/good.mp4"}}]
    for others in known:
        with pytest.raises(DecodeError) as caught:
            fetch_clip(damaged, "bad.mp4", **others)
        assert caught.value.status is Status.UNREADABLE
        assert caught.value.message == f"can't read {folder}/bad.mp4: {os.strerror(Damaged.number)}"
    with pytest.raises(StorageError):
        fetch_clip(damaged, "bad.mp4")
    # A neighbour does as well.
    (folder / "good.mp4").write_bytes(CONTENT)
    with pytest.raises(DecodeError):
        fetch_clip(damaged, "bad.mp4")


def test_a_disk_of_which_nothing_can_be_read_fails_no_clip(damaged):
    folder = Path(damaged.removeprefix("damaged://"))
    # What can be opened, and isn't read: the kernel says EIO here, too.
    (folder / "gone.mp4").symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match="Input/output"):
        (folder / "gone.mp4").read_bytes()
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "folder.mp4").mkdir()
    (folder / "loop.mp4").symlink_to("loop.mp4")
    os.mkfifo(folder / "pipe.mp4")
    for witness in (None, "bad.mp4", "gone.mp4", "absent.mp4"):
        with pytest.raises(StorageError, match="Input/output"):
            fetch_clip(damaged, "bad.mp4", witness, last_read={damaged: "empty.mp4"})


def test_an_error_that_is_no_files_fails_no_clip(damaged, monkeypatch):
    monkeypatch.setattr(Damaged, "number", errno.ESTALE)
    (Path(damaged.removeprefix("damaged://")) / "good.mp4").write_bytes(CONTENT)
    with pytest.raises(StorageError, match="Stale"):
        fetch_clip(damaged, "bad.mp4", "good.mp4")


def test_a_clip_without_a_readable_inode_is_known_by_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv(PATIENCE_VARIABLE, "0")

    def damaged(self, **options):
        raise OSError(errno.EUCLEAN, os.strerror(errno.EUCLEAN))

    monkeypatch.setattr(Path, "stat", damaged)
    assert file_key(str(tmp_path), "clip.mp4") is None


def test_a_bucket_that_is_not_there_is_named_before_anything_starts(s3, tmp_path):
    def manifest(root):
        metadata = dict(zip(METADATA_KEYS, ("1", root, "files"), strict=True))
        table = pa.Table.from_pylist(
            [{"video_id": "a", "path": "absent.mp4"}], schema=SCHEMA.with_metadata(metadata)
        )
        write_manifest(table, str(tmp_path / "m.parquet"))
        return read_manifest(str(tmp_path / "m.parquet"))

    with pytest.raises(ManifestError, match="there is no bucket 'no-such-bucket'"):
        find_witness(manifest("s3://no-such-bucket/clips"))
    assert find_witness(manifest(ROOT)) is None


def test_an_object_is_known_by_its_path_and_what_it_holds(s3, s3_server):
    filesystem = filesystem_at(s3_server)
    keys = {}
    for content in (CONTENT, CONTENT[::-1]):
        for name in ("known.mp4", "also.mp4"):
            filesystem.pipe_file(f"{BUCKET}/fetch/{name}", content)
            keys[name, content] = file_key(ROOT, name)
            assert file_key(ROOT, name) == keys[name, content]
    assert len(set(keys.values())) == 4
    assert file_key(ROOT, "absent.mp4") is None
    assert file_key(ROOT, "a\0b.mp4") is None


def test_a_storage_that_is_away_is_not_taken_for_one_that_tells_nothing(s3, monkeypatch):
    monkeypatch.setenv(PATIENCE_VARIABLE, "0.5")
    s3.plan = all_refused
    with pytest.raises(StorageError):
        file_key(ROOT, "clip.mp4")


def test_a_file_that_was_read_before_is_known_by_its_digest():
    check_same_file(CONTENT, digest_of(CONTENT))
    check_same_file(CONTENT, None)
    check_same_file(CONTENT, bytes(16))
    with pytest.raises(ValueError, match="the file has changed since the run"):
        check_same_file(CONTENT + b"x", digest_of(CONTENT))
