"""A real HTTP server on loopback whose answers are set request by request."""

import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

Answer = int | str
"""A status, or `RESET`, `CUT` or `UNTOLD`."""
RESET = "reset"
"""The connection is reset without an answer."""
CUT = "cut"
"""Half of the body, then the connection ends."""
UNTOLD = "untold"
"""The right answer, without its length: it ends with the connection."""


@dataclass
class Served:
    """What a server answers, and what it was asked."""

    content: dict[str, bytes]
    answer: Callable[[str, int], Answer | None] = lambda path, nth: None
    """From a path, and how often it was asked for before, to an answer; None for the right one."""
    url: str = ""
    etags: dict[str, str] = field(default_factory=dict)
    """By path; of others none is told."""
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)


@contextmanager
def served(content: dict[str, bytes]) -> Iterator[Served]:
    """Serve some contents by path until the end of the block."""
    state = Served(content)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(self.path.lstrip("/"))
            nth = state.requests[self.command, path]
            state.requests[self.command, path] += 1
            answer = state.answer(path, nth)
            if answer == RESET:
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.close_connection = True
                self.connection.close()
                return
            body = state.content.get(path)
            status = answer if isinstance(answer, int) else 404 if body is None else 200
            sent = body if body is not None and status == 200 else b"no"
            self.send_response(status)
            if answer == UNTOLD:
                self.send_header("Connection", "close")
            else:
                self.send_header("Content-Length", str(len(sent)))
            if path in state.etags:
                self.send_header("ETag", state.etags[path])
            self.end_headers()
            if self.command == "HEAD":
                return
            self.wfile.write(sent[: len(sent) // 2] if answer == CUT else sent)
            if answer == CUT:
                self.close_connection = True

        do_HEAD = do_GET  # noqa: N815  the name that the base class looks for

        def log_message(self, format: str, *args: object) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except (OSError, ValueError):
                # This connection was reset above.
                self.close_connection = True

        def finish(self) -> None:
            try:
                super().finish()
            except (OSError, ValueError):
                self.close_connection = True

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
