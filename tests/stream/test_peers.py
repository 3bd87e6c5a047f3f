"""Sources over the network, played by another program: ffmpeg, as it comes with the system."""

import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import numpy as np
import pytest

from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.stream.explained import SourceState
from pipeline.stream.feed import Backoff, Feed, Listener
from pipeline.stream.source import Source
from pipeline.stream.windows import WindowPlan
from tests.support.clips import numbered_frames, pyav_frames, write_mp4
from tests.support.ports import free_port
from tests.support.processes import until

FFMPEG = shutil.which("ffmpeg")

pytestmark = [
    pytest.mark.slow,  # test_feed.py has cameras and servers of our own
    # PyAV brings FFmpeg's libraries, and not the program that plays to others.
    pytest.mark.skipif(FFMPEG is None, reason="ffmpeg isn't installed"),
]

N_FRAMES = 90
PLAN = WindowPlan(
    Sampling("uniform", 4, clock="time"),
    Preprocessing(shortest_edge=32, crop=(32, 32)),
    (32, 32),
    16 / 30,
    0.25,
)
PEERS = {
    "rtmp": ("-f", "flv", "-listen", "1", "rtmp://127.0.0.1:{port}/live/x"),
    "http": ("-f", "mpegts", "-listen", "1", "http://127.0.0.1:{port}/live.ts"),
    "tcp": ("-f", "mpegts", "tcp://127.0.0.1:{port}?listen=1"),
    "udp": ("-f", "mpegts", "udp://127.0.0.1:{port}?pkt_size=1316"),
}
"""How ffmpeg plays to each kind of source: as a server, except for UDP, where it just sends."""


@contextmanager
def playing(path, kind, port):
    """Have ffmpeg play a file at its own speed, again and again, until the block ends."""
    command = [FFMPEG, "-v", "error", "-re", "-stream_loop", "-1", "-i", path, "-c", "copy"]
    command += [part.format(port=port) for part in PEERS[kind]]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        yield
        process.kill()


@pytest.mark.parametrize("kind", PEERS)
def test_what_ffmpeg_plays_is_seen_as_it_is_and_again_after_it_was_killed(tmp_path, kind):
    path = write_mp4(tmp_path / "clip.mp4", numbered_frames(N_FRAMES), 30.0)
    place = {PLAN.fit(image).tobytes(): i for i, image in enumerate(pyav_frames(path))}
    assert len(place) == N_FRAMES
    port = free_port(socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    url = PEERS[kind][-1].format(port=port).partition("?")[0]
    windows, events = [], []
    listener = Listener(
        windows.append, event=lambda stream, kind, values: events.append((kind, values))
    )
    feed = Feed(Source("cam", url), PLAN, listener, backoff=Backoff(0.1, 0.2))

    def told():
        return events, len(windows), feed.health.state(time.monotonic())

    def n_told(kind):
        return sum(each == kind for each, _ in events)

    with playing(path, kind, port):
        feed.start()
        until(lambda: len(windows) >= 4, seconds=60, told=told)
        assert feed.health.state(time.monotonic())[0] is SourceState.LIVE
    before, n_back = n_told("lost"), n_told("back")
    # Of UDP only silence says that nobody sends any more.
    until(lambda: n_told("lost") > before, seconds=60, told=told)
    n_windows = len(windows)
    with playing(path, kind, port):
        until(lambda: len(windows) >= n_windows + 4, seconds=60, told=told)
        feed.close(20)
    assert n_told("back") > n_back
    for window in windows[: n_windows - 1] + windows[n_windows:]:
        places = [place[image.tobytes()] for image in window.cut.frames]
        # The middles of four quarters of 16 frames; times are rounded on the way.
        assert set(np.diff(places) % N_FRAMES) <= {3, 4, 5}, places
    # The last window before a break may lack frames that later ones were decoded before.
    assert all(image.tobytes() in place for image in windows[n_windows - 1].cut.frames)
    assert [window.number for window in windows] == sorted({w.number for w in windows})
