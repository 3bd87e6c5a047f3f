"""What every method costs at full size, on a real clip.

``python -m tests.benchmarks.full_size CLIP``

For each family, at the size of a published base checkpoint and with random weights, a clip is
decoded and explained by every method of the registry, and measured by the metrics that ask the
model. Seconds, their ratio to a forward pass measured beside, and the passes that were counted are
printed as a table. **Nothing here is quality**: the weights are random, and so are the maps.

Methods that take hundreds of passes are run with `--samples` of them, and their cost at the usual
number is that of one sample times that number; the table marks them.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.clips.decode import read_frames
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.errors import ModelError
from pipeline.evaluation import faithfulness
from pipeline.evaluation.benchmark.subject import counted_passes
from pipeline.evaluation.methods import fovex, gradients, perturbations
from pipeline.evaluation.methods.explainer import METHODS, explain
from pipeline.evaluation.perturbation import FILLS, Probe
from pipeline.models.attributor import normalise
from pipeline.models.registry import FAMILIES
from tests.benchmarks.overhead import CONFIGS

OF_SAMPLES = {
    "RISE": ("n_masks", perturbations.N_RISE),
    "LIME": ("n_samples", perturbations.N_SURROGATE),
    "KernelSHAP": ("n_samples", perturbations.N_SURROGATE),
    "Integrated Gradients": ("n_steps", gradients.N_STEPS),
    "SmoothGrad": ("n_noise", gradients.N_NOISE),
    "FovEx": ("n_fixations", fovex.N_FIXATIONS),
}
"""Option of a method that says how many samples it takes, and how many are usual."""
_MEAN, _STD = 0.45, 0.225


@dataclass(frozen=True)
class Row:
    """What a method or a metric cost on one clip."""

    family: str
    name: str
    seconds: float
    """On the clock; at the usual number of samples."""
    ratio: float
    """The same over a forward pass of the clip."""
    n_forward: float
    """Forward passes that were counted, at the usual number of samples."""
    samples: int | None
    """Samples that were taken, where fewer than usual."""


def main() -> None:
    arguments = parse_arguments()
    rows: list[Row] = []
    for family in arguments.families:
        rows += measure(family, arguments)
        if arguments.out:
            facts = {
                "command": " ".join(sys.argv),
                "clip": arguments.clip.name,
                "cores": os.cpu_count(),
                "load": os.getloadavg(),
                "rows": [asdict(row) for row in rows],
            }
            Path(arguments.out).write_text(json.dumps(facts, indent=1))
    print(as_markdown(rows))


def measure(family: str, arguments: argparse.Namespace) -> list[Row]:
    """Explain one clip by every method of a family, and ask the model about it."""
    adapter_class = FAMILIES[family]
    torch.manual_seed(0)
    adapter = adapter_class(adapter_class.model_class(CONFIGS[family]()).eval())
    clip = decoded(arguments.clip, adapter)
    with torch.inference_mode():
        predicted = adapter.predict(clip).argmax(dim=1)
        started = time.perf_counter()
        adapter.predict(clip)
    forward_s = time.perf_counter() - started
    # A tensor of inference mode can't go through a backward pass.
    target = predicted.clone()
    rows = []

    def run(name: str, work: Any, factor: float = 1.0, samples: int | None = None) -> Any:
        with counted_passes(adapter) as n_seen:
            started = time.perf_counter()
            result = work()
            seconds = (time.perf_counter() - started) * factor
        ratio = seconds / forward_s
        rows.append(Row(family, name, seconds, ratio, n_seen[0] * factor, samples))
        print(f"{family}: {name}: {seconds:.1f} s, {ratio:.2f} forward passes", flush=True)
        return result

    maps = None
    for name in arguments.methods or METHODS:
        options: dict[str, int] = {}
        factor, samples = 1.0, None
        if name == "occlusion":
            # A window of half the grid: one of two patches takes over a thousand passes.
            window = max(2, adapter.grid.height // 2)
            options, factor = {"window": window}, _places(adapter, 2) / _places(adapter, window)
            samples = _places(adapter, window)
        elif name in OF_SAMPLES:
            option, usual = OF_SAMPLES[name]
            few = min(arguments.samples, usual)
            options, factor = {option: few}, usual / few
            samples = few if few < usual else None
        work = partial(explain, name, adapter, clip, target, **options)
        try:
            found = run(name, work, factor, samples)
        except (ModelError, ValueError) as error:
            print(f"{family}: {name}: can't explain it: {error}", flush=True)
            continue
        maps = found if name == "evidence" or maps is None else maps
    if maps is not None and arguments.metrics:
        labels, of_clip = target.numpy(), maps.double().numpy()
        for fill in FILLS:
            probe = Probe(adapter, clip)
            for unit in ("patches", "frames"):
                run(
                    f"gap {unit}, {fill}",
                    partial(faithfulness.gap, probe, of_clip, labels, unit=unit, fill=fill),
                )
    return rows


def _places(adapter: Any, window: int) -> int:
    """Places of an occluding window of so many patches a side."""
    grid = adapter.grid
    return int(grid.n_times * (grid.height - window + 1) * (grid.width - window + 1))


def decoded(path: Path, adapter: Any) -> Tensor:
    """One clip as the model sees it: (1, frames, 3, height, width)."""
    height, width = adapter.geometry(adapter.model.config).input_size
    preprocessing = Preprocessing(
        shortest_edge=min(height, width),
        crop=(height, width),
        image_mean=(_MEAN,) * 3,
        image_std=(_STD,) * 3,
    )
    sampling = Sampling(kind="uniform", n_samples=adapter.grid.n_frames)
    clip = read_frames(path.read_bytes(), sampling, preprocessing)
    return normalise(torch.from_numpy(clip.frames[None]), preprocessing, torch.float32)


def as_markdown(rows: list[Row]) -> str:
    """One row for each method or metric, one column for each family."""
    families = list(dict.fromkeys(row.family for row in rows))
    lines = [f"| | {' | '.join(families)} |", f"| --- |{' --- |' * len(families)}"]
    for name in dict.fromkeys(row.name for row in rows):
        cells = []
        for family in families:
            found = next((row for row in rows if (row.family, row.name) == (family, name)), None)
            if found is None:
                cells.append("")
                continue
            few = "" if found.samples is None else f" (by {found.samples} samples)"
            cells.append(f"{found.seconds:.1f} s, {found.ratio:.2f}{few}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip", type=Path, help="a video file")
    parser.add_argument("--families", nargs="+", choices=sorted(CONFIGS), default=sorted(CONFIGS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), help="by default all")
    parser.add_argument("--samples", type=int, default=4, help="of methods that take hundreds")
    parser.add_argument("--metrics", action="store_true", help="also ask the model about the clip")
    parser.add_argument("--out", help="JSON to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
