"""What may be opened, and what is told of a URL."""

import threading
import time

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.stream.source import Pace, Source, SourceError, opened, parse_source
from tests.support.clips import numbered_frames, pyav_frames, read_numbers, write_mp4


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_mp4(tmp_path_factory.mktemp("source") / "clip.mp4", numbered_frames(20))


def test_frames_come_in_order_with_times_and_are_those_of_pyav(clip):
    with opened(parse_source(str(clip))) as source:
        frames = list(source.frames())
        assert source.fps == 30
        assert source.is_finite
    assert read_numbers(np.stack([frame.image for frame in frames])) == list(range(20))
    assert np.array_equal(np.stack([frame.image for frame in frames]), pyav_frames(clip))
    seconds = [frame.pts * float(source.tick_s) for frame in frames]
    assert np.allclose(np.diff(seconds), 1 / 30)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cam=ftp://host/x", "scheme 'ftp', expected one of rtsp"),
        ("concat://a.mp4|b.mp4", "scheme 'concat'"),
        ("file:///etc/passwd", "scheme 'file'"),
        ("cam=/nowhere/clip.mp4", "isn't there"),
        ("cam=/dev/null", "no device|first bytes|known kind"),
        ("cam=", "names nothing"),
    ],
)
def test_what_may_not_be_opened_is_refused_by_name(text, reason):
    if "/dev/null" in text:
        # A character device that is no camera is found when it is opened.
        with pytest.raises(SourceError), opened(parse_source(text)):
            pass
        return
    with pytest.raises(ConfigError, match=reason):
        parse_source(text)


def test_a_text_that_lists_other_files_is_no_source(tmp_path):
    listed = tmp_path / "list.mp4"
    listed.write_text("ffconcat version 1.0\nfile /etc/hostname\n")
    with pytest.raises(ConfigError, match="first bytes"):
        parse_source(str(listed))


def test_names_come_from_what_is_given_or_from_the_file(clip):
    assert parse_source(f"door={clip}").name == "door"
    assert parse_source(str(clip)).name == "clip"
    assert parse_source("rtsp://cam/a=b").name == "a-b"
    # The name is shown everywhere.
    for url in ("rtsp://admin:secret@10.0.0.5", "rtsp://admin:secret@10.0.0.5:554/"):
        assert "secret" not in parse_source(url).name
    assert parse_source("http://u:pw@cam/live.mjpg?user=a&pwd=secret").name == "live"
    assert "secret" not in parse_source("http://cam/live.mjpg?user=a&pwd=secret").shown


def test_credentials_are_read_from_the_environment_and_never_shown(monkeypatch):
    source = parse_source("cam=rtsp://${CAM_USER}:${CAM_PASSWORD}@host/1")
    monkeypatch.setenv("CAM_USER", "eve")
    with pytest.raises(SourceError, match="no CAM_PASSWORD"):
        source.resolved()
    monkeypatch.setenv("CAM_PASSWORD", "hunter2")
    assert source.resolved() == "rtsp://eve:hunter2@host/1"
    assert "hunter2" not in Source("cam", "rtsp://eve:hunter2@host/1").shown
    assert "hunter2" not in source.shown


def test_a_host_that_does_not_answer_is_told_without_credentials():
    with (
        pytest.raises(SourceError) as told,
        opened(Source("cam", "http://eve:hunter2@127.0.0.1:9/x.ts")),
    ):
        pass
    assert "hunter2" not in str(told.value)


def test_a_pace_waits_as_long_as_the_frames_are_apart():
    pace, stop = Pace(), threading.Event()
    begun = time.monotonic()
    for time_s in (5.0, 5.05, 5.1):
        pace.wait(time_s, stop)
    assert time.monotonic() - begun >= 0.1
    stop.set()
    # A wait that is cut off: the test would hang.
    pace.wait(1e6, stop)
