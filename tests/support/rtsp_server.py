"""A camera: a small RTSP server (RFC 2326) that plays a transport stream over its own connection.

It answers OPTIONS, DESCRIBE, SETUP and PLAY, then sends the stream as RTP (RFC 2250, payload 33),
interleaved in the RTSP connection, and hangs up at its end.
"""

import base64
import re
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PACKETS_PER_RTP = 7
_TS_BYTES = 188


class _Camera(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, stream: bytes, seconds: float, password: str | None) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.stream, self.seconds, self.password = stream, seconds, password
        self.n_played = 0


class _Connection(socketserver.StreamRequestHandler):
    server: _Camera

    def handle(self) -> None:
        while request := self._request():
            method, url, headers = request
            answer = [f"CSeq: {headers.get('cseq', '0')}"]
            body = ""
            if not self._is_allowed(headers):
                self._answer("401 Unauthorized", [*answer, 'WWW-Authenticate: Basic realm="c"'])
                continue
            if method == "OPTIONS":
                answer.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
            elif method == "DESCRIBE":
                body = (
                    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\n"
                    "m=video 0 RTP/AVP 33\r\na=control:track\r\n"
                )
                answer += ["Content-Type: application/sdp", f"Content-Base: {url}/"]
            elif method == "SETUP":
                answer += ["Session: 7", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"]
            elif method == "PLAY":
                answer.append("Session: 7")
            self._answer("200 OK", answer, body)
            if method == "PLAY":
                self.server.n_played += 1
                self._play()
                return
            if method == "TEARDOWN":
                return

    def _request(self) -> tuple[str, str, dict[str, str]] | None:
        first = self.rfile.readline().decode().strip()
        if not first:
            return None
        headers = {}
        while line := self.rfile.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        method, url, _ = first.split(" ")
        return method, re.sub("//[^@/]*@", "//", url), headers

    def _is_allowed(self, headers: dict[str, str]) -> bool:
        if self.server.password is None:
            return True
        given = headers.get("authorization", "").removeprefix("Basic ")
        return base64.b64decode(given).decode().endswith(f":{self.server.password}")

    def _answer(self, status: str, headers: list[str], body: str = "") -> None:
        lines = [f"RTSP/1.0 {status}", *headers, f"Content-Length: {len(body)}", "", body]
        self.wfile.write("\r\n".join(lines).encode())

    def _play(self) -> None:
        stream, size = self.server.stream, _PACKETS_PER_RTP * _TS_BYTES
        parts = [stream[at : at + size] for at in range(0, len(stream), size)]
        for number, part in enumerate(parts):
            stamp = round(90_000 * self.server.seconds * number / len(parts))
            header = struct.pack(">BBHII", 0x80, 33, number & 0xFFFF, stamp & 0xFFFFFFFF, 7)
            data = header + part
            try:
                self.wfile.write(b"$\0" + struct.pack(">H", len(data)) + data)
            except OSError:
                return
            # As a camera does: packets come at the pace of the pictures.
            time.sleep(self.server.seconds / len(parts))


@contextmanager
def camera(path: Path, seconds: float, password: str | None = None) -> Iterator[_Camera]:
    """Serve a transport stream that plays for so long, while open."""
    with _Camera(path.read_bytes(), seconds, password) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
