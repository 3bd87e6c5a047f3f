"""The server of the live page: Starlette on uvicorn, in a thread of its own.

`/` is the page, `/ws` feeds it, `/mjpeg/<stream>` serves plain players, `/metrics` Prometheus, and
`/healthz` says that the server is there.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.errors import ConfigError, reason_of
from pipeline.stream.explained import Viewer
from pipeline.stream.viewer.guard import ABORT, SEND_TIMEOUT_S, Guard, check_token
from pipeline.stream.viewer.hub import Hub
from pipeline.stream.viewer.messages import hello
from pipeline.stream.viewer.mjpeg import MEDIA_TYPE, mjpeg_parts

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_SITE = {
    "index.html": "text/html; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "live.css": "text/css; charset=utf-8",
}
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 2
_PING_S = 20.0
_SEND_BUFFER = 1 << 16
"""Bytes that the kernel is asked to hold for a viewer, and doubles. What lies there can't be
replaced by what is newer, and by itself the kernel takes up to 4 MB: half a minute of pictures for
a slow viewer."""


class Running:
    """A server that runs, from `serve`.

    Attributes
    ----------
    viewer
        Where the engine puts what it has; no call blocks.
    url
        The page's address, without a token.
    """

    def __init__(self, hub: Hub, server: uvicorn.Server, thread: threading.Thread, url: str):
        self.viewer: Viewer = hub
        self.url = url
        self._hub, self._server, self._thread = hub, server, thread

    def alarm(self, event: Mapping[str, Any]) -> None:
        """Show an alarm: plain values, such as `pipeline.stream.drift.Alarm.event` gives."""
        self._hub.alarm(event)

    @property
    def n_viewers(self) -> int:
        """How many pages and players follow now."""
        return self._hub.n_viewers

    def stop(self) -> None:
        """End all connections and free the port. May be called twice."""
        self._hub.close()
        self._server.should_exit = True
        self._thread.join()


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    streams: Sequence[str],
    registry: "CollectorRegistry | None" = None,
    send_timeout_s: float = SEND_TIMEOUT_S,
) -> Running:
    """Serve the live page from a thread until `Running.stop`.

    Parameters
    ----------
    host, port
        Where to listen; port 0 is a free one. What isn't a loopback address wants a token.
    token
        What viewers must give: once as ``/?token=...`` in a browser, which then keeps a cookie, or
        as ``Authorization: Bearer``. It is never logged.
    streams
        Names of the streams, each once.
    registry
        Metrics for ``/metrics``; None for no such path.
    send_timeout_s
        A viewer that takes nothing for so long is let go.

    Raises
    ------
    ConfigError
        Without a token where one is wanted, for names that repeat, and for an address that can't be
        listened on.
    """
    check_token(host, token)
    if not streams or len(set(streams)) != len(streams):
        raise ConfigError(f"streams are {list(streams)}, expected at least one, each name once")
    hub = Hub(streams)
    listening = _listen(host, port, send_timeout_s)
    has_started = threading.Event()

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        hub.attach(asyncio.get_running_loop())
        has_started.set()
        yield

    app = Starlette(routes=_routes(hub, registry), lifespan=lifespan)
    server = uvicorn.Server(
        uvicorn.Config(
            Guard(app, host=host, token=token, send_timeout_s=send_timeout_s),
            # uvicorn logs whole addresses, a token among them, from level INFO on.
            http=_Impatient,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws_max_size=1024,
            ws_per_message_deflate=False,
            ws_ping_interval=_PING_S,
            ws_ping_timeout=_PING_S,
            timeout_graceful_shutdown=_STOP_TIMEOUT_S,
        )
    )
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listening]}, name="live-page", daemon=True
    )
    thread.start()
    if not has_started.wait(_START_TIMEOUT_S):
        raise ConfigError(f"the server of the page didn't start within {_START_TIMEOUT_S:.0f} s")
    shown_host = f"[{host}]" if ":" in host else host
    url = f"http://{shown_host}:{listening.getsockname()[1]}/"
    return Running(hub, server, thread, url)


class _Impatient(H11Protocol):
    """Lets go of a connection that asks for nothing: uvicorn would hold it for ever.

    Nor does it hold more than one message for a viewer that is behind.
    """

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the request."""
        super().connection_made(transport)
        # A message waits for the one before it, and until then may be replaced by a newer one.
        transport.set_write_buffer_limits(high=0)
        # Requests get a copy of it, as does the protocol that carries a WebSocket on.
        self.app_state = {**self.app_state, ABORT: transport.abort}
        self.loop.call_later(
            SEND_TIMEOUT_S, lambda: transport.close() if self.scope is None else None
        )

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request; amid an answer, where none more can be sent, drop it."""
        answer = self.cycle
        if answer is not None and answer.response_started and not answer.response_complete:
            self.transport.abort()
        else:
            super().send_400_response(msg)


def mjpeg_path(stream: str) -> str:
    """Path of a stream's MJPEG on the server."""
    return f"/mjpeg/{quote(stream, safe='')}"


def _listen(host: str, port: int, send_timeout_s: float) -> socket.socket:
    if not 0 <= port < 1 << 16:
        raise ConfigError(f"port is {port}, expected 0 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listening = socket.create_server(address, family=family)
    except OSError as error:
        reason = reason_of(error)
        raise ConfigError(f"can't listen on port {port} of {host!r}: {reason}") from error
    # Connections inherit both options.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # The kernel ends one whose peer takes nothing, and frees it.
        timeout_ms = int(1000 * send_timeout_s)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
    return listening


def _routes(hub: Hub, registry: "CollectorRegistry | None") -> list[Route | WebSocketRoute]:
    site = {name: (files(__package__) / "site" / name).read_bytes() for name in _SITE}

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in site:
            return PlainTextResponse("there is no such page\n", status_code=404)
        return Response(site[name], media_type=_SITE[name])

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def metrics(_: Request) -> Response:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        assert registry is not None
        return Response(generate_latest(registry), headers={"content-type": CONTENT_TYPE_LATEST})

    async def mjpeg(request: Request) -> Response:
        name = request.path_params["stream"]
        if name not in hub.streams:
            return PlainTextResponse("there is no such stream\n", status_code=404)
        if hub.is_full:
            return PlainTextResponse("there are too many viewers\n", status_code=503)
        # No other request follows on this connection.
        headers = {"connection": "close"}
        if request.method == "HEAD":
            return Response(headers=headers, media_type=MEDIA_TYPE)
        parts = mjpeg_parts(hub, hub.streams.index(name))
        return StreamingResponse(parts, headers=headers, media_type=MEDIA_TYPE)

    async def feed(socket: WebSocket) -> None:
        if hub.is_full:
            refusal = PlainTextResponse("there are too many viewers\n", status_code=503)
            await socket.send_denial_response(refusal)
            return
        await socket.accept()
        await _feed(hub, socket)

    routes: list[Route | WebSocketRoute] = [
        Route("/", page),
        Route("/healthz", health),
        Route("/mjpeg/{stream:path}", mjpeg),
        WebSocketRoute("/ws", feed),
    ]
    if registry is not None:
        routes.append(Route("/metrics", metrics))
    return [*routes, Route("/{name}", page)]


async def _feed(hub: Hub, socket: WebSocket) -> None:
    """Send until either side has had enough; a viewer that says anything is refused."""
    sending = asyncio.create_task(_send_all(hub, socket))
    receiving = asyncio.create_task(socket.receive())
    done, others = await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    if receiving in done and receiving.result()["type"] == "websocket.receive":
        with contextlib.suppress(WebSocketDisconnect, OSError):
            await socket.close(1008, "viewers have nothing to say")
    elif sending in done and sending.exception() is None:
        with contextlib.suppress(WebSocketDisconnect, OSError, RuntimeError):
            await socket.close(1012)


async def _send_all(hub: Hub, socket: WebSocket) -> None:
    await socket.send_text(hello(hub.streams))
    async with contextlib.aclosing(hub.follow()) as following:
        async for entries in following:
            for entry in entries:
                message = entry.message()
                if isinstance(message, bytes):
                    await socket.send_bytes(message)
                else:
                    await socket.send_text(message)
