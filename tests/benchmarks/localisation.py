"""What ``jobs.evaluate --ground-truth`` costs: ``python -m tests.benchmarks.localisation``.

Writes a run of random attributions and a truth of random boxes, on 8 x 14 x 14 patches, and has the
job measure it in one process and on Ray. Prints seconds on the clock, the most memory of the job's
own process, and the ratio of the two times. What the memory grows by with rows doesn't hang on the
patches: with `--patches 2 2 2 --in-one-process` a million rows take minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.store.ground_truth import Truth, write_ground_truth
from pipeline.store.schema import StoreLayout
from tests.analysis.stores import random_columns, write_run

_PATCHES = (8, 14, 14)
_MEASURED = """
import re, sys
from pathlib import Path
from jobs.evaluate import EvaluateConfig, evaluate
from jobs.cli import run_job
code = run_job(EvaluateConfig, evaluate, verb="evaluate", keeps=True, argv=sys.argv[2:])
status = Path("/proc/self/status").read_text()
Path(sys.argv[1]).write_text(re.search(r"VmHWM:\\s*(\\d+)", status)[1])
sys.exit(code)
"""
"""The job, which tells its own memory: in `getrusage` is what its parent had, too."""


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="localisation-") as folder:
        print(json.dumps(measure(arguments, Path(folder)), indent=1))


def measure(arguments: argparse.Namespace, folder: Path) -> dict:
    n_rows, rng = arguments.rows, np.random.default_rng(arguments.seed)
    grid = times, height, width = tuple(arguments.patches)
    layout = StoreLayout(
        n_rows, arguments.rows_per_shard, n_frames=times, n_times=times, height=height, width=width,
        n_ranks=2,
    )  # fmt: skip
    run = write_run(folder / "run", layout, random_columns(layout, arguments.seed))
    ids = np.array([f"clip{row}" for row in range(n_rows)], object)
    url = str(folder / "ground_truth.zarr")
    write_ground_truth(url, ("actor",), ids, grid, boxes(n_rows, grid, rng), {})
    found: dict = {"rows": n_rows, "rows_per_shard": arguments.rows_per_shard, "patches": grid}
    ways = {"in one process": ["--serial"], "on Ray": []}
    if arguments.in_one_process:
        del ways["on Ray"]
    for name, flags in ways.items():
        found[name] = timed(folder, run, url, [f"--emd-clips={arguments.emd_clips}", *flags])
    if len(ways) > 1:
        found["clock, one process over Ray"] = round(
            found["in one process"]["clock_s"] / found["on Ray"]["clock_s"], 2
        )
    return found | {"load": os.getloadavg(), "cores": os.cpu_count()}


def boxes(
    n_rows: int, grid: tuple[int, ...], rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.int64], str, Truth]]:
    """Give a box of random place and size in each clip."""
    for start in range(0, n_rows, 1024):
        rows = np.arange(start, min(start + 1024, n_rows))
        covered = np.zeros((len(rows), *grid), np.float32)
        for clip in covered:
            top, left = (rng.integers(0, max(1, side - 4)) for side in grid[1:])
            clip[:, top : top + rng.integers(2, 6), left : left + rng.integers(2, 6)] = 1
        yield rows, "actor", Truth(covered, np.ones((len(rows), grid[0]), np.bool_))


def timed(folder: Path, run: str, url: str, flags: list[str]) -> dict[str, float]:
    told = folder / "memory_kb"
    started_s = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", _MEASURED, told, run, f"--ground-truth={url}", *flags],
        check=True,
        stdout=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )
    return {
        "clock_s": round(time.monotonic() - started_s, 1),
        "memory_mb": round(int(told.read_text()) / 1000),
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--rows", type=int, default=49_152, help="of less than 17,500 the job uses no Ray"
    )
    parser.add_argument("--rows-per-shard", type=int, default=4096)
    parser.add_argument(
        "--patches", type=int, nargs=3, default=_PATCHES, help="times, rows, columns"
    )
    parser.add_argument("--in-one-process", action="store_true", help="not on Ray")
    parser.add_argument("--emd-clips", type=int, default=0)
    parser.add_argument("--seed", type=int, default=int(time.strftime("%Y%m%d")))
    arguments = parser.parse_args()
    if arguments.rows < 17_500 and not arguments.in_one_process:
        parser.error("--rows: of less than 17,500 the job uses no Ray")
    return arguments


if __name__ == "__main__":
    main()
