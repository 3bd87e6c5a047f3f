"""What planning a run of many rows costs: ``python -m tests.benchmarks.planning``.

Writes a manifest of clips that aren't there, and plans and prepares its run twice, each time in a
process of its own: a new run, and one that goes on. Prints seconds on the clock, from the start of
Python and from the start of planning, seconds of CPU, and the most memory of the process. A run of
few rows says what the libraries take.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.orchestration import MODEL

_WRITTEN = """
import sys
from pathlib import Path
from tests.benchmarks.orchestration import write_stand_in_manifest
write_stand_in_manifest(Path(sys.argv[1]), int(sys.argv[2]))
"""
_PLANNED = """
import json, re, sys, time
from pathlib import Path
from pipeline.run.config import AttributeConfig
from pipeline.run.plan import plan_run
from pipeline.run.prepare import prepare
from pipeline.store.opening import open_store
from pipeline.store.pending import pending_rows
manifest, out, model = sys.argv[1:]
started = time.monotonic()
plan = plan_run(AttributeConfig(manifest=manifest, out=out, model=model))
planned = time.monotonic()
prepare(plan)
n_pending = pending_rows(open_store(plan.store_url)).n_rows
ended = time.monotonic()
peak = re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]
told = {
    "plan_s": planned - started,
    "prepare_s": ended - planned,
    "cpu_s": time.process_time(),
    "peak_mb": int(peak) * 1024 / 1e6,
}
print(json.dumps({name: round(value, 1) for name, value in told.items()} | {"pending": n_pending}))
"""
"""Planning, which tells its own memory: in `getrusage` is what its parent had, too."""


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="planning-", dir=arguments.folder) as folder:
        figures: dict = {
            n_rows: planned(Path(folder), n_rows) for n_rows in (arguments.few, arguments.rows)
        }
    print(json.dumps(figures | {"load": os.getloadavg(), "cores": os.cpu_count()}, indent=1))


def planned(folder: Path, n_rows: int) -> dict:
    """Plan a run of some rows, twice."""
    manifest, out = folder / f"{n_rows}.parquet", folder / f"{n_rows}"
    subprocess.run([sys.executable, "-c", _WRITTEN, str(manifest), str(n_rows)], check=True)
    found: dict = {"manifest_mb": round(manifest.stat().st_size / 1e6, 1)}
    for which in ("new", "resumed"):
        started = time.monotonic()
        process = subprocess.run(
            [sys.executable, "-c", _PLANNED, str(manifest), str(out), MODEL],
            check=True,
            capture_output=True,
        )
        found[which] = {
            "clock_s": round(time.monotonic() - started, 1),
            **json.loads(process.stdout),
        }
    return found


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--few", type=int, default=1_000)
    parser.add_argument("--folder", help="of manifest and store; by default a temporary one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
