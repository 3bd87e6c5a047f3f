"""Clips over HTTP: the answer decides whether it is the clip's fault or the server's."""

import threading
import time

import pytest

from pipeline.clips.fetch import fetch_clip, file_key
from pipeline.clips.reachable import find_witness
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.errors import ManifestError, StorageError
from pipeline.status import DecodeError, Status
from pipeline.storage.files import read_bytes
from pipeline.storage.retries import PATIENCE_VARIABLE
from tests.support.http_server import CUT, RESET, UNTOLD, served
from tests.support.ports import free_port

CONTENT = bytes(range(256)) * 40
NAMES = ("clip.mp4", "a b/ü ['1'] #?.mp4", "a?key=5.mp4", "x=1&y+2.mp4", "empty.mp4")
PASSING = (408, 429, 500, 501, 502, 503, 504, RESET, CUT)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv(PATIENCE_VARIABLE, "30")
    content = {f"clips/{name}": CONTENT for name in NAMES} | {"clips/empty.mp4": b""}
    with served(content) as server:
        yield server


def root_of(server):
    return f"{server.url}/clips"


@pytest.mark.parametrize("max_bytes", [None, len(CONTENT)])
@pytest.mark.parametrize("name", NAMES)
def test_a_clip_comes_whole_by_one_request(server, name, max_bytes):
    fetched = fetch_clip(root_of(server), name, max_bytes=max_bytes)
    assert fetched == server.content[f"clips/{name}"]
    assert server.requests == {("GET", f"clips/{name}"): 1}


@pytest.mark.parametrize("answer", [None, UNTOLD])
def test_a_clip_that_is_too_large_is_not_read_on(server, answer):
    server.answer = lambda path, nth: answer
    size = len(CONTENT)
    assert fetch_clip(root_of(server), "clip.mp4", max_bytes=size) == CONTENT
    told = f"{size} bytes, more" if answer is None else "more"
    with pytest.raises(DecodeError) as caught:
        fetch_clip(root_of(server), "clip.mp4", max_bytes=size - 1)
    assert caught.value.status is Status.CRASHED
    assert caught.value.message == f"the file has {told} than decode_memory, {size - 1} bytes"
    assert server.requests.total() == 2


@pytest.mark.parametrize("max_bytes", [None, len(CONTENT)])
@pytest.mark.parametrize("answer", PASSING)
def test_a_fault_that_passes_leaves_no_trace(server, answer, max_bytes):
    server.answer = lambda path, nth: answer if nth < 2 else None
    assert fetch_clip(root_of(server), "clip.mp4", max_bytes=max_bytes) == CONTENT
    assert server.requests.total() == 3


@pytest.mark.parametrize("max_bytes", [None, len(CONTENT)])
@pytest.mark.parametrize("answer", PASSING)
def test_a_fault_that_stays_fails_no_clip(server, answer, max_bytes, monkeypatch):
    monkeypatch.setenv(PATIENCE_VARIABLE, "0.3")
    server.answer = lambda path, nth: answer
    with pytest.raises(StorageError, match=r"clip\.mp4: "):
        fetch_clip(root_of(server), "clip.mp4", max_bytes=max_bytes)


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/clips", "http://nowhere.invalid/clips"])
def test_a_server_that_is_not_there_fails_no_clip(url, monkeypatch):
    monkeypatch.setenv(PATIENCE_VARIABLE, "0.3")
    with pytest.raises(StorageError):
        fetch_clip(url.format(port=free_port()), "clip.mp4")


@pytest.mark.parametrize("max_bytes", [None, len(CONTENT)])
def test_a_server_that_says_nothing_is_not_waited_for_longer(server, max_bytes, monkeypatch):
    monkeypatch.setenv(PATIENCE_VARIABLE, "0.3")
    tested = threading.Event()
    server.answer = lambda path, nth: 503 if tested.wait(100) else None
    started_s = time.monotonic()
    with pytest.raises(StorageError, match=r"clip\.mp4: Timeout on reading data"):
        fetch_clip(root_of(server), "clip.mp4", max_bytes=max_bytes)
    tested.set()
    # HTTP's client has five minutes of its own.
    assert time.monotonic() - started_s < 60


@pytest.mark.parametrize("answer", [401, 407])
def test_credentials_that_are_asked_for_fail_no_clip(server, answer):
    server.answer = lambda path, nth: answer
    with pytest.raises(StorageError, match=str(answer)):
        fetch_clip(root_of(server), "clip.mp4")
    assert server.requests.total() == 1


OF_THE_CLIP = {
    404: (Status.MISSING, "no object at "),
    410: (Status.MISSING, "no object at "),
    403: (Status.UNREADABLE, "no permission to read "),
    400: (Status.UNREADABLE, "the server answers 400"),
    451: (Status.UNREADABLE, "the server answers 451"),
}


@pytest.mark.parametrize("answer", OF_THE_CLIP)
@pytest.mark.parametrize("known", ["read before", "by the plan"])
def test_what_is_said_of_one_clip_while_others_are_served_is_its_failure(server, answer, known):
    status, message = OF_THE_CLIP[answer]
    server.answer = lambda path, nth: answer if path.endswith("clip.mp4") else None
    witness = "empty.mp4" if known == "by the plan" else None
    last_read = {}
    if witness is None:
        fetch_clip(root_of(server), "x=1&y+2.mp4", last_read=last_read)
    told = set()
    for _ in range(2):
        with pytest.raises(DecodeError) as caught:
            fetch_clip(root_of(server), "clip.mp4", witness, last_read=last_read)
        assert caught.value.status is status
        told.add(caught.value.message)
    assert len(told) == 1
    assert message in told.pop()
    assert server.requests["GET", "clips/clip.mp4"] == 2


@pytest.mark.parametrize("answer", OF_THE_CLIP)
def test_what_is_said_of_all_clips_once_some_were_served_is_the_storages_fault(server, answer):
    last_read = {}
    fetch_clip(root_of(server), "x=1&y+2.mp4", last_read=last_read)
    server.answer = lambda path, nth: answer
    with pytest.raises(StorageError, match="which was read before"):
        fetch_clip(root_of(server), "clip.mp4", "empty.mp4", last_read=last_read)


def manifest_of(server, tmp_path, names):
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"{name}\tx\n" for name in names))
    (tmp_path / "clips").mkdir()
    table = build_manifest(layout="list", clips=str(tmp_path / "clips"), annotations=str(listing))
    table = table.replace_schema_metadata(
        dict(table.schema.metadata) | {b"staa.root": root_of(server).encode()}
    )
    write_manifest(table, str(tmp_path / "clips.parquet"))
    return read_manifest(str(tmp_path / "clips.parquet"))


def test_one_clip_of_the_sample_that_is_served_is_enough(server, tmp_path):
    manifest = manifest_of(server, tmp_path, [f"absent{row}.mp4" for row in range(9)] + [NAMES[0]])
    assert find_witness(manifest) == NAMES[0]
    server.answer = lambda path, nth: None if path.endswith(NAMES[0]) else 403
    assert find_witness(manifest) == NAMES[0]


def test_absent_clips_alone_are_no_fault_of_the_server(server, tmp_path):
    manifest = manifest_of(server, tmp_path, ["absent1.mp4", "absent2.mp4"])
    assert find_witness(manifest) is None
    with pytest.raises(DecodeError) as caught:
        fetch_clip(manifest.root, "absent1.mp4", None)
    assert caught.value.status is Status.MISSING


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        (401, ManifestError, "no access to .*401"),
        (403, ManifestError, "none of 2 clips below .* can be read; .*Permission denied"),
        (503, StorageError, "503"),
        (RESET, StorageError, "disconnected|reset"),
    ],
)
def test_a_whole_sample_that_is_refused_ends_a_run_before_it_starts(
    server, tmp_path, monkeypatch, answer, error, told
):
    manifest = manifest_of(server, tmp_path, NAMES[:2])
    monkeypatch.setenv(PATIENCE_VARIABLE, "0.3")
    server.answer = lambda path, nth: answer
    with pytest.raises(error, match=f"(?i){told}"):
        find_witness(manifest)


@pytest.mark.parametrize("answer", [503, RESET])
def test_a_manifest_over_http_is_read_through_faults(server, tmp_path, answer):
    manifest_of(server, tmp_path, NAMES[:2])
    server.content["m.parquet"] = (tmp_path / "clips.parquet").read_bytes()
    server.answer = lambda path, nth: answer if nth < 1 else None
    assert read_manifest(f"{server.url}/m.parquet").n_rows == 2
    assert read_bytes(f"{server.url}/m.parquet") == server.content["m.parquet"]


def test_a_root_that_is_not_there_is_named_before_anything_starts(server, tmp_path):
    manifest_of(server, tmp_path, NAMES[:2])

    def with_root(root):
        from pyarrow import parquet

        table = parquet.read_table(tmp_path / "clips.parquet")
        table = table.replace_schema_metadata(
            dict(table.schema.metadata) | {b"staa.root": root.encode()}
        )
        write_manifest(table, str(tmp_path / "other.parquet"))
        return read_manifest(str(tmp_path / "other.parquet"))

    (tmp_path / "unmounted").mkdir()
    for root, told in {
        f"file://{tmp_path}/absent": "isn't there, or is empty",
        f"file://{tmp_path}/unmounted": "isn't there, or is empty",
        "bogus://bucket/clips": "no access to bogus://bucket/clips: Protocol not known",
    }.items():
        with pytest.raises(ManifestError, match=told):
            find_witness(with_root(root))
    # A folder that holds other things may well have lost these clips.
    assert find_witness(with_root(f"file://{tmp_path}")) is None


def test_clips_of_a_disk_that_is_unmounted_meanwhile_are_not_missing(tmp_path):
    clips, away = tmp_path / "clips", tmp_path / "away"
    clips.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (clips / name).write_bytes(CONTENT)
    root = f"file://{clips}"
    last_read = {}
    assert fetch_clip(root, "a.mp4", last_read=last_read) == CONTENT
    clips.rename(away)
    with pytest.raises(StorageError, match="which was read before"):
        fetch_clip(root, "b.mp4", last_read=last_read)
    clips.mkdir()
    with pytest.raises(StorageError, match="which was read before"):
        fetch_clip(root, "b.mp4", last_read=last_read)
    clips.rmdir()
    away.rename(clips)
    (clips / "b.mp4").unlink()
    with pytest.raises(DecodeError) as caught:
        fetch_clip(root, "b.mp4", last_read=last_read)
    assert caught.value.status is Status.MISSING


def test_a_clip_is_known_by_its_etag_and_without_one_not_at_all(server):
    assert file_key(root_of(server), "clip.mp4") is None
    keys = []
    for tag in ('"one"', '"two"', '"one"'):
        server.etags["clips/clip.mp4"] = tag
        keys.append(file_key(root_of(server), "clip.mp4"))
    assert keys[0] == keys[2] != keys[1]
    server.content["clips/clip.mp4"] += b"more"
    assert file_key(root_of(server), "clip.mp4") not in keys
    assert file_key(root_of(server), "absent.mp4") is None
