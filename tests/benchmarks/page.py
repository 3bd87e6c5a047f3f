"""Time, size and first paint of the page at the scale of Kinetics, on a simulated run.

``python -m tests.benchmarks.page --clips 240000 --folder runs/page`` simulates a run (8 x 14 x 14,
400 classes; the attributions are drawn, not computed), scores it once, and then measures in a
process of its own with one thread: writing the page, from scores and statistics that are there, as
`jobs.aggregate` has them. Prints its CPU time, its memory, the bytes that a browser reads before
the first paint and afterwards, and, with a Chromium, the time to the first paint and to the charts.
The simulated clips have no files, so no frames are read.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.fused_pass import simulate


def prepare(run: str) -> None:
    """Score the run and keep its statistics, as `jobs.aggregate` does."""
    from analysis import class_statistics, open_run, save_statistics, scores

    scores(run)
    save_statistics(class_statistics(open_run(run)), run)


def write(run: str) -> dict[str, float]:
    """CPU, time and memory of writing the page."""
    from analysis import write_report
    from analysis.page.charts import chart_script

    begun, cpu = time.monotonic(), time.process_time()
    calls = []
    url = write_report(run, progress=lambda done, total: calls.append((done, total)))
    measured = {
        "page s": time.monotonic() - begun,
        "page CPU s": time.process_time() - cpu,
        "reports of progress": len(calls),
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    folder = Path(url).parent
    first = [*folder.glob("*.js"), *folder.glob("*.css"), Path(url), folder / "data/overview.js"]
    before = [path for path in first if path.name != "charts.js"]
    return measured | {
        "before the first paint kB": sum(path.stat().st_size for path in before) / 1e3,
        "charts kB": len(chart_script()) / 1e3,
        "all files MB": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6,
        "largest script of data kB": max(p.stat().st_size for p in folder.glob("data/*")) / 1e3,
    }


def browse(run: str) -> dict[str, float]:
    """Seconds to the first paint, to the heading, and to the chart of all classes."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        return {}
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        page = browser.new_page()
        begun = time.monotonic()
        page.goto(f"file://{Path(run).resolve()}/report/index.html")
        page.wait_for_selector("main h1")
        heading = time.monotonic() - begun
        page.wait_for_selector(".scatter canvas")
        chart = time.monotonic() - begun
        paint = page.evaluate(
            "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1"
        )
        browser.close()
    return {"first paint s": paint / 1e3, "heading s": heading, "chart s": chart}


STEPS = {"prepare": prepare, "write": write, "browse": browse}


def main() -> None:
    """Simulate, prepare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=240_000)
    parser.add_argument("--folder", type=Path, default=Path("runs/page"))
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    run = str(arguments.folder)
    if arguments.step:
        print(json.dumps(STEPS[arguments.step](run) or {}))
        return
    if not (arguments.folder / "attributions.zarr").exists():
        simulate(run, arguments.clips)
    print(f"simulated: {arguments.clips} clips of 400 classes")
    for step in STEPS:
        command = [sys.executable, "-m", "tests.benchmarks.page", f"--folder={run}"]
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "DASK_NUM_WORKERS": "1"}
        if step == "prepare" and (arguments.folder / "scores.parquet").exists():
            continue
        done = subprocess.run(
            [*command, f"--step={step}"],
            env={**os.environ, **one_thread},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        for name, value in json.loads(done.stdout.splitlines()[-1]).items():
            print(f"{name}: {value:.2f}")


if __name__ == "__main__":
    main()
