"""A server on a free port, and its clients."""

import http.client
import json
from contextlib import contextmanager

from websockets.sync.client import connect

from pipeline.stream.viewer import serve

TOKEN = "a-token-of-enough-characters"
PATIENCE_S = 20


@contextmanager
def served(*streams, **options):
    running = serve(streams=streams or ("camera",), **options)
    try:
        yield running
    finally:
        running.stop()


def address(running):
    host, _, port = running.url.removeprefix("http://").strip("/").rpartition(":")
    return host, int(port)


def get(running, path="/", **headers):
    connection = http.client.HTTPConnection(*address(running), timeout=PATIENCE_S)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def follow(running, path="ws", **options):
    url = running.url.replace("http:", "ws:") + path
    # A client that is behind, and reads no more, would wait for the server's last word in vain.
    options = {"open_timeout": PATIENCE_S, "close_timeout": 1, **options}
    return connect(url, compression=None, proxy=None, **options)


def received(connection, kind):
    """The next message of a kind."""
    while True:
        message = connection.recv(timeout=PATIENCE_S)
        if isinstance(message, bytes):
            if kind == "picture":
                return message
        elif json.loads(message)["kind"] == kind:
            return json.loads(message)


def first_parts(running, path, n):
    """The first pictures of an MJPEG stream."""
    connection = http.client.HTTPConnection(*address(running), timeout=PATIENCE_S)
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.status == 200
    assert response.headers["content-type"].startswith("multipart/x-mixed-replace; boundary=frame")
    parts = []
    for _ in range(n):
        assert response.readline() == b"--frame\r\n"
        assert response.readline() == b"Content-Type: image/jpeg\r\n"
        size = int(response.readline().partition(b":")[2])
        assert response.readline() == b"\r\n"
        parts.append(response.read(size))
        assert response.readline() == b"\r\n"
    connection.close()
    return parts
