from datetime import UTC, datetime, timedelta
from uuid import uuid4

import fsspec
import pytest

from pipeline.stream.sessions import ended_note, names_of, new_session, retain, urls_of

NOON = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)


def made(out, *, hours_ago, n_bytes, ended=True):
    began = NOON - timedelta(hours=hours_ago)
    url = new_session(str(out), began)
    folder = out / url.rpartition("/")[2]
    folder.mkdir(parents=True)
    (folder / "data").write_bytes(bytes(n_bytes))
    if ended:
        (folder / "ended.json").write_bytes(ended_note(began + timedelta(hours=1)))
    return url


def test_sessions_are_named_by_their_time_and_none_takes_another_s_place(tmp_path):
    first = new_session(str(tmp_path), NOON)
    assert first == f"{tmp_path}/2026-05-04T12-00-00Z"
    for number in (1, 2, 3):
        url = new_session(str(tmp_path), NOON)
        (tmp_path / url.rpartition("/")[2]).mkdir()
        assert url.endswith("Z" if number == 1 else f"Z-{number}")
    (tmp_path / "events.jsonl").touch()
    (tmp_path / "mine").mkdir()
    assert len(names_of(str(tmp_path))) == 3
    assert names_of(str(tmp_path / "absent")) == []


def test_ten_sessions_of_a_second_are_in_order(tmp_path):
    for _ in range(11):
        (tmp_path / new_session(str(tmp_path), NOON).rpartition("/")[2]).mkdir()
    assert [name.partition("Z")[2] for name in names_of(str(tmp_path))] == [
        "",
        *(f"-{number}" for number in range(2, 12)),
    ]


def test_what_is_too_old_goes_by_when_it_ended(tmp_path):
    old = made(tmp_path, hours_ago=30, n_bytes=10)
    unended = made(tmp_path, hours_ago=26, n_bytes=10, ended=False)
    # It began 25 hours ago, and ended 24.
    young = made(tmp_path, hours_ago=25, n_bytes=10)
    deleted = retain(str(tmp_path), "x", age_s=24.5 * 3600, n_bytes=None, now=NOON)
    assert deleted == [old, unended]
    assert urls_of(str(tmp_path)) == [young]


def test_the_name_of_a_session_is_no_pattern():
    """Of two cameras' sessions of one second, in folders of an object store."""
    files = fsspec.filesystem("memory")
    names = [f"/{uuid4().hex}/{camera}" for camera in ("cam[1]", "cam1")]
    for name in names:
        files.pipe_file(f"{name}/2026-05-03T06-00-00Z/data", b"x")
    url = f"memory:/{names[0]}"
    assert len(retain(url, "x", age_s=3600.0, n_bytes=None, now=NOON)) == 1
    assert not files.find(names[0])
    assert len(files.find(names[1])) == 1


def test_the_oldest_go_until_the_rest_is_small_enough(tmp_path):
    urls = [made(tmp_path, hours_ago=hours, n_bytes=100_000) for hours in (9, 8, 7, 6)]
    deleted = retain(str(tmp_path), urls[0], age_s=None, n_bytes=250_000, now=NOON)
    # The current one stays, though it is the oldest.
    assert deleted == urls[1:3]
    assert urls_of(str(tmp_path)) == [urls[0], urls[3]]


@pytest.mark.parametrize("n_bytes", [None, 10_000_000])
def test_without_need_nothing_goes(tmp_path, n_bytes):
    urls = [made(tmp_path, hours_ago=hours, n_bytes=1000) for hours in (9, 8)]
    assert retain(str(tmp_path), "x", age_s=None, n_bytes=n_bytes, now=NOON) == []
    assert urls_of(str(tmp_path)) == urls
