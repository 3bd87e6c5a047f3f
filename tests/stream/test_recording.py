"""Windows are kept by a thread that nobody waits for."""

import errno
import io
import os
import threading
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from analysis import open_run
from pipeline.dataset.manifest import read_manifest
from pipeline.errors import LeaseLostError, StorageError
from pipeline.status import Status
from pipeline.stream.recording import MAX_SHARDS_WAITING, Recording, Terms, write_clip
from pipeline.stream.sessions import new_session, urls_of
from tests.stream.made import ROWS_PER_SHARD, SOURCES, rows_of, session, window
from tests.support.processes import until

TERMS = Terms(rows_per_shard=ROWS_PER_SHARD, flush_s=600.0)


def begun_in(out):
    return session(Path(new_session(str(out))))


def recording(out, terms=TERMS, events=None, begin=None, **options):
    return Recording(
        str(out),
        begin or partial(begun_in, out),
        {source.name: source.shown for source in SOURCES},
        terms,
        lambda stream, kind, values: None if events is None else events.append((kind, values)),
        **options,
    )


def taken_away(url):
    """Have a session that has written nothing yet find a file where its folder is to be."""
    file = Path(url)
    file.touch()
    return file


def statuses(url):
    return open_run(url)["status"].values.tolist()


def test_full_shards_are_written_at_once_and_the_rest_at_the_end(tmp_path):
    keeps = recording(tmp_path)
    keeps.start()
    for each, columns in rows_of([window(n) for n in range(6)]):
        keeps.record(each, columns)
    until(lambda: keeps.n_written == 4)
    assert statuses(keeps.sessions[0]) == [Status.OK] * 4
    keeps.close()
    assert statuses(keeps.sessions[0]) == [Status.OK] * 6 + [Status.UNUSED] * 2
    table = read_manifest(f"{keeps.sessions[0]}/manifest.parquet").whole_table().to_pydict()
    assert table["window"] == [0, 1, 2, 3, 4, 5, None, None]
    assert set(table["source"][:6]) == {"rtsp://***@cam/1"}
    # Not a word of it anywhere.
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"hunter2" not in path.read_bytes()


def test_what_waits_too_long_is_flushed(tmp_path):
    keeps = recording(tmp_path, replace(TERMS, flush_s=0.05))
    keeps.start()
    for number in (0, 1):
        for each, columns in rows_of([window(number)]):
            keeps.record(each, columns)
        until(lambda done=number + 1: keeps.n_written == done)
    ok, unused = Status.OK, Status.UNUSED
    assert statuses(keeps.sessions[0]) == [ok, *[unused] * 3] * 2
    keeps.close()


def test_sessions_follow_each_other_and_old_ones_go(tmp_path):
    events = []
    terms = replace(TERMS, session_s=0.0, keep_bytes=1)
    keeps = recording(tmp_path, terms, events)
    keeps.start()
    for done, first in enumerate((0, 4, 8), start=1):
        for each, columns in rows_of([window(first + n) for n in range(4)]):
            keeps.record(each, columns)
        until(lambda done=done: keeps.n_written == 4 * done)
    keeps.close()
    assert len(keeps.sessions) == 4
    assert urls_of(str(tmp_path)) == keeps.sessions[-1:]
    assert statuses(keeps.sessions[-1]) == [Status.OK] * 4
    assert [values["session"] for kind, values in events if kind == "deleted"] == (
        keeps.sessions[:-1]
    )


def test_a_storage_that_is_away_costs_no_more_than_what_fits(tmp_path):
    events = []
    keeps = recording(tmp_path, events=events)
    keeps.start()
    away = taken_away(keeps.sessions[0])
    bound = MAX_SHARDS_WAITING * ROWS_PER_SHARD
    for each, columns in rows_of([window(n) for n in range(bound + 5)]):
        keeps.record(each, columns)
    assert keeps.n_lost == 5
    until(lambda: any(kind == "storage" for kind, _ in events))
    away.unlink()
    until(lambda: keeps.n_written == bound)
    keeps.close()
    assert statuses(keeps.sessions[0]) == [Status.OK] * bound


def test_of_a_full_disk_it_is_told_which_folder_it_holds(tmp_path):
    def begin():
        if keeps.sessions:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return begun_in(tmp_path)

    keeps = recording(tmp_path, replace(TERMS, session_s=0.0), begin=begin)
    keeps.start()
    (row,) = rows_of([window(0)])
    keeps.record(*row)
    with pytest.raises(StorageError, match=f"^can't write to {tmp_path}: No space left on device$"):
        keeps.close()


def test_what_a_storage_says_is_told_without_credentials(tmp_path):
    events = []

    def begin():
        if keeps.sessions:
            raise StorageError("https://eve:hunter2@store is away")
        return begun_in(tmp_path)

    # Of sessions without length each shard begins one.
    keeps = recording(tmp_path, replace(TERMS, session_s=0.0), events, begin)
    keeps.start()
    (row,) = rows_of([window(0)])
    keeps.record(*row)
    with pytest.raises(StorageError, match=r"^https://\*\*\*@store is away$"):
        keeps.close()
    assert any(kind == "storage" for kind, _ in events)
    assert "hunter2" not in str(events)


def test_where_it_is_asked_for_windows_wait_for_the_storage(tmp_path):
    keeps = recording(tmp_path, replace(TERMS, waits=True))
    keeps.start()
    away = taken_away(keeps.sessions[0])
    # As soon as it is told that the storage is away, it is back.
    keeps.event = lambda stream, kind, values: away.unlink() if kind == "storage" else None
    n_windows = (MAX_SHARDS_WAITING + 3) * ROWS_PER_SHARD
    for each, columns in rows_of([window(n) for n in range(n_windows)]):
        keeps.record(each, columns)
    keeps.close()
    assert keeps.n_lost == 0
    assert statuses(keeps.sessions[0]) == [Status.OK] * n_windows


def test_what_can_not_be_written_at_the_end_is_an_error(tmp_path):
    keeps = recording(tmp_path)
    keeps.start()
    taken_away(keeps.sessions[0])
    (row,) = rows_of([window(0)])
    keeps.record(*row)
    with pytest.raises(StorageError, match="File exists"):
        keeps.close()


class Taken:
    """A lease that somebody else has taken over."""

    def check(self):
        raise LeaseLostError("the folder is somebody else's")


@pytest.mark.parametrize("waits", [False, True])
def test_a_folder_that_is_taken_over_is_left_alone_and_ends_what_feeds_it(tmp_path, waits):
    keeps = recording(tmp_path, replace(TERMS, waits=waits))
    ended = threading.Event()
    keeps.gave_up = ended.set
    keeps.start()
    keeps.lease = Taken()
    before = sorted(tmp_path.rglob("*"))
    for each, columns in rows_of([window(n) for n in range(3 * ROWS_PER_SHARD)]):
        keeps.record(each, columns)
    assert ended.wait(20)
    with pytest.raises(StorageError, match="somebody else's"):
        keeps.close()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_taken_over_loses_no_session(tmp_path):
    # Also where no window comes any more.
    keeps = recording(tmp_path, replace(TERMS, keep_s=0.0), retain_s=0.0)
    ended = threading.Event()
    keeps.gave_up = ended.set
    keeps.start()
    keeps.lease = Taken()
    assert ended.wait(20)
    with pytest.raises(StorageError, match="somebody else's"):
        keeps.close()
    old = Path(new_session(str(tmp_path), datetime(2026, 5, 4, tzinfo=UTC)))
    old.mkdir()
    late = recording(tmp_path, replace(TERMS, keep_s=0.0))
    late.lease = Taken()
    with pytest.raises(LeaseLostError):
        late.start()
    assert old.exists()


def test_windows_are_kept_though_old_sessions_can_not_be_deleted(tmp_path, caplog):
    (tmp_path / "file").touch()
    # Of a folder below a file nothing can be listed.
    out = tmp_path / "file" / "sessions"
    terms = replace(TERMS, keep_s=1.0)
    keeps = recording(out, terms, begin=partial(begun_in, tmp_path), retain_s=0.0)
    keeps.start()
    for each, columns in rows_of([window(n) for n in range(ROWS_PER_SHARD)]):
        keeps.record(each, columns)
    until(lambda: keeps.n_written == ROWS_PER_SHARD)
    tried = len(caplog.records)
    assert until(lambda: len(caplog.records) > tried)
    keeps.close()
    assert statuses(keeps.sessions[0]) == [Status.OK] * ROWS_PER_SHARD
    told = {record.getMessage() for record in caplog.records}
    assert all(line.startswith("old sessions can't be deleted: ") for line in told)


def test_frames_of_windows_that_wait_are_not_held_unless_they_are_kept(tmp_path):
    keeps = recording(tmp_path)
    (row,) = rows_of([window(0)])
    keeps.record(*row)
    assert [each.cut.frames for each, _ in keeps._waiting] == [()]
    keeps = recording(tmp_path / "clips", replace(TERMS, clips=True))
    keeps.record(*row)
    assert [len(each.cut.frames) for each, _ in keeps._waiting] == [len(row[0].cut.frames)]


def test_clips_are_kept_where_asked_for(tmp_path):
    keeps = recording(tmp_path, replace(TERMS, clips=True))
    keeps.start()
    for each, columns in rows_of([window(0), window(1, stream="door")]):
        keeps.record(each, columns)
    keeps.close()
    table = read_manifest(f"{keeps.sessions[0]}/manifest.parquet").whole_table().to_pydict()
    assert table["clip"][:2] == ["clips/cam/00000000.mp4", "clips/door/00000001.mp4"]
    for clip in table["clip"][:2]:
        with av.open(f"{keeps.sessions[0]}/{clip}") as container:
            assert sum(1 for _ in container.decode(video=0)) == 4


def test_a_recorded_clip_looks_like_the_window(tmp_path):
    smooth = np.tile(np.linspace(0, 255, 16, dtype=np.uint8)[:, None, None], (1, 16, 3))
    each = window(0)
    cut = replace(each.cut, frames=tuple(np.roll(smooth, 2 * n, axis=0) for n in range(4)))
    write_clip(str(tmp_path / "a/b.mp4"), replace(each, cut=cut))
    with av.open(io.BytesIO((tmp_path / "a/b.mp4").read_bytes())) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for got, given in zip(frames, cut.frames, strict=True):
        assert np.abs(got.astype(int) - given).mean() < 8
