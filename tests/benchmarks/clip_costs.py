"""What a clip costs to be decoded and to be explained, in CPU seconds, beside no run.

Cores that are all busy are slower than one that is alone, so a clip is measured in one process, and
in one for each core at the same time.
"""

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import torch

from pipeline.clips.decode import Reading, read_views
from pipeline.run.job import real_stages
from pipeline.run.plan import Plan
from pipeline.run.tally import LocalChannel, Tally


@dataclass(frozen=True)
class Cost:
    """CPU s of a clip."""

    decode_s: float
    model_s: float

    @property
    def both_s(self) -> float:
        return self.decode_s + self.model_s

    @property
    def rounded(self) -> list[float]:
        return [round(self.decode_s, 4), round(self.model_s, 4)]

    @classmethod
    def mean(cls, costs: Sequence["Cost"]) -> "Cost":
        return cls(
            float(np.mean([cost.decode_s for cost in costs])),
            float(np.mean([cost.model_s for cost in costs])),
        )


@dataclass(frozen=True)
class Costs:
    """What a clip costs one process alone, and a process on each core."""

    alone: Cost
    all_at_once: Cost

    @classmethod
    def measured(cls, plan: Plan, n_clips: int, cores: int) -> "Costs":
        # In a process of its own: with what this one has in memory, another run would begin.
        return cls(at_once(plan, n_clips, 1), at_once(plan, n_clips, cores))

    @classmethod
    def mean(cls, *each: "Costs") -> "Costs":
        alone, all_at_once = ([vars(c)[name] for c in each] for name in ("alone", "all_at_once"))
        return cls(Cost.mean(alone), Cost.mean(all_at_once))


def drift(before: Cost, after: Cost) -> float:
    """How much more a clip took in the slower of two measurements."""
    low, high = sorted((before.both_s, after.both_s))
    return high / low


def columns(plan: Plan, rows: range) -> dict:
    table = plan.manifest.rows(rows.start, rows.stop)
    return {name: table[name].to_numpy() for name in table.column_names} | {"row": np.asarray(rows)}


def whole_turns(plan: Plan, n_clips: int) -> int:
    """So many clips or more, each file as often as any other: some cost many times others."""
    n_files = len(set(columns(plan, range(plan.manifest.n_rows))["path"]))
    return -(-n_clips // n_files) * n_files


def alone(plan: Plan, n_clips: int) -> Cost:
    """What a clip costs in this process and one thread."""
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
    return Cost(decode_s, (time.process_time() - started_s) / (len(loaded) * size))


def decoding_s(plan: Plan, n_clips: int) -> float:
    """CPU s of a clip to be decoded, in this thread."""
    clips, decode_s = columns(plan, range(n_clips)), 0.0
    for turn, number in enumerate([0, *range(n_clips)]):
        path = Path(plan.manifest.root.removeprefix("file://"), clips["path"][number])
        data, view = path.read_bytes(), plan.views.of(int(clips["row"][number]))
        readings = [Reading(view.sampling, view.preprocessing)]
        started_s = time.process_time()
        read_views(data, readings, plan.config.decoder)
        # The first turn doesn't count: it loads the decoder's libraries.
        decode_s += (time.process_time() - started_s) * bool(turn)
    return decode_s / n_clips


def at_once(plan: Plan, n_clips: int, n_processes: int) -> Cost:
    """What `alone` gives, in so many processes at the same time: their mean."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(n_processes)
    with ProcessPoolExecutor(
        n_processes, context, initializer=_wait_for_others, initargs=(barrier,)
    ) as pool:
        return Cost.mean(list(pool.map(alone, [plan] * n_processes, [n_clips] * n_processes)))


def _wait_for_others(barrier: Barrier) -> None:
    barrier.wait()
