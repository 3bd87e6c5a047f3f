"""Cost of a pass over a run: CPU over that of one read, memory, tasks, and growth with the clips.

``python -m tests.benchmarks.fused_pass --clips 24000 --folder runs/fused-pass`` simulates a run of
Kinetics' shape (8 x 14 x 14, 400 classes; the attributions are drawn, not computed), and measures
in a process of its own each: a read of the arrays that the pass reads, with decompression, by Zarr
alone in one thread; the same read by Dask, in the same blocks and on the same two threads as the
pass, and then the pass, which gives scores and sums by label and by prediction; and the writing of
the table. Threads that share a core's caches take more CPU time than one alone, so the pass is
compared with the read of its own process first. With ``--compare N`` the pass runs over N clips,
too, for the growth.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.store.create import create_store
from pipeline.store.run_folder import store_url
from pipeline.store.schema import StoreLayout
from pipeline.store.shards import write_shard
from tests.analysis.stores import random_columns
from tests.support.records import record_of

N_CLASSES = 400
ROWS_PER_SHARD = 256


def layout_of(n_rows: int) -> StoreLayout:
    return StoreLayout(
        n_rows=n_rows,
        rows_per_shard=ROWS_PER_SHARD,
        n_frames=8,
        n_times=8,
        height=14,
        width=14,
        n_ranks=5,
    )


def simulate(url: str, n_rows: int) -> None:
    """Write a simulated run, shard by shard: most clips are right, errors fall anywhere."""
    layout = layout_of(n_rows)
    names = tuple(f"simulated {index}" for index in range(N_CLASSES))
    store = create_store(store_url(url), record_of(layout, class_names=names))
    for shard in range(layout.n_shards):
        rows = np.asarray(layout.shard_rows(shard))
        rng = np.random.default_rng(shard)
        label = rng.integers(0, N_CLASSES, len(rows)).astype(np.int32)
        wrong = rng.integers(0, N_CLASSES, len(rows)).astype(np.int32)
        columns = random_columns(
            layout_of(len(rows)),
            seed=shard,
            n_classes=N_CLASSES,
            label=label,
            prediction=np.where(rng.random(len(rows)) < 0.8, label, wrong).astype(np.int32),
            video_id=np.array([f"sim{row}" for row in rows], object),
        )
        write_shard(store, columns, rows)


READ = (
    *("spatial", "temporal", "status", "label", "prediction", "probability"),
    *("label_probability", "top_probabilities", "frame_index"),
)
"""What the pass reads."""


def read(url: str) -> dict[str, float]:
    """CPU of reading what the pass reads, and of S and T alone."""
    from analysis import open_run

    ds = open_run(url)
    step = ds["spatial"].data.chunks[0][0]
    import zarr

    group = zarr.open_group(store_url(url), mode="r")
    seconds = {}
    for key, chosen in (("maps", READ[:2]), ("all", READ), ("maps again", READ[:2])):
        arrays = [group[name] for name in chosen]
        for array in arrays:
            array[:step]
        start = time.process_time()
        for row in range(0, ds.sizes["clip"], step):
            for array in arrays:
                array[row : row + step]
        seconds[f"read {key} s"] = time.process_time() - start
    return seconds


def reads_by_dask(ds: Any) -> list[Any]:
    """Make a task for each block, which reads it and does nothing with it."""
    from dask.delayed import delayed

    count = delayed(lambda *arrays: len(arrays[0]), pure=False)
    arrays = [ds[name].data for name in READ]
    return [
        count(*(array.blocks[(block, *[0] * (array.ndim - 1))] for array in arrays))
        for block in range(arrays[0].numblocks[0])
    ]


def reduce(url: str) -> dict[str, float]:
    """CPU of the same read by Dask, and of the pass."""
    import dask

    from analysis import open_run
    from analysis.reduction import block_tasks, tree
    from analysis.score_table import STANDARD

    ds = open_run(url)
    first = ds.isel(clip=slice(2048))
    # What a process does once, such as importing codecs, belongs to no clip.
    dask.compute(tree(block_tasks(first, STANDARD, keep_scores=True)), scheduler="threads")
    reads = reads_by_dask(ds)
    total = tree(block_tasks(ds, STANDARD, keep_scores=True))
    seconds = {}
    for key, wanted in (("read by Dask", reads), ("pass", [total])):
        start = time.process_time()
        dask.compute(*wanted, scheduler="threads", num_workers=2)
        seconds[f"{key} s"] = time.process_time() - start
    return {
        **seconds,
        "tasks": len(total.__dask_graph__()),
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def table(url: str) -> dict[str, float]:
    """CPU of all of it, with the maps and the table written."""
    from analysis import score_run

    start = time.process_time()
    score_run(url)
    return {
        "score_run s": time.process_time() - start,
        "peak with table MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=24_000)
    parser.add_argument("--compare", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--measure", choices=["read", "reduce", "table"])
    arguments = parser.parse_args()
    if arguments.measure:
        measured = {"read": read, "reduce": reduce, "table": table}[arguments.measure]
        print(json.dumps(measured(str(arguments.folder))))
        return
    for n_rows in filter(None, (arguments.clips, arguments.compare)):
        folder = arguments.folder / str(n_rows)
        if not folder.exists():
            simulate(str(folder), n_rows)
        turns = []
        for _ in range(arguments.turns):
            turn: dict[str, float] = {}
            for measure in ("read", "reduce", "table"):
                command = [sys.executable, "-m", "tests.benchmarks.fused_pass"]
                command += ["--folder", str(folder), "--measure", measure]
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                done = subprocess.run(
                    command, check=True, capture_output=True, text=True, env=environment
                )
                turn |= json.loads(done.stdout)
            turns.append(turn)
        median = {name: float(np.median([turn[name] for turn in turns])) for name in turns[0]}
        print(f"{n_rows} simulated clips, medians of {arguments.turns} turns:")
        for name, value in median.items():
            print(f"  {name:<22}{value:10.2f}")
        for of, what in (
            ("read by Dask s", "the same read by Dask on the same threads"),
            ("read all s", "a read of what it reads by Zarr in one thread"),
            ("read maps s", "a read of S and T alone by Zarr in one thread"),
        ):
            ratios = sorted(turn["pass s"] / turn[of] for turn in turns)
            each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"  pass / {what}: {np.median(ratios):.2f} ({each})")


if __name__ == "__main__":
    main()
