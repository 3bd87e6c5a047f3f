"""Who may look: tokens, hosts and origins, over a real connection."""

import asyncio
import logging

import pytest
from prometheus_client import CollectorRegistry
from websockets.exceptions import InvalidStatus

from pipeline.errors import ConfigError
from pipeline.stream.viewer import serve
from pipeline.stream.viewer.guard import ABORT, Guard, is_loopback
from tests.stream.viewer.feeds import picture
from tests.stream.viewer.serving import TOKEN, address, follow, get, received, served


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.8.8", "::1", "[::1]"]
)
def test_addresses_of_this_machine_alone(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "10.0.0.1", "localhost.example", "127.0.0.1.x"]
)
def test_addresses_that_others_may_reach(host):
    assert not is_loopback(host)


def test_others_need_the_token_in_any_of_three_ways(caplog):
    caplog.set_level(logging.DEBUG)
    with served("camera", host="0.0.0.0", token=TOKEN, registry=CollectorRegistry()) as running:
        running.viewer.picture(picture("camera"))
        for path in ("/", "/live.js", "/metrics", "/mjpeg/camera", "/?token=wrong", "/nothing"):
            response, body = get(running, path)
            assert (response.status, b"wants its token" in body) == (401, True)
        assert get(running, "/healthz")[0].status == 200
        assert get(running, Authorization=f"Bearer {TOKEN}")[0].status == 200
        assert get(running, Authorization=f"Bearer {TOKEN}x")[0].status == 401
        response, _ = get(running, f"/?token={TOKEN}")
        assert (response.status, response.headers["location"]) == (303, "/")
        cookie = response.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert TOKEN not in cookie
        session = cookie.partition(";")[0]
        assert get(running, "/live.js", Cookie=session)[0].status == 200
        assert get(running, "/live.js", Cookie=session + "0")[0].status == 401
        for options in ({}, {"path": "ws?token=wrong"}):
            with pytest.raises(InvalidStatus), follow(running, **options):
                pass
        for options in (
            {"path": f"ws?token={TOKEN}"},
            {"additional_headers": {"Cookie": session}},
            {"additional_headers": {"Authorization": f"Bearer {TOKEN}"}},
        ):
            with follow(running, **options) as viewer:
                assert received(viewer, "hello")
    # The tests' own client logs what it sends.
    said = [r.getMessage() for r in caplog.records if not r.name.startswith("websockets.client")]
    assert not any(TOKEN in text for text in said)


@pytest.mark.parametrize(
    "options",
    [
        {"host": "0.0.0.0"},
        {"host": "::"},
        {"host": ""},
        {"host": "192.0.2.1"},
        {"host": "0.0.0.0", "token": "short"},
        {"token": ""},
        {"token": "with a line\nbreak in it, and long"},
        {"streams": ["a", "a"]},
        {"streams": []},
        {"port": 70000},
        {"host": "192.0.2.1", "token": TOKEN},
    ],
)
def test_what_cannot_be_served_is_refused_before_a_port_is_open(options):
    with pytest.raises(ConfigError) as refused:
        serve(**{"streams": ["camera"], **options})
    assert "\n" not in str(refused.value)
    assert options.get("token") in (None, "") or options["token"] not in str(refused.value)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "localhost:9000"}, 200),  # a tunnel's port
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "evil.example"}, 421),
        ({"Host": "localhost.evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example:80"}, 421),
        ({"Host": "192.0.2.1"}, 421),
        ({"Host": ""}, 421),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
        ({"Host": "localhost:80", "Origin": "http://localhost"}, 200),
        ({"Host": "localhost", "Origin": "http://evil.example"}, 403),
        ({"Host": "localhost", "Origin": "http://localhost:3000"}, 403),
        ({"Host": "localhost", "Origin": "null"}, 403),
        ({"Host": "localhost", "Origin": "file://"}, 403),
        ({"Host": "localhost", "Origin": "ftp://localhost"}, 403),
    ],
)
def test_other_sites_cannot_use_a_visitors_browser(headers, expected):
    with served("camera") as running:
        assert get(running, **headers)[0].status == expected


def test_a_websocket_of_another_site_is_refused_before_it_is_open():
    with served("camera") as running:
        with pytest.raises(InvalidStatus, match="403"), follow(running, origin="http://evil.test"):
            pass
        host, port = address(running)
        with follow(running, origin=f"http://{host}:{port}") as viewer:
            assert received(viewer, "hello")


def test_every_answer_has_the_headers_of_a_careful_page():
    with served("camera") as running:
        for path in ("/", "/live.js", "/live.css", "/nothing", "/mjpeg/nothing", "/healthz"):
            response, _ = get(running, path)
            policy = response.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["referrer-policy"] == "no-referrer"
            assert response.headers["cross-origin-resource-policy"] == "same-origin"
            assert response.headers.get("server") is None
        assert get(running, "/nothing")[0].status == get(running, "/mjpeg/no")[0].status == 404
        assert get(running, "/../server.py")[0].status == 404


def test_a_viewer_that_takes_nothing_is_dropped_while_it_still_counts():
    happened = []

    async def app(scope, receive, send):
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        finally:
            happened.append("no viewer any more")

    async def never_taken(message):
        await asyncio.Event().wait()

    guard = Guard(app, host="127.0.0.1", token=None, send_timeout_s=0.01)
    scope = {
        "type": "http",
        "path": "/",
        "headers": [(b"host", b"localhost")],
        "state": {ABORT: lambda: happened.append("dropped")},
    }
    asyncio.run(guard(scope, None, never_taken))
    assert happened == ["dropped", "no viewer any more"]
