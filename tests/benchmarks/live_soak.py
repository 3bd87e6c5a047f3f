"""A live job that can't keep up, watched from outside: memory, ages, skipped windows, a restart.

``python -m tests.benchmarks.live --soak 60min`` plays four files through `jobs.live` in a process
of its own, which keeps what it explains and serves the page. The model, a TimeSformer with random
weights, takes three hops for a batch of all streams. Ten viewers follow: eight by WebSocket, one by
MJPEG, and one that never reads. Then the job is killed under this load and started again on the
same port and folder, and has to get its viewers back and leave stores in which no row is torn.
"""

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from analysis import open_run
from pipeline.attribution.method import Method
from pipeline.dataset.manifest import read_manifest
from pipeline.models.attributor import Attributor
from pipeline.models.checkpoint import read_checkpoint
from pipeline.status import Status
from pipeline.stream.sessions import urls_of
from tests.benchmarks.live import forward_s, layout_of, write_stream
from tests.support.checkpoints import save_timesformer
from tests.support.ports import free_port
from tests.support.processes import until

N_SOURCES = 4
N_VIEWERS = 10
"""Of which one plays MJPEG and one never reads."""
SLOWDOWN = 3
FPS = 10.0
WINDOW_S = 1.0
MEMORY_LOOK_S = 0.5
AGE_STEP_S = 0.01
STARTS_S = 60
"""What files are longer than the soak: viewers come while they are played."""
HANG_S = 150
"""Just a guard; the lease of a job that was killed is waited for."""


@dataclass(frozen=True)
class Shown:
    """A window as a viewer received it."""

    stream: int
    number: int
    at_s: float
    """When, by `time.monotonic`."""
    age_s: float
    """Of its newest frame, as the server said when it sent it."""
    n_skipped: int


class _Viewer(threading.Thread):
    """Who looks at a live job until it is told to end, and counts how often it has connected."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port, self._end = port, threading.Event()
        self.n_connections = 0

    def close(self) -> None:
        self._end.set()


class Follower(_Viewer):
    """A viewer of the page: keeps what it is sent, and comes back when it is let go."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.shown: list[Shown] = []
        self.n_pictures = 0

    def run(self) -> None:
        while not self._end.is_set():
            with contextlib.suppress(OSError, WebSocketException):
                self._follow()
            # Between two tries, as the page does.
            self._end.wait(0.2)

    def _follow(self) -> None:
        with connect(f"ws://127.0.0.1:{self._port}/ws", compression=None, proxy=None) as server:
            self.n_connections += 1
            while not self._end.is_set():
                message = server.recv(timeout=HANG_S)
                if isinstance(message, bytes):
                    self.n_pictures += 1
                    continue
                told = json.loads(message)
                if told["kind"] == "window":
                    self.shown.append(
                        Shown(
                            told["stream"],
                            told["window"],
                            time.monotonic(),
                            told["age_s"],
                            told["n_skipped"],
                        )
                    )


class Player(_Viewer):
    """A player of MJPEG that throws away what it gets."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.n_bytes = 0

    def run(self) -> None:
        while not self._end.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=HANG_S)
                connection.request("GET", "/mjpeg/s0")
                response = connection.getresponse()
                self.n_connections += 1
                while not self._end.is_set() and (got := response.read1(1 << 16)):
                    self.n_bytes += len(got)
            self._end.wait(0.2)


class Silent(_Viewer):
    """A viewer that asks for the feed and never reads; one that is let go comes again."""

    def run(self) -> None:
        asked = (
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        while not self._end.is_set():
            with contextlib.suppress(OSError), socket.socket() as mute:
                # A small buffer, so that the server meets the silence soon.
                mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                mute.connect(("127.0.0.1", self._port))
                mute.sendall(asked.encode())
                self.n_connections += 1
                gone = select.poll()
                gone.register(mute, select.POLLRDHUP)
                while not self._end.is_set() and not gone.poll(200):
                    pass
            self._end.wait(0.2)


@dataclass
class Job:
    """`jobs.live` in a process of its own."""

    argv: list[str]
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "jobs.live", *self.argv]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def resident_mb(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@dataclass(frozen=True)
class Ages:
    """Ages of the newest shown maps of all streams, as the first viewer saw them, s."""

    forward_s: NDArray[np.float64]
    """Between two maps of a stream: the passes of a model that never rests."""
    over_s: NDArray[np.float64]
    """What the age of a map was when the next one took its place, above the pass before it was
    shown, the pass while it was, and a hop."""
    sampled_s: NDArray[np.float64]
    """Every 10 ms."""

    @classmethod
    def of(cls, shown: list[Shown], hop_s: float) -> "Ages":
        forward, over, sampled = [], [], []
        for stream in {each.stream for each in shown}:
            own = [each for each in shown if each.stream == stream]
            at, age = (np.array([getattr(each, n) for each in own]) for n in ("at_s", "age_s"))
            between = np.diff(at)
            forward += between.tolist()
            # Map i was shown from at[i] to at[i + 1], and its batch began at about at[i - 1].
            over += (age[1:-1] - between[:-1] - hop_s).tolist()
            for first, length in zip(age[:-1], between, strict=True):
                sampled += np.arange(first, first + length, AGE_STEP_S).tolist()
        return cls(np.array(forward), np.array(over), np.array(sampled))


@dataclass(frozen=True)
class Soaked:
    """What was seen."""

    hop_s: float
    memory_mb: list[float]
    """Resident memory of the job, every half second."""
    load: list[float]
    """Of the machine, as often."""
    ages: Ages
    n_windows: int
    n_skipped: int
    n_shown: list[int]
    """Windows that each follower was sent."""
    n_silent: int
    """Times that the silent viewer was let go, and came again."""
    n_before: list[int]
    """Connections of each follower and the player before the restart, and after it."""
    n_after: list[int]
    n_rows: int
    """Windows in the stores of both starts."""
    torn: list[str]
    """What is wrong with the stores."""

    def thirds_mb(self) -> list[float]:
        """Median memory of each third."""
        return [float(np.median(part)) for part in np.array_split(self.memory_mb, 3)]

    def loads(self) -> list[float]:
        """Median load of each third."""
        return [float(np.median(part)) for part in np.array_split(self.load, 3)]

    def figures(self) -> dict[str, Any]:
        forward = float(np.median(self.ages.forward_s))
        p50, p99 = np.quantile(self.ages.sampled_s, (0.5, 0.99)).tolist()
        bound = 2 * forward + self.hop_s
        return {
            "seconds": round(len(self.memory_mb) * MEMORY_LOOK_S),
            "sources": N_SOURCES,
            "hop_s": round(self.hop_s, 4),
            "forward_s": round(forward, 4),
            "age_p50_s": round(p50, 4),
            "age_p99_s": round(p99, 4),
            "bound_s": round(bound, 4),
            "holds": p99 <= bound,
            "windows": self.n_windows,
            "skipped": self.n_skipped,
            "memory_mb_by_thirds": [round(value, 1) for value in self.thirds_mb()],
            "memory_mb_max": round(max(self.memory_mb), 1),
            "windows_shown_to_each": self.n_shown,
            "silent_viewer_let_go": self.n_silent,
            "connections_before_restart": self.n_before,
            "connections_after_restart": self.n_after,
            "rows_kept": self.n_rows,
            "torn": self.torn,
            "load_by_thirds": [round(value, 1) for value in self.loads()],
        }


def slow_model(folder: Path) -> tuple[Path, float]:
    """Write a model whose pass over a batch of all streams takes some tenths of a second; and s."""
    sizes = {"hidden_size": 192, "intermediate_size": 384, "num_hidden_layers": 6}
    path = save_timesformer(
        folder / "model", image_size=64, num_frames=8, num_attention_heads=6, **sizes
    )
    checkpoint = read_checkpoint(str(path))
    explain = Attributor(
        checkpoint,
        Method(name="staa-paper"),
        layout_of(checkpoint),
        device="cpu",
        precision="float32",
        n_threads=1,
    )
    return path, forward_s(explain, checkpoint, N_SOURCES)


@contextlib.contextmanager
def _followed(port: int) -> Iterator[tuple[list[Follower], Player, Silent]]:
    followers = [Follower(port) for _ in range(N_VIEWERS - 2)]
    player, silent = Player(port), Silent(port)
    everybody = [*followers, player, silent]
    for viewer in everybody:
        viewer.start()
    try:
        yield followers, player, silent
    finally:
        for viewer in everybody:
            viewer.close()


def soak(folder: Path, seconds: float) -> Soaked:
    """Watch a job for a while, kill it, start it again, and look at what it leaves."""
    model, forward = slow_model(folder)
    hop_s = max(round(forward / SLOWDOWN, 3), 1 / FPS)
    out, port = folder / "sessions", free_port()
    files = [
        write_stream(folder / f"{number}.mp4", seconds + STARTS_S, number, fps=FPS)
        for number in range(N_SOURCES)
    ]
    job = Job(
        [
            *(f"s{number}={path}" for number, path in enumerate(files)),
            f"--model={model}",
            "--sampling.kind=uniform",
            f"--window={WINDOW_S:g}s",
            f"--hop={1000 * hop_s:.0f}ms",
            f"--batch-size={N_SOURCES}",
            f"--rows-per-shard={4 * N_SOURCES}",
            f"--page.port={port}",
            f"--out={out}",
        ],
        folder / "job.log",
    )
    with _followed(port) as (followers, player, silent):
        job.start()
        _wait(job, lambda: all(len(each.shown) >= 2 * N_SOURCES for each in followers))
        memory: list[float] = []
        load: list[float] = []
        end = time.monotonic() + seconds
        begun = [len(each.shown) for each in followers]
        while time.monotonic() < end:
            # Between two looks at its memory.
            time.sleep(MEMORY_LOOK_S)
            assert job.process.poll() is None, job.said()
            memory.append(job.resident_mb())
            load.append(os.getloadavg()[0])
        shown = [each.shown[first:] for each, first in zip(followers, begun, strict=True)]
        last = [[w for w in shown[0] if w.stream == s][-1] for s in range(N_SOURCES)]
        n_silent, n_before = silent.n_connections - 1, _connections(followers, player)
        job.process.kill()
        job.process.wait()
        # An hour is more than one session.
        n_kept = _n_sessions_kept(out)
        seen = [len(each.shown) for each in followers]
        job.start()
        _wait(job, lambda: all(len(f.shown) > n for f, n in zip(followers, seen, strict=True)))
        until(lambda: player.n_connections > n_before[-1], seconds=HANG_S, told=job.said)
        n_after = _connections(followers, player)
        # A shard of the second start, so that its store is looked at, too.
        _wait(job, lambda: _n_sessions_kept(out) > n_kept)
        os.kill(job.process.pid, signal.SIGINT)
        assert job.process.wait(HANG_S) == 130, job.said()
    n_rows, torn = torn_rows(out)
    return Soaked(
        hop_s,
        memory,
        load,
        Ages.of(shown[0], hop_s),
        # Windows are numbered from 0, and each is explained, waits, or is skipped.
        sum(each.number + 1 - each.n_skipped for each in last),
        sum(each.n_skipped for each in last),
        [len(each) for each in shown],
        n_silent,
        n_before,
        n_after,
        n_rows,
        torn,
    )


def _connections(followers: list[Follower], player: Player) -> list[int]:
    return [*(each.n_connections for each in followers), player.n_connections]


def _wait(job: Job, condition: Any) -> None:
    def look() -> bool:
        assert job.process.poll() is None, job.said()
        return bool(condition())

    until(look, seconds=HANG_S, told=job.said)


def _n_sessions_kept(out: Path) -> int:
    return sum(1 for _ in out.glob("*/attributions.zarr/status/c/0"))


def torn_rows(out: Path) -> tuple[int, list[str]]:
    """Read every session whole: its rows that are done, and what is wrong with any."""
    n_rows, torn = 0, []
    for url in urls_of(str(out)):
        dataset = open_run(url, check=True)
        status = dataset["status"].values
        n_listed = read_manifest(f"{url}/manifest.parquet").n_rows
        if n_listed != len(status):
            torn.append(f"{url}: {n_listed} rows listed, {len(status)} in the store")
        codes = set(status.tolist()) - {Status.OK, Status.UNUSED}
        if codes:
            torn.append(f"{url}: rows with status {sorted(codes)}")
        done = status == Status.OK
        n_rows += int(done.sum())
        for name, axes in (("temporal", 1), ("spatial", (2, 3))):
            sums = dataset[name].values[done].astype(np.float64).sum(axis=axes)
            if not np.allclose(sums, 1, atol=5e-3):
                torn.append(f"{url}: rows of {name} that don't sum to 1")
    return n_rows, torn
