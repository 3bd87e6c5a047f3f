"""What a run costs beside decoding and the model: ``python -m tests.benchmarks.orchestration``.

Manifest, plan, source, graph, sink and store are the real ones; decoding and the model are
stand-ins that cost next to nothing. The run is interrupted at the half as with Ctrl-C, and resumed.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from _thread import interrupt_main
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from pipeline.dataset.manifest import METADATA_KEYS, SCHEMA, write_manifest
from pipeline.execution.passes import execute
from pipeline.run.config import AttributeConfig
from pipeline.run.plan import Plan, plan_run
from pipeline.run.prepare import prepare
from pipeline.store.opening import open_store
from pipeline.store.pending import pending_rows
from pipeline.store.state import RunSummary
from tests.benchmarks.stand_ins import StandInStages

MODEL = "pipeline/synthetic/checkpoints/8-frames"
POLL_S = 1.0


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="orchestration-", dir=arguments.folder) as folder:
        figures = measure(arguments, Path(folder))
    text = json.dumps(figures, indent=1)
    if arguments.out:
        Path(arguments.out).write_text(text)
    samples = figures.pop("memory_mb")
    print(json.dumps(figures, indent=1))
    print("driver MB by rows done:", *(f"{mb}@{rows}" for rows, mb in thinned(samples, 20)))


def measure(arguments: argparse.Namespace, folder: Path) -> dict:
    figures: dict = {
        "rows": arguments.rows,
        "batch_size": arguments.batch_size,
        "rows_per_shard": arguments.rows_per_shard,
        "cpus": os.cpu_count(),
    }
    with timed(figures, "write_manifest_s"):
        write_stand_in_manifest(folder / "manifest.parquet", arguments.rows)
    config = AttributeConfig(
        manifest=str(folder / "manifest.parquet"),
        model=MODEL,
        out=str(folder / "run"),
        batch_size=arguments.batch_size,
        rows_per_shard=arguments.rows_per_shard,
        local_cpus=2,
    )
    with timed(figures, "plan_s"):
        plan = plan_run(config)
        prepare(plan)
    # Of its own, since the watch's thread counts what is there.
    watch = Watch(plan)
    stages = StandInStages(frame_pixels=arguments.frame_pixels)
    halves = []
    for name, stop_at in (("first", arguments.rows // 2), ("second", None)):
        if name == "second":
            with timed(figures, "plan_again_s"):
                plan = plan_run(config)
                prepare(plan)
        half = watch.run(plan, stages, stop_at)
        halves.append(half)
        figures[f"{name}_half"] = half
    figures["rows_per_s"] = round(
        sum(half["rows"] for half in halves) / sum(h["s"] for h in halves)
    )
    group = open_store(plan.store_url)
    with timed(figures, "pending_shards_s"):
        n_pending = len(pending_rows(group).shards)
    if n_pending:
        sys.exit(f"{n_pending} shards are pending")
    objects = [path for path in Path(plan.store_url).rglob("*") if path.is_file()]
    figures["objects"] = len(objects)
    figures["store_mb"] = round(sum(path.stat().st_size for path in objects) / 1e6)
    figures["memory_mb"] = watch.memory
    return figures


class Watch:
    """Looks at the store and at this process's memory while a run goes on."""

    def __init__(self, plan: Plan) -> None:
        self._statuses = Path(plan.store_url) / "status" / "c"
        self._rows_per_shard = plan.layout.rows_per_shard
        self.memory: list[tuple[int, int]] = []
        """Rows done and resident memory, MB."""

    def run(self, plan: Plan, stages: StandInStages, stop_at: int | None) -> dict:
        """Carry out a plan, and interrupt it when rows are done; times from its first shard."""
        before = self._rows()
        first: list[float] = []
        stop = threading.Event()

        def look() -> None:
            while not stop.wait(POLL_S if first else 0.05):
                rows = self._rows()
                if rows > before and not first:
                    first.append(time.monotonic())
                self.memory.append((rows, resident_mb()))
                if stop_at is not None and rows >= stop_at:
                    interrupt_main()
                    return

        follower = threading.Thread(target=look, daemon=True)
        started = time.monotonic()
        follower.start()
        try:
            summary: RunSummary | None = execute(plan, stages_of=stages)
        except KeyboardInterrupt:
            summary = None
        ended = time.monotonic()
        stop.set()
        follower.join()
        rows = self._rows() - before
        return {
            "rows": rows,
            "to_first_shard_s": round(first[0] - started, 2),
            "s": round(ended - first[0], 2),
            "rows_per_s": round(rows / (ended - first[0])),
            "complete": summary is not None and not summary.n_pending,
        }

    def _rows(self) -> int:
        """Rows whose shard has its commit mark."""
        try:
            return len(list(self._statuses.iterdir())) * self._rows_per_shard
        except FileNotFoundError:
            return 0


def write_stand_in_manifest(path: Path, n_rows: int) -> None:
    """Write a manifest of clips that aren't there, below a folder that is."""
    numbers = range(n_rows)
    columns = {
        "video_id": [f"video-{row:09d}" for row in numbers],
        "path": [f"{row % 400:03d}/video-{row:09d}.mp4" for row in numbers],
        "label": [None] * n_rows,
        "start_time": [0.0] * n_rows,
        "end_time": [10.0] * n_rows,
        "split": ["test"] * n_rows,
    }
    metadata = dict(zip(METADATA_KEYS, ("1", str(path.parent), "list"), strict=True))
    write_manifest(pa.table(columns, SCHEMA.with_metadata(metadata)), str(path))


@contextmanager
def timed(figures: dict, name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    figures[name] = round(time.monotonic() - started, 2)


def resident_mb() -> int:
    """Resident memory of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000


def thinned(samples: list, n: int) -> list:
    return samples[:: max(1, len(samples) // n)]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rows-per-shard", type=int, default=256)
    parser.add_argument("--frame-pixels", type=int, default=16)
    parser.add_argument("--folder", help="where the store is written; by default a temporary one")
    parser.add_argument("--out", help="JSON file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
