"""How much of a machine a run uses: ``python -m tests.benchmarks.efficiency``.

Efficiency is what the run does over what the cores could do: clips/s of the run, times the CPU
seconds that a clip takes to be decoded and explained, each measured alone on one thread, over the
cores. Whatever else a run needs (Ray, copies, writing, the driver) and every idle core counts
against it. The run's rate is counted from its first shard that is committed to its last.

Where others use the machine too, the cores aren't the run's. So the cores are given twice: all of
them, and those that others left, which are the CPU seconds of the run's own processes and those in
which a core was idle, over the time on the clock.

Cores that are all busy are slower than one that is alone: they share caches, memory and clock, and
two that are threads of one share everything. So a clip's CPU seconds are measured a second time, by
a process for each core at once. What these take more, no run could have back: a run that did
nothing but decode and explain would have an efficiency of ``could_be``.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from pipeline.clips.decode import Reading, read_views
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import write_manifest
from pipeline.execution.passes import execute
from pipeline.run.config import AttributeConfig
from pipeline.run.job import real_stages
from pipeline.run.plan import Plan, plan_run
from pipeline.run.prepare import prepare
from pipeline.run.tally import LocalChannel, Tally
from pipeline.status import Status
from pipeline.synthetic.config import SynthesizeConfig
from pipeline.synthetic.dataset import write_dataset
from tests.support.checkpoints import save_timesformer

SMALL = "pipeline/synthetic/checkpoints/8-frames"
BASE = {
    "image_size": 224,
    "patch_size": 16,
    "num_frames": 8,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
"""TimeSformer-B, whose weights are random here."""
N_FILES = 40
CLIPS = Path("../shared/clips")
_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="efficiency-") as folder:
        figures = measure(arguments, Path(folder))
    print(json.dumps(figures, indent=1))
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(figures, indent=1))


def measure(arguments: argparse.Namespace, folder: Path) -> dict:
    plan = planned(arguments, folder)
    decode_s, model_s = alone(plan, arguments.clips_alone)
    cores = os.cpu_count() or 1
    busy_decode_s, busy_model_s = all_at_once(plan, arguments.clips_alone, cores)
    could_be = (decode_s + model_s) / (busy_decode_s + busy_model_s)
    prepare(plan)
    with Meter() as meter:
        summary = execute(plan)
        ended = meter.now()
    if summary.n_failed or summary.n_pending:
        sys.exit(f"not every clip is ok: {summary}")
    # A shard's commit mark is an object of its own, written last.
    statuses = Path(plan.store_url) / "status" / "c"
    marks = sorted(path.stat().st_mtime for path in statuses.iterdir())
    n_counted = arguments.clips - plan.sizes.rows_per_shard
    first, last = meter.at(marks[0]), meter.at(marks[-1])
    needed_s = n_counted * (decode_s + model_s)
    to_first = first.minus(meter.samples[0])
    counted = last.minus(first)
    return {
        "model": "TimeSformer-B" if arguments.model == "base" else arguments.model,
        "clips": arguments.clips,
        "sizes": vars(plan.sizes),
        "cores": cores,
        "load": os.getloadavg(),
        "decode_cpu_s_per_clip": round(decode_s, 4),
        "model_cpu_s_per_clip": round(model_s, 4),
        "decode_cpu_s_per_clip_all_at_once": round(busy_decode_s, 4),
        "model_cpu_s_per_clip_all_at_once": round(busy_model_s, 4),
        "run_clips_per_s": round(n_counted / counted.clock_s, 2),
        "efficiency": round(needed_s / (counted.clock_s * cores), 3),
        "could_be": round(could_be, 3),
        "efficiency_over_could_be": round(needed_s / (counted.clock_s * cores) / could_be, 3),
        "cores_that_others_left": round(counted.left_s / counted.clock_s, 2),
        "efficiency_of_these": round(needed_s / counted.left_s, 3),
        "run_cpu_s_per_clip": round(counted.own_s / n_counted, 4),
        "first_shard_s": round(to_first.clock_s, 1),
        "first_shard_cpu_s": round(to_first.own_s, 1),
        "first_shard_cores_left": round(to_first.left_s / to_first.clock_s, 2),
        "end_s": round(ended.minus(meter.samples[0]).clock_s, 1),
        "bounded": summary.bounded,
    }


def planned(arguments: argparse.Namespace, folder: Path) -> Plan:
    """Plan a run over clips that can be decoded, in turn."""
    clips = CLIPS
    if arguments.synthetic or not CLIPS.is_dir():
        for _ in write_dataset(SynthesizeConfig(out=str(folder / "made"), n_clips=N_FILES)):
            pass
        clips = folder / "made" / "clips"
    model = SMALL if arguments.model == "small" else str(save_timesformer(folder / "model", **BASE))
    url = str(folder / "manifest.parquet")
    config = AttributeConfig(
        manifest=url,
        model=model,
        out=str(folder / "run"),
        sampling={"kind": "uniform"},
        rows_per_shard=arguments.rows_per_shard,
        device="cpu",
    )
    table = build_manifest(layout="files", clips=str(clips))
    write_manifest(table, url)
    good = [row for row, status in enumerate(statuses_of(plan_run(config))) if status == Status.OK]
    rows = [good[row % len(good)] for row in range(arguments.clips)]
    write_manifest(table.take(pa.array(rows)), url)
    return plan_run(config)


def statuses_of(plan: Plan) -> list[int]:
    stages = real_stages(plan, "cpu", LocalChannel(Tally(1)))
    return stages.load(columns(plan, range(plan.manifest.n_rows)))["status"].tolist()


def columns(plan: Plan, rows: range) -> dict:
    table = plan.manifest.rows(rows.start, rows.stop)
    return {name: table[name].to_numpy() for name in table.column_names} | {"row": np.asarray(rows)}


def alone(plan: Plan, n_clips: int) -> tuple[float, float]:
    """CPU s of a clip to be decoded, and to be explained, in this process and one thread."""
    torch.set_num_threads(1)
    decode_s = decoding_s(plan, n_clips)
    stages = real_stages(plan, "cpu", LocalChannel(Tally(1)))
    size = plan.sizes.batch_size
    batches = [columns(plan, range(start, start + size)) for start in range(0, n_clips, size)]
    attributor = stages.attribute(**stages.attribute_arguments)
    loaded = [stages.load(batch) for batch in batches[: max(1, len(batches) // 4)]]
    attributor(loaded[0])
    started_s = time.process_time()
    for batch in loaded:
        attributor(batch)
    return decode_s, (time.process_time() - started_s) / (len(loaded) * size)


def decoding_s(plan: Plan, n_clips: int) -> float:
    """CPU s of a clip to be decoded, in this thread."""
    clips, decode_s = columns(plan, range(n_clips)), 0.0
    for row, path in zip(clips["row"], clips["path"], strict=True):
        data = Path(plan.manifest.root.removeprefix("file://"), path).read_bytes()
        view = plan.views.of(int(row))
        readings = [Reading(view.sampling, view.preprocessing)]
        started_s = time.process_time()
        read_views(data, readings, plan.config.decoder)
        decode_s += time.process_time() - started_s
    return decode_s / n_clips


def all_at_once(plan: Plan, n_clips: int, cores: int) -> tuple[float, float]:
    """What `alone` gives, in a process for each core at the same time: their mean."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        cores, context, initializer=_wait_for_others, initargs=(context.Barrier(cores),)
    ) as pool:
        each = list(pool.map(alone, [plan] * cores, [n_clips] * cores))
    decode_s, model_s = np.mean(each, axis=0).tolist()
    return decode_s, model_s


def _wait_for_others(barrier: Barrier) -> None:
    barrier.wait()


@dataclass(frozen=True)
class Sample:
    """Seconds until a moment, or between two."""

    clock_s: float
    own_s: float
    """CPU s of this process and all below it."""
    busy_s: float
    """CPU s of the whole machine."""
    idle_s: float

    def minus(self, other: "Sample") -> "Sample":
        return Sample(
            *(a - b for a, b in zip(vars(self).values(), vars(other).values(), strict=True))
        )

    @property
    def left_s(self) -> float:
        """CPU s that others left."""
        return self.own_s + self.idle_s


class Meter:
    """Looks at the CPU seconds of this process's tree, and of the machine, twice a second."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._stop = threading.Event()
        self._seen: dict[int, float] = {}
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Meter":
        self.samples.append(self.now())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def at(self, clock_s: float) -> Sample:
        """The sample next to a moment."""
        return min(self.samples, key=lambda sample: abs(sample.clock_s - clock_s))

    def now(self) -> Sample:
        busy_s, idle_s = machine_s()
        return Sample(time.time(), self._tree_s(), busy_s, idle_s)

    def _follow(self) -> None:
        while not self._stop.wait(0.5):
            self.samples.append(self.now())

    def _tree_s(self) -> float:
        """CPU s of all processes of the tree, those included that have ended in between."""
        parents, seconds = {}, {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            pid = int(folder.name)
            parents[pid] = int(fields[1])
            seconds[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
        ours = {os.getpid()}
        while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
            ours |= more
        # Ray's processes may outlive the one that started them.
        ours |= {pid for pid in self._seen if pid in seconds}
        self._seen |= {pid: seconds[pid] for pid in ours if pid in seconds}
        return sum(self._seen.values())


def machine_s() -> tuple[float, float]:
    """CPU s in which the machine was busy, and idle or waiting for a disk."""
    fields = [int(field) / _TICKS for field in Path("/proc/stat").read_text().split()[1:9]]
    idle_s = fields[3] + fields[4]
    return sum(fields) - idle_s, idle_s


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", choices=["small", "base"], default="small")
    parser.add_argument("--clips", type=int, default=1024)
    parser.add_argument("--clips-alone", type=int, default=64)
    parser.add_argument("--rows-per-shard", type=int, default=64)
    parser.add_argument("--synthetic", action="store_true", help="made clips, not ../shared/clips")
    parser.add_argument("--out", help="JSON file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
