"""Ages of maps, relative to the model's own forward pass, with memory: one JSON object.

``python -m tests.benchmarks.live --sources 1 8 --seconds 20`` plays files at their own speed
through `pipeline.stream.engine.Engine` and looks every 10 ms at the age of the newest map of each
stream. The hop is 1.2 times the forward pass of one batch of all streams, or 0.2 s if that is more;
frames come at 30 a second. ``--slow`` adds one run with a model that is three times too slow: the
real one, computed again until it has taken three hops. ``--soak 60min`` watches a whole job that
can't keep up instead, see `tests.benchmarks.live_soak`.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from pydantic import TypeAdapter

from pipeline.attribution.method import Method
from pipeline.base_config import Seconds
from pipeline.clips.columns import DIGEST_BYTES, Columns
from pipeline.clips.sampling import Sampling
from pipeline.models.attributor import Attributor
from pipeline.models.checkpoint import Checkpoint, read_checkpoint
from pipeline.models.device import device_of
from pipeline.status import Status
from pipeline.store.schema import StoreLayout
from pipeline.stream.engine import Engine, Settings
from pipeline.stream.explained import Explained, Picture, StreamStatus
from pipeline.stream.source import Source
from pipeline.stream.windows import WindowPlan, window_of

MODEL = "pipeline/synthetic/checkpoints/8-frames"
FPS = 30.0
LOOK_S = 0.01
SLOWDOWN = 3
ALLOWANCE_S = 0.05
"""What the age may have beside half a hop and the forward pass."""


def write_stream(path: Path, seconds: float, seed: int, *, fps: float = FPS) -> Path:
    """Write a file in which squares of noise move, of 160x120 pixels."""
    rng = np.random.default_rng(seed)
    still = rng.integers(0, 256, (15, 20, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    options = {"preset": "ultrafast", "g": "30", "bf": "0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=round(fps), options=options)
        stream.height, stream.width = still.shape[:2]
        stream.pix_fmt = "yuv420p"
        for number in range(round(seconds * fps)):
            moved = np.ascontiguousarray(np.roll(still, number, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        container.mux(stream.encode())
    return path


def layout_of(checkpoint: Checkpoint) -> StoreLayout:
    geometry = checkpoint.geometry
    return StoreLayout(
        n_rows=1,
        rows_per_shard=1,
        n_frames=geometry.n_frames,
        n_times=geometry.n_times,
        height=geometry.height,
        width=geometry.width,
        n_ranks=min(5, len(checkpoint.class_names)),
        optional=("frame_time", "clip_digest"),
    )


def forward_s(explain: Callable[[Columns], Columns], checkpoint: Checkpoint, n_clips: int) -> float:
    """Median time of a batch of so many windows, s."""
    geometry = checkpoint.geometry
    shape = (n_clips, geometry.n_frames, *geometry.input_size, 3)
    batch = {
        "row": np.arange(n_clips),
        "label": np.full(n_clips, -1, np.int32),
        "frames": np.random.default_rng(0).integers(0, 256, shape, np.uint8),
        "clip_digest": np.zeros((n_clips, DIGEST_BYTES), np.uint8),
        "status": np.full(n_clips, Status.OK, np.uint8),
        "message": np.full(n_clips, "", object),
    }
    times = []
    for _ in range(9):
        begun = time.perf_counter()
        explain(batch)
        times.append(time.perf_counter() - begun)
    return float(np.median(times[2:]))


class Slowed:
    """A real model that is computed again until it has taken so long."""

    def __init__(self, explain: Callable[[Columns], Columns], seconds: float) -> None:
        self._explain, self._seconds = explain, seconds
        self.took_s: list[float] = []

    def __call__(self, batch: Columns) -> Columns:
        begun = time.perf_counter()
        while True:
            columns = self._explain(batch)
            took = time.perf_counter() - begun
            if took >= self._seconds:
                self.took_s.append(took)
                return columns


class Timed:
    """A model whose passes are timed."""

    def __init__(self, explain: Callable[[Columns], Columns]) -> None:
        self._explain = explain
        self.took_s: list[float] = []

    def __call__(self, batch: Columns) -> Columns:
        begun = time.perf_counter()
        columns = self._explain(batch)
        self.took_s.append(time.perf_counter() - begun)
        return columns


class Ages:
    """A viewer that looks at the ages of what it would show."""

    def __init__(self) -> None:
        self.newest: dict[str, float] = {}
        self.ages: list[float] = []
        self.n_shown = 0
        self._stop = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)

    def shown(self, explained: Explained) -> None:
        self.newest[explained.stream] = explained.newest_frame_s
        self.n_shown += 1

    def picture(self, picture: Picture) -> None:
        """Pictures are made, and nobody looks at them."""

    def status(self, status: StreamStatus) -> None:
        """As for pictures."""

    def _look(self) -> None:
        while not self._stop.wait(LOOK_S):
            now = time.monotonic()
            self.ages += [now - newest for newest in tuple(self.newest.values())]

    def __enter__(self) -> "Ages":
        self._looking.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._looking.join()


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def played(
    explain: Callable[[Columns], Columns],
    checkpoint: Checkpoint,
    sampling: Sampling,
    files: list[Path],
    *,
    hop_s: float,
    seconds: float,
) -> dict[str, Any]:
    """Play files through an engine for a while."""
    plan = WindowPlan(
        sampling,
        checkpoint.preprocessing,
        checkpoint.geometry.input_size,
        window_of(sampling, None),
        hop_s,
    )
    sources = [Source(f"s{number}", str(path)) for number, path in enumerate(files)]
    memory: list[float] = []
    timed = Timed(explain)
    cpu_s, begun = time.process_time(), time.monotonic()
    with Ages() as ages:
        engine = Engine(
            sources,
            plan,
            timed,
            checkpoint.class_names,
            viewers=[ages],
            settings=Settings(batch_size=len(files)),
        )
        running = threading.Thread(target=engine.run, daemon=True)
        running.start()
        end = time.monotonic() + seconds + plan.window_s
        while running.is_alive() and time.monotonic() < end:
            # Between two looks at its memory.
            time.sleep(0.5)
            memory.append(resident_mb())
        # Before the end is told: after it nothing new comes, and ages grow.
        sampled = np.array(ages.ages)
        states = engine.states()
        cpus = (time.process_time() - cpu_s) / (time.monotonic() - begun)
        engine.stop()
        running.join()
    third = len(memory) // 3
    return {
        "hop_s": round(hop_s, 4),
        "window_s": round(plan.window_s, 3),
        "age_p50_s": round(float(np.quantile(sampled, 0.5)), 4),
        "age_p99_s": round(float(np.quantile(sampled, 0.99)), 4),
        "age_max_s": round(float(sampled.max()), 4),
        "batch_in_run_p50_s": round(float(np.median(timed.took_s)), 4),
        "batch_in_run_max_s": round(float(max(timed.took_s)), 4),
        "cpus_used": round(cpus, 2),
        "load": round(os.getloadavg()[0], 1),
        "windows": sum(status.windows for status in states),
        "skipped": sum(status.skipped for status in states),
        "memory_mb": round(float(np.mean(memory[third : 2 * third] or memory)), 1),
        "memory_growth_mb": round(
            float(np.mean(memory[2 * third :]) - np.mean(memory[third : 2 * third] or memory)), 1
        ),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--stride", type=int, default=4, help="frames between two of the model's")
    parser.add_argument("--sources", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--soak", help="how long to watch a job, for example 60min")
    arguments = parser.parse_args()
    if arguments.soak:
        from tests.benchmarks.live_soak import soak

        with tempfile.TemporaryDirectory() as folder:
            seconds = TypeAdapter(Seconds).validate_python(arguments.soak)
            print(json.dumps(soak(Path(folder), seconds).figures(), indent=2))
        return
    checkpoint = read_checkpoint(arguments.model)
    explain = Attributor(
        checkpoint,
        Method(name="staa-paper"),
        layout_of(checkpoint),
        device=device_of("auto"),
        precision="float32",
        n_threads=arguments.threads,
    )
    sampling = Sampling(
        "strided", checkpoint.geometry.n_frames, stride=arguments.stride, clock="time"
    )
    longest = arguments.seconds + 30
    result: dict[str, Any] = {
        "model": arguments.model,
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "threads": arguments.threads,
    }
    with tempfile.TemporaryDirectory() as folder:
        files = [
            write_stream(Path(folder) / f"{number}.mp4", longest, number)
            for number in range(max([*arguments.sources, 1]))
        ]
        for n_sources in arguments.sources:
            forward = forward_s(explain, checkpoint, n_sources)
            hop = max(1.2 * forward, 0.2)
            told = played(
                explain,
                checkpoint,
                sampling,
                files[:n_sources],
                hop_s=hop,
                seconds=arguments.seconds,
            )
            bound = hop / 2 + forward + ALLOWANCE_S
            result[f"sources_{n_sources}"] = told | {
                "forward_s": round(forward, 4),
                "bound_p50_s": round(bound, 4),
                "bound_p99_s": round(2 * bound, 4),
                "holds": told["age_p50_s"] <= bound and told["age_p99_s"] <= 2 * bound,
            }
            print(n_sources, "sources", result[f"sources_{n_sources}"], file=sys.stderr)
        if arguments.slow:
            hop = max(1.2 * forward_s(explain, checkpoint, 1), 0.2)
            slowed = Slowed(explain, SLOWDOWN * hop)
            seconds = arguments.seconds
            told = played(slowed, checkpoint, sampling, files[:1], hop_s=hop, seconds=seconds)
            forward = float(np.median(slowed.took_s))
            bound = 2 * forward + hop
            result["slow"] = told | {
                "forward_s": round(forward, 4),
                "bound_s": round(bound, 4),
                "holds": told["age_p99_s"] <= bound,
            }
            print("slow", result["slow"], file=sys.stderr)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
