"""The server on a free port: what it serves, and what a bad viewer does to the others."""

import http.client
import importlib
import json
import socket
import struct
import sys
import threading
import time
from contextlib import ExitStack, suppress

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pipeline.errors import ConfigError
from pipeline.stream.explained import Picture
from pipeline.stream.viewer import serve
from pipeline.stream.viewer.messages import jpeg
from pipeline.stream.viewer.server import mjpeg_path
from tests.stream.viewer.feeds import HOSTILE, Feed, explained, picture, status
from tests.stream.viewer.serving import (
    PATIENCE_S,
    address,
    first_parts,
    follow,
    get,
    received,
    served,
)
from tests.support.processes import until


def test_a_viewer_gets_the_latest_of_all_and_then_what_is_new():
    with served("camera", "door") as running:
        for window in range(5):
            running.viewer.shown(explained("door", window, age_s=2.0))
        running.viewer.status(status("camera", "stalled", "no frame for 4 s"))
        running.viewer.picture(picture("camera", 1.25))
        running.alarm({"said": "it drifts", "effect": float("nan")})
        with follow(running) as viewer:
            first = [viewer.recv(timeout=PATIENCE_S) for _ in range(5)]
            greeting, window, state, alarms = (json.loads(m) for m in first if isinstance(m, str))
            assert greeting["streams"] == ["camera", "door"]
            assert (window["stream"], window["window"]) == (1, 4)
            assert 2 <= window["age_s"] < 2 + PATIENCE_S
            assert (state["state"], state["reason"]) == ("stalled", "no frame for 4 s")
            assert alarms["alarms"] == [{"said": "it drifts", "effect": None}]
            assert struct.unpack("<Id", first[3][:12]) == (0, 1.25)
            assert first[3][12:14] == b"\xff\xd8"
            running.viewer.shown(explained("camera", 7))
            assert received(viewer, "window")["window"] == 7
            assert running.n_viewers == 1


def test_a_viewer_that_never_reads_harms_none_of_nine_others():
    with served("camera", send_timeout_s=5.0) as running, ExitStack() as open_viewers:
        # A small buffer, so that the server meets the silence soon.
        silent = upgraded(running, 4096)
        viewers = [open_viewers.enter_context(follow(running)) for _ in range(9)]
        assert until(lambda: running.n_viewers == 10)
        deadline = time.monotonic() + 2 * PATIENCE_S
        newest = [0] * 9
        dropped_at = None
        with Feed(running.viewer, ["camera"], hop_s=0.05, pictures_per_s=60):
            while time.monotonic() < deadline:
                newest = [received(viewer, "window")["window"] for viewer in viewers]
                if running.n_viewers == 9:
                    dropped_at = newest
                    break
        assert dropped_at is not None, "the silent viewer was never let go"
        # All others saw about the same window last: none waited for the silent one.
        assert max(newest) - min(newest) <= max(5, max(newest) // 2)
        assert min(newest) > 0
        # The kernel has ended the silent connection, too: nothing of it is kept.
        silent.settimeout(PATIENCE_S)
        # Which of several reads it is that fails depends on what the kernel still held.
        with pytest.raises(ConnectionResetError):  # noqa: PT012
            while silent.recv(1 << 16):
                pass
            raise ConnectionResetError


def upgraded(running, n_bytes=1 << 14):
    """A viewer of the page that takes nothing by itself, of a receiver's buffer of some bytes."""
    host, port = address(running)
    viewer = socket.socket()
    # Set before the connection is made, so that the server never sees a larger one.
    viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, n_bytes)
    viewer.settimeout(PATIENCE_S)
    viewer.connect((host, port))
    viewer.sendall(
        f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    return viewer


def noise(time_s, side):
    """A picture that JPEG can't make small."""
    image = np.random.default_rng(int(time_s)).integers(0, 256, (side, side, 3), np.uint8)
    return Picture("camera", float(time_s), image)


def test_between_a_slow_viewer_and_the_latest_lies_little():
    last = 400
    with served("camera", send_timeout_s=600.0) as running:
        slow = upgraded(running)
        assert until(lambda: running.n_viewers == 1)
        with follow(running) as viewer:
            sizes = []
            for time_s in range(last + 1):
                running.viewer.picture(noise(time_s, 240))
                # What one viewer has got was offered to the other, too.
                sizes.append(len(received(viewer, "picture")))
        mark = struct.pack("<Id", 0, float(last))
        held = b""
        while mark not in held:
            held += slow.recv(1 << 20)
        slow.close()
    assert sum(sizes) > 8e6
    # All that was sent before the latest, however much was offered.
    assert held.index(mark) < 5e5


def test_what_a_viewer_does_not_take_in_time_is_not_kept_for_it():
    with served("camera", send_timeout_s=2.0) as running:
        slow = upgraded(running)
        assert until(lambda: running.n_viewers == 1)
        large = noise(0, 2600)
        running.viewer.picture(large)
        n_taken = len(slow.recv(1 << 14))
        # What comes next waits for it.
        while running.n_viewers:
            running.viewer.status(status("camera"))
            # A little is taken all the time, with pauses: for the kernel, the viewer is there.
            with suppress(ConnectionResetError):
                n_taken += len(slow.recv(1 << 14))
            time.sleep(0.05)
        with suppress(ConnectionResetError):
            while more := slow.recv(1 << 20):
                n_taken += len(more)
        slow.close()
    assert n_taken < len(jpeg(large.image)) / 2


def test_what_is_left_of_players_that_are_gone_is_seen():
    with served("camera") as running:
        host, port = address(running)
        asked = f"GET /mjpeg/camera HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
        # There is no picture yet. Behind what comes after the request, nothing more is read.
        for more in (b"", asked, b"nonsense"):
            player = socket.create_connection((host, port), timeout=PATIENCE_S)
            player.sendall(asked)
            assert player.recv(1 << 16)
            player.sendall(more)
            player.close()
        assert until(lambda: running.n_viewers == 0)
        assert until(lambda: not running._server.server_state.connections)


def test_who_asks_for_the_head_of_a_stream_gets_that_and_no_more():
    with served("camera") as running:
        running.viewer.picture(picture("camera"))
        host, port = address(running)
        with socket.create_connection((host, port), timeout=PATIENCE_S) as player:
            asked = f"HEAD /mjpeg/camera HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
            player.sendall(asked)
            told = b""
            # To the end, as the server closes it.
            while more := player.recv(1 << 16):
                told += more
        assert told.startswith(b"HTTP/1.1 200 ")
        assert b"content-type: multipart/x-mixed-replace; boundary=frame\r\n" in told
        assert told.endswith(b"\r\n\r\n")
        assert running.n_viewers == 0


def test_a_request_amid_an_answer_ends_the_connection_and_is_no_error_of_the_server(caplog):
    with served("camera") as running:
        running.viewer.picture(picture("camera"))
        host, port = address(running)
        asked = f"GET /mjpeg/camera HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
        with socket.create_connection((host, port), timeout=PATIENCE_S) as player:
            player.sendall(asked)
            assert player.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
            player.sendall(asked)
            with suppress(ConnectionResetError):
                while player.recv(1 << 16):
                    pass
        assert until(lambda: running.n_viewers == 0)
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


def test_the_engine_never_waits_and_memory_does_not_grow_without_viewers():
    with served("camera") as running:
        image = picture("camera", 0.0)
        threads = [
            threading.Thread(target=lambda: [running.viewer.picture(image) for _ in range(3000)])
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert not any(thread.is_alive() for thread in threads)
        assert len(running.viewer._latest) == 1


def test_viewers_come_back_when_the_server_restarts_on_its_port():
    running = serve(streams=["camera"])
    port = address(running)[1]
    with follow(running) as viewer:
        assert received(viewer, "hello")["streams"] == ["camera"]
        running.stop()
        with pytest.raises(ConnectionClosed):
            received(viewer, "window")
    with served("camera", port=port) as again:
        again.viewer.shown(explained("camera", 3))
        with follow(again) as viewer:
            assert received(viewer, "window")["window"] == 3
    again.stop()  # a second time is harmless


def test_a_server_under_load_stops_with_all_kinds_of_viewers():
    with (
        served("camera") as running,
        Feed(running.viewer, ["camera"], hop_s=0.05),
        ExitStack() as open_viewers,
    ):
        viewers = [open_viewers.enter_context(follow(running)) for _ in range(3)]
        player = http.client.HTTPConnection(*address(running), timeout=PATIENCE_S)
        player.request("GET", "/mjpeg/camera")
        assert player.getresponse().status == 200
        for viewer in viewers:
            received(viewer, "window")
        running.stop()
        for viewer in viewers:
            with pytest.raises(ConnectionClosed):
                received(viewer, "none")
    assert not running._thread.is_alive()


def test_a_port_in_use_is_named():
    with served("camera") as running:
        port = address(running)[1]
        with pytest.raises(ConfigError, match=f"can't listen on port {port} of '127.0.0.1'"):
            serve(streams=["camera"], port=port)


def test_names_that_try_to_be_markup_or_paths_are_only_names():
    with served(*HOSTILE) as running:
        _, page = get(running)
        assert not any(name.encode() in page for name in HOSTILE)
        running.viewer.shown(explained(HOSTILE[0], top=((HOSTILE[1], 0.9),)))
        with follow(running) as viewer:
            assert received(viewer, "hello")["streams"] == list(HOSTILE)
            assert received(viewer, "window")["shown"]["label"] == HOSTILE[1]
        for name in HOSTILE:
            running.viewer.picture(picture(name))
            assert first_parts(running, mjpeg_path(name), 1)


def test_metrics_are_those_of_the_registry_and_only_if_there_is_one():
    registry = CollectorRegistry()
    Counter("staa_live_windows", "Explained windows", registry=registry).inc(3)
    with served("camera", registry=registry) as running:
        response, body = get(running, "/metrics")
        assert response.headers["content-type"].startswith("text/plain")
        assert b"staa_live_windows_total 3.0" in body
    with served("camera") as running:
        assert get(running, "/metrics")[0].status == 404


def test_a_viewer_that_talks_is_let_go():
    with served("camera") as running:
        # Often, since what is said may arrive while the greeting is sent.
        for _ in range(60):
            with follow(running) as viewer:
                viewer.send("x" * 100)
                with pytest.raises(ConnectionClosed) as closed:
                    received(viewer, "none")
                assert closed.value.rcvd.code == 1008


def test_viewers_are_bounded_in_number():
    with served("camera") as running:
        running._hub.max_viewers = 2
        with follow(running) as one, follow(running) as two:
            received(one, "hello")
            received(two, "hello")
            assert until(lambda: running.n_viewers == 2)
            with pytest.raises(InvalidStatus, match="503"), follow(running):
                pass
            assert get(running, "/mjpeg/camera")[0].status == 503
            assert get(running)[0].status == 200


def test_without_the_extra_there_is_one_line_that_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "pipeline.stream.viewer")
    expected = r"the live page needs uvicorn: pip install 'staa\[live\]'"
    with pytest.raises(ConfigError, match=expected):
        importlib.import_module("pipeline.stream.viewer")
