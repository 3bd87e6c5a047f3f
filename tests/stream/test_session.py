"""A session is a run at every moment, and after every way of being cut off."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

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
from pipeline.stream.session import Paths, finish, finish_cut_off
from pipeline.stream.sessions import has_ended, new_session, retain
from pipeline.stream.source import Source
from tests.stream.cut_sessions import rows
from tests.stream.made import ROWS_PER_SHARD, rows_of, session, window
from tests.support.mutations import seed_of_the_day


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


EVERY = 12
"""Of the changes that a commit makes on the disk, so many are one apart in the fast tests."""


def sessions_met(folder, how, step):
    """Sessions that met a kill or a full disk, at every so many changes of their second shard; and
    one that met none. URLs, and what the process said."""
    first = seed_of_the_day() % step
    command = [sys.executable, "-m", "tests.stream.cut_sessions", str(folder), how]
    command += [str(first), str(step)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=600)
    told = json.loads(done.stdout)
    # Its rows of the manifest, the record, sizes of arrays, and what they hold.
    assert step * len(told) > 40
    return [(str(folder / str(number)), each["said"]) for number, each in enumerate(told)]


@pytest.mark.parametrize("step", [EVERY, pytest.param(3, marks=pytest.mark.slow)])
def test_killed_anywhere_it_is_finished_and_nothing_is_torn(tmp_path, step):
    met = sessions_met(tmp_path, "kill", step)
    before = open_run(met[-1][0]).isel(clip=slice(4)).load()
    n_finished = 0
    for url, _ in met:
        # Readers get along with it as it is.
        assert read_state(url).summary.counts[Status.OK] >= 4
        n_finished += finish_cut_off([url, str(tmp_path / "nothing")]) == [url]
        assert has_ended(url)
        store = open_store(store_url(url))
        status = read_status(store)
        assert len(status) in (4, 8)
        assert np.isin(status, [Status.OK, Status.UNUSED]).all()
        assert (status[:4] == Status.OK).all()
        # All of a shard or nothing; whoever wasn't killed has all of it.
        assert len(set(status[4:].tolist())) <= 1
        assert url != met[-1][0] or (status == Status.OK).all()
        check_store(store)
        assert open_run(url).isel(clip=slice(4)).load().equals(before)
        assert finish(url) == 0
    assert n_finished


@pytest.mark.parametrize("step", [EVERY, pytest.param(3, marks=pytest.mark.slow)])
def test_a_commit_that_a_full_disk_refused_anywhere_is_done_again(tmp_path, step):
    met = sessions_met(tmp_path, "fail", step)
    for url, said in met[:-1]:
        assert "No space left" in said
        ds = open_run(url)
        assert (ds["status"].values == Status.OK).sum() == 8
        assert read_manifest(f"{url}/manifest.parquet").n_rows == 8
        check_store(open_store(store_url(url)))
    assert met[-1][1] == ""


@pytest.mark.parametrize("hours_ago", [30, 1])
@pytest.mark.parametrize("is_whole", [True, False])
def test_what_was_cut_off_is_deleted_by_its_newest_window(tmp_path, hours_ago, is_whole):
    now = datetime.now(UTC)
    # Of one long session.
    url = new_session(str(tmp_path), now - timedelta(hours=100))
    live = session(tmp_path / url.rpartition("/")[2])
    received = now.timestamp() - hours_ago * 3600
    live.commit([replace_received(row, received - n) for n, row in enumerate(rows(0, 1, 2))])
    if not is_whole:
        status = open_store(store_url(url), mode="r+").array("status")
        status[:] = np.full(status.shape, Status.PENDING, np.uint8)
    assert finish_cut_off([url]) == ([] if is_whole else [url])
    deleted = retain(str(tmp_path), "x", age_s=24 * 3600, n_bytes=None, now=now)
    assert deleted == ([url] if hours_ago > 24 else [])
    assert finish_cut_off([url]) == []


@pytest.mark.parametrize("received_s", [None, 1e11])
def test_without_a_time_or_with_one_to_come_it_ended_now(tmp_path, received_s):
    live = session(tmp_path / "s")
    live.commit([replace_received(row, received_s) for row in rows(0, 1)])
    before = datetime.now(UTC).replace(microsecond=0)
    assert finish_cut_off([live.url, str(tmp_path / "nothing")]) == []
    ended = datetime.fromisoformat(json.loads((tmp_path / "s/ended.json").read_text())["ended"])
    assert before <= ended <= datetime.now(UTC)
    assert not (tmp_path / "nothing").exists()


def replace_received(row, received_s):
    return replace(row, manifest=row.manifest | {"received": received_s})


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
