"""How much of a machine a run uses: ``python -m tests.benchmarks.efficiency``.

Efficiency is what the run does over what the cores could do: clips/s of the run, times the CPU
seconds that a clip takes to be decoded and explained, each measured alone on one thread, over the
cores. Whatever else a run needs (Ray, copies, writing, the driver) and every idle core counts
against it. It is counted from the run's first shard that is committed to its last: clips that are
decoded and explained in this time, each noted when it is, since some of the second shard's are by
the time at which the first is committed.

A machine's speed may drift by a third within minutes. So a clip is measured before the run and
after it. The means count, and ``alone`` and ``all_at_once`` give both: the CPU seconds of decoding
and of the model. ``drift`` is the larger sum over the smaller.

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
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.clips.columns import Columns
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import write_manifest
from pipeline.execution.passes import execute
from pipeline.models.attributor import Attributor
from pipeline.run.config import AttributeConfig
from pipeline.run.job import real_stages
from pipeline.run.plan import Plan, plan_run
from pipeline.run.prepare import prepare
from pipeline.run.steps import Stages
from pipeline.run.tally import Channel, LocalChannel, Tally
from pipeline.status import Status
from pipeline.synthetic.config import SynthesizeConfig
from pipeline.synthetic.dataset import write_dataset
from tests.benchmarks.clip_costs import Costs, columns, drift, whole_turns
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
    cores = os.cpu_count() or 1
    n_clips = whole_turns(plan, arguments.clips_alone)
    prepare(plan)
    before = Costs.measured(plan, n_clips, cores)
    notes = Notes(folder)
    with Meter() as meter:
        summary = execute(plan, stages_of=partial(noting_stages, notes=notes))
        ended = meter.now()
    if summary.n_failed or summary.n_pending:
        sys.exit(f"not every clip is ok: {summary}")
    after = Costs.measured(plan, n_clips, cores)
    # A shard's commit mark is an object of its own, written last.
    statuses = Path(plan.store_url) / "status" / "c"
    marks = sorted(path.stat().st_mtime for path in statuses.iterdir())
    first, last = meter.at(marks[0]), meter.at(marks[-1])
    n_decoded, n_explained = (
        notes.between(stage, first.clock_s, last.clock_s) for stage in ("decoded", "explained")
    )
    mean = Costs.mean(before, after)
    needed_s, needed_before_s, needed_after_s = (
        n_decoded * costs.alone.decode_s + n_explained * costs.alone.model_s
        for costs in (mean, before, after)
    )
    could_be = mean.alone.both_s / mean.all_at_once.both_s
    to_first = first.minus(meter.samples[0])
    counted = last.minus(first)
    efficiency = needed_s / (counted.clock_s * cores)
    return {
        "model": "TimeSformer-B" if arguments.model == "base" else arguments.model,
        "clips": arguments.clips,
        "sizes": vars(plan.sizes),
        "cores": cores,
        "load": os.getloadavg(),
        "alone": {"before": before.alone.rounded, "after": after.alone.rounded},
        "all_at_once": {"before": before.all_at_once.rounded, "after": after.all_at_once.rounded},
        "drift": {
            "alone": round(drift(before.alone, after.alone), 3),
            "all_at_once": round(drift(before.all_at_once, after.all_at_once), 3),
        },
        "decode_cpu_s_per_clip": round(mean.alone.decode_s, 4),
        "model_cpu_s_per_clip": round(mean.alone.model_s, 4),
        "clips_decoded_and_explained": [n_decoded, n_explained],
        "run_clips_per_s": round(n_explained / counted.clock_s, 2),
        "efficiency": round(efficiency, 3),
        "efficiency_by_before_and_after": [
            round(needed / (counted.clock_s * cores), 3)
            for needed in (needed_before_s, needed_after_s)
        ],
        "could_be": round(could_be, 3),
        "efficiency_over_could_be": round(efficiency / could_be, 3),
        "cores_that_others_left": round(counted.left_s / counted.clock_s, 2),
        "efficiency_of_these": round(needed_s / counted.left_s, 3),
        "run_cpu_s": round(counted.own_s, 2),
        "run_cpu_s_over_needed": round(counted.own_s / needed_s, 3),
        "run_cpu_s_over_needed_all_at_once": round(counted.own_s * could_be / needed_s, 3),
        "first_shard_s": round(to_first.clock_s, 1),
        "first_shard_cpu_s": round(to_first.own_s, 1),
        "first_shard_cores_left": round(to_first.left_s / to_first.clock_s, 2),
        "end_s": round(ended.minus(meter.samples[0]).clock_s, 1),
        "bounded": summary.bounded,
    }


@dataclass(frozen=True)
class Notes:
    """When each clip was decoded and explained: a file of times for each process."""

    folder: Path

    def take(self, stage: str, n_clips: int = 1) -> None:
        with (self.folder / f"{stage}-{os.getpid()}").open("ab") as file:
            file.write(np.full(n_clips, time.time()).tobytes())

    def between(self, stage: str, start_s: float, end_s: float) -> int:
        """Clips of a stage from one moment to another."""
        files = self.folder.glob(f"{stage}-*")
        times = np.concatenate([np.fromfile(file, np.float64) for file in files])
        return int(((times > start_s) & (times <= end_s)).sum())


@dataclass(frozen=True)
class Decoded:
    """What the loader tells of each clip that is decoded."""

    notes: Notes
    channel: Channel

    def __call__(self, row: int) -> None:
        self.notes.take("decoded")
        self.channel.decoded(row)


class NotingAttributor(Attributor):
    """Notes when clips are explained."""

    def __init__(self, *, notes: Notes, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._notes = notes

    def __call__(self, batch: Columns) -> Columns:
        columns = super().__call__(batch)
        self._notes.take("explained", len(batch["row"]))
        return columns


def noting_stages(plan: Plan, device: str, channel: Channel, *, notes: Notes) -> Stages:
    """Stages of a real run, which note when each clip is done."""
    stages = real_stages(plan, device, channel)
    return replace(
        stages,
        load=replace(stages.load, on_clip=Decoded(notes, channel)),
        attribute=NotingAttributor,
        attribute_arguments={**stages.attribute_arguments, "notes": notes},
    )


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
    parser.add_argument("--clips", type=int, default=2048)
    parser.add_argument("--clips-alone", type=int, default=64)
    parser.add_argument("--rows-per-shard", type=int, help="by default the product's own")
    parser.add_argument("--synthetic", action="store_true", help="made clips, not ../shared/clips")
    parser.add_argument("--out", help="JSON file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
