"""A session is a run at every moment, and after every way of being cut off."""

import json

import numpy as np
import pytest

from analysis import open_run, run_summary
from pipeline.dataset.manifest import read_manifest
from pipeline.status import Status
from pipeline.store.opening import open_store
from pipeline.store.pending import read_status
from pipeline.store.run_folder import store_url
from pipeline.store.state import read_state
from pipeline.store.verify import check_store
from pipeline.stream import session as sessions
from pipeline.stream.session import Paths, Row, finish, finish_cut_off
from pipeline.stream.source import Source
from tests.stream.made import ROWS_PER_SHARD, rows_of, session, window


def rows(*numbers):
    return [
        Row(
            columns,
            {
                "video_id": str(columns["video_id"][0]),
                "path": "cam",
                "start_time": each.start_s,
                "end_time": each.end_s,
                "stream": each.stream,
                "window": each.number,
            },
        )
        for each, columns in rows_of([window(number) for number in numbers])
    ]


def test_it_is_a_run_while_it_grows(tmp_path):
    live = session(tmp_path / "s")
    for first in (0, 4, 8):
        live.commit(rows(*range(first, first + ROWS_PER_SHARD)))
        ds = open_run(live.url)
        assert ds.sizes["clip"] == first + ROWS_PER_SHARD
        assert (ds["status"].values == Status.OK).all()
        manifest = read_manifest(live.manifest_url)
        assert manifest.segments
        assert manifest.n_rows == first + ROWS_PER_SHARD
        assert open_store(store_url(live.url)).record.identity.manifest == manifest.digest
    for row, (each, columns) in enumerate(rows_of([window(n) for n in range(12)])):
        assert str(ds["video_id"].values[row]) == f"cam-{each.number:08d}"
        assert np.array_equal(ds["spatial"][row].values, columns["spatial"][0])
        assert np.array_equal(ds["frame_time"][row].values, each.frame_time_s)
    times = manifest.rows(0, 12).to_pydict()
    assert times["start_time"] == list(map(float, range(12)))
    live.close()
    check_store(open_store(store_url(live.url)))


def test_a_shard_that_is_not_full_is_filled_up_with_unused_rows(tmp_path):
    live = session(tmp_path / "s")
    live.commit(rows(0, 1, 2, 3))
    live.commit(rows(4))
    live.commit(rows(5, 6))
    status = read_status(open_store(store_url(live.url)))
    ok, unused = Status.OK, Status.UNUSED
    assert status.tolist() == [*[ok] * 5, *[unused] * 3, *[ok] * 2, *[unused] * 2]
    counts = run_summary(open_run(live.url))
    assert (counts["n_ok"], counts["n_unused"], counts["n_failed"]) == (7, 5, 0)
    state = read_state(live.url)
    assert state.summary.n_failed == 0
    assert state.summary.counts[unused] == 5
    live.close()
    check_store(open_store(store_url(live.url)))


class CutError(BaseException):
    """A process that is killed."""


STEPS = ("write_manifest", "append_rows", "write_shard")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_cut_off_anywhere_it_is_finished_and_nothing_is_torn(tmp_path, monkeypatch, step, after):
    live = session(tmp_path / "s")
    live.commit(rows(0, 1, 2, 3))
    before = open_run(live.url).load()
    real = getattr(sessions, step)

    def cut(*args, **kwargs):
        if after:
            real(*args, **kwargs)
        raise CutError

    monkeypatch.setattr(sessions, step, cut)
    with pytest.raises(CutError):
        live.commit(rows(4, 5, 6, 7))
    monkeypatch.undo()
    # Readers get along with it as it is.
    assert read_state(live.url).summary.counts[Status.OK] >= 4
    finish_cut_off([live.url, str(tmp_path / "nothing")])
    store = open_store(store_url(live.url))
    status = read_status(store)
    assert (status != Status.PENDING).all()
    assert np.isin(status[4:], [Status.OK, Status.UNUSED]).all()
    whole = step == "write_shard" and after
    assert (status == Status.OK).sum() == (8 if whole else 4)
    check_store(store)
    again = open_run(live.url).isel(clip=slice(4)).load()
    assert again.equals(before)
    assert finish(live.url) == 0


def test_cut_off_between_two_arrays_it_is_finished(tmp_path, monkeypatch):
    from pipeline.store import append

    live = session(tmp_path / "s")
    live.commit(rows(0, 1, 2, 3))

    def cut(store):
        array = store.array("spatial")
        array.resize((store.layout.n_rows, *array.shape[1:]))
        raise CutError

    monkeypatch.setattr(append, "finish_append", cut)
    with pytest.raises(CutError):
        live.commit(rows(4))
    monkeypatch.undo()
    assert finish_cut_off([live.url]) == [live.url]
    status = read_status(open_store(store_url(live.url)))
    assert status.tolist() == [Status.OK] * 4 + [Status.UNUSED] * 4


def test_a_commit_that_failed_is_done_again(tmp_path, monkeypatch):
    live = session(tmp_path / "s")
    live.commit(rows(0, 1, 2, 3))

    def refuse(*args, **kwargs):
        raise OSError("the disk is full")

    for step in STEPS:
        monkeypatch.setattr(sessions, step, refuse)
        with pytest.raises(OSError, match="full"):
            live.commit(rows(4, 5))
        monkeypatch.undo()
    live.commit(rows(4, 5))
    live.commit(rows(6, 7, 8, 9))
    ds = open_run(live.url)
    assert (ds["status"].values == Status.OK).sum() == 10
    assert read_manifest(live.manifest_url).n_rows == 12


def test_files_have_paths_below_one_root_and_other_streams_their_names(tmp_path):
    for name in ("a/one.mp4", "b/two.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    sources = [
        Source("x", str(tmp_path / "a/one.mp4")),
        Source("y", str(tmp_path / "b/two.mp4")),
        Source("cam", "rtsp://eve:hunter2@cam"),
    ]
    paths = Paths.of(sources, "session")
    assert paths.root == str(tmp_path)
    assert paths.of_stream == {"x": "a/one.mp4", "y": "b/two.mp4", "cam": "cam"}
    assert Paths.of(sources[2:], "session").root == "session"


def test_facts_are_kept_and_a_session_without_windows_leaves_no_store(tmp_path):
    live = session(tmp_path / "s")
    live.write_facts({"hop_s": 1.0})
    live.close()
    assert json.loads((tmp_path / "s/session.json").read_text()) == {"hop_s": 1.0}
    assert not (tmp_path / "s/attributions.zarr").exists()
