"""Who may look: hosts, origins, the token, and the headers that keep a browser from mischief.

A page on another site can make a visitor's browser send requests to a server on his own machine,
and read the answers of a WebSocket, which no same-origin policy covers, or of a name that it has
rebound to 127.0.0.1. So a server on a loopback address answers only to loopback names, and a
WebSocket only to the page's own origin. A server elsewhere wants a token.
"""

import asyncio
import hashlib
import hmac
import ipaddress
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.errors import ConfigError

COOKIE = "staa_live"
SEND_TIMEOUT_S = 10.0
"""A viewer that takes nothing for so long is let go."""
ABORT = "abort"
"""Entry of a request's state: a function that drops its connection, with what wasn't sent yet."""
MIN_TOKEN = 16
_OPEN_PATHS = frozenset({"/healthz"})
"""Answered without a token: they say nothing about the streams."""
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address or name."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_token(host: str, token: str | None) -> None:
    """Refuse to open a port to others without a token that can't be guessed.

    Raises
    ------
    ConfigError
    """
    if token is None:
        if not is_loopback(host):
            raise ConfigError(
                f"host is {host!r}, which others can reach, and there is no token: expected one "
                f"of at least {MIN_TOKEN} characters, or the host 127.0.0.1"
            )
    elif len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable():
        raise ConfigError(
            f"the token has {len(token)} characters: expected at least {MIN_TOKEN} that are "
            "printable ASCII"
        )


class Guard:
    """The outermost layer of the server: checks each request, and bounds each send in time.

    Parameters
    ----------
    host
        The address that the server is bound to.
    token
        The token that it wants; None for none.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        token: str | None,
        send_timeout_s: float = SEND_TIMEOUT_S,
    ) -> None:
        self._app = app
        self._names_loopback = is_loopback(host)
        self._token = token
        self._send_timeout_s = send_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def guarded_send(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                MutableHeaders(scope=message).update(_HEADERS)
            # Not `wait_for`, which in Python 3.11 swallows a cancellation at the very moment that
            # the send is done: the viewer's task would go on for ever.
            try:
                async with asyncio.timeout(self._send_timeout_s):
                    await send(message)
            except TimeoutError:
                # To close it would mean to wait until the rest is taken. It comes before the
                # viewer's task ends, so that a viewer counts for as long as its connection does.
                if abort := scope.get("state", {}).get(ABORT):
                    abort()
                raise

        try:
            refusal = self._refusal(scope)
            if refusal is None:
                await self._app(scope, receive, guarded_send)
            elif scope["type"] == "websocket":
                # A server answers 403 to a handshake that is closed before it is accepted.
                await guarded_send({"type": "websocket.close", "code": 1008})
            else:
                await refusal(scope, receive, guarded_send)
        except (TimeoutError, ClientDisconnect):
            return

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._names_loopback and not is_loopback(_hostname(host)):
            return _text("this server answers to localhost alone", 421)
        origin = headers.get("origin")
        if origin is not None and not _is_same_site(origin, host):
            return _text("requests of other sites are refused", 403)
        if self._token is None or scope["path"] in _OPEN_PATHS:
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[-1]
        if given and self._is_token(given):
            return self._entered(scope) if scope["path"] == "/" else None
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(bearer.strip()):
            return None
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        if _are_equal(cookie, self._session()):
            return None
        return _text("this server wants its token: open /?token=... once", 401)

    def _entered(self, scope: Scope) -> Response:
        """Keep the browser's session in a cookie, and take the token out of its address bar."""
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(
            COOKIE,
            self._session(),
            httponly=True,
            samesite="lax",
            secure=scope["scheme"] in ("https", "wss"),
        )
        return response

    def _session(self) -> str:
        """Make what the cookie holds: not the token, as browsers send it to each port of a host."""
        assert self._token is not None
        return hmac.new(self._token.encode(), b"staa live session", hashlib.sha256).hexdigest()

    def _is_token(self, given: str) -> bool:
        assert self._token is not None
        return _are_equal(given, self._token)


def _are_equal(given: str, expected: str) -> bool:
    """Compare in a time that says nothing about where they differ."""
    return hmac.compare_digest(given.encode(), expected.encode())


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_same_site(origin: str, host: str) -> bool:
    scheme, _, place = origin.partition("://")
    default = _DEFAULT_PORTS.get(scheme)
    if default is None:
        return False
    return place.removesuffix(default).lower() == host.removesuffix(default).lower() != ""


def _text(text: str, status: int) -> Response:
    return PlainTextResponse(text + "\n", status_code=status)
