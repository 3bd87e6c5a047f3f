"""What an attribution costs beside the prediction, and beside what transformers alone would take.

For each family, at the size of a published base checkpoint and with random weights:

- ``forward``: the prediction alone, on the attention that the product runs;
- ``explain``: prediction and attribution of the last layer, `Adapter.explain`;
- ``all_layers``: the same of every layer (an attentive pooler is one);
- ``rollout``: prediction and attention rollout;
- ``evidence``, ``evidence_last``: prediction and evidence for its class, of every layer and of the
  last one (of VideoMAE's final tokens, which are one layer);
- ``step_back``: of VideoMAE, evidence one step back through its last block;
- ``libragrad``: prediction and LibraGrad, a forward and a backward pass;
- ``compiled``: as ``explain``, the model run through torch.compile;
- ``eager``: transformers' own model with ``attn_implementation="eager"`` and
  ``output_attentions=True``, whose matrices an attribution could be computed from.

Time is measured in one process with the variants taking turns, so that what slows the machine down
slows all of them; ratios are of runs in the same turn. The run after an eager one, which is
``forward``, was seen to be slower by some percent on a CPU: for explain / forward, leave eager out
(``--variants forward explain``). Memory is measured in a process of its own for each variant.
"""

import argparse
import gc
import json
import multiprocessing
import os
import platform
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from scipy.stats import binom
from torch import Tensor
from transformers import (
    PretrainedConfig,
    TimesformerConfig,
    VideoMAEConfig,
    VideoPrismVisionConfig,
    VivitConfig,
    VJEPA2Config,
)

from pipeline.attribution.method import Method
from pipeline.models.adapter import Adapter
from pipeline.models.explain import explain
from pipeline.models.registry import FAMILIES

VARIANTS = (
    *("forward", "explain", "all_layers", "rollout", "evidence", "evidence_last", "step_back"),
    *("libragrad", "compiled", "eager"),
)
_METHODS = {
    "explain": Method(name="staa-paper"),
    "all_layers": Method(name="staa-paper", layers="all"),
    "rollout": Method(name="rollout"),
    "evidence": Method(name="evidence"),
    "evidence_last": Method(name="evidence", layers="last"),
    "step_back": Method(name="evidence", step_back=True),
    "libragrad": Method(name="libragrad"),
}
"""Variants that explain, and how."""

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

# Where nothing is given, transformers' defaults are those of the checkpoint.
CONFIGS: dict[str, Callable[..., PretrainedConfig]] = {
    # facebook/timesformer-base-finetuned-k400, 8 frames of 224 pixels
    "timesformer": partial(TimesformerConfig, num_labels=400),
    # MCG-NJU/videomae-base-finetuned-kinetics, 16 frames of 224 pixels
    "videomae": partial(VideoMAEConfig, num_labels=400),
    # google/videoprism-base-f16r288, a backbone: 16 frames of 288 pixels, and a classifier
    "videoprism_vision_model": partial(VideoPrismVisionConfig, num_labels=400),
    # google/vivit-b-16x2-kinetics400, 32 frames of 224 pixels
    "vivit": partial(VivitConfig, num_labels=400),
    # facebook/vjepa2-vitl-fpc16-256-ssv2, the smallest classifier published: ViT-L, 16 frames
    "vjepa2": partial(VJEPA2Config, num_labels=174, frames_per_clip=16),
}


@dataclass(frozen=True)
class Case:
    """One model and batch, and where they are measured."""

    family: str
    batch_size: int
    layers: int | None
    """Blocks of the encoder (VideoPrism: at most, of each of its two); None for all."""
    device: str
    precision: str
    threads: int | None

    def config(self) -> PretrainedConfig:
        """Config of the base checkpoint, with `layers` blocks."""
        make = CONFIGS[self.family]
        if self.layers is None:
            return make()
        if self.family == "videoprism_vision_model":
            depth = VideoPrismVisionConfig()
            return make(
                num_spatial_layers=min(self.layers, depth.num_spatial_layers),
                num_temporal_layers=min(self.layers, depth.num_temporal_layers),
            )
        return make(num_hidden_layers=self.layers)

    def methods(self) -> dict[str, Method]:
        """Methods by variant, those that the family knows."""
        pools_mean = FAMILIES[self.family].pools_mean(self.config())
        return {
            variant: method
            for variant, method in _METHODS.items()
            if pools_mean or not method.step_back
        }

    def knows(self, variant: str) -> bool:
        """Whether a variant is measured of the family."""
        return variant not in _METHODS or variant in self.methods()

    def prepare(self, variant: str) -> Callable[[], Tensor]:
        """Load what a variant needs, and no more; returns its run, which returns logits."""
        return self.prepare_all((variant,))[variant]

    def prepare_all(self, variants: tuple[str, ...]) -> dict[str, Callable[[], Tensor]]:
        """Runs by variant; ``forward`` and ``explain`` share a model, as they do in a user's."""
        if self.threads:
            torch.set_num_threads(self.threads)
        adapter_class, config = FAMILIES[self.family], self.config()
        geometry = adapter_class.geometry(config)
        shape = (self.batch_size, geometry.n_frames, 3, *geometry.input_size)
        generator = torch.Generator().manual_seed(0)
        clips = torch.randn(shape, generator=generator).to(self.device)
        name = adapter_class.input_name

        def load() -> Any:
            torch.manual_seed(0)
            return adapter_class.model_class(self.config()).to(self.device).eval()

        runs: dict[str, Callable[[], Tensor]] = {}
        if {"forward", *_METHODS} & set(variants):
            adapter = adapter_class(load())
            runs["forward"] = lambda: adapter.predict(clips)
            for variant, method in self.methods().items():
                runs[variant] = partial(_explained_logits, adapter, clips, method)
        if "compiled" in variants:
            fast = adapter_class(load())
            fast.model.compile()
            runs["compiled"] = partial(_explained_logits, fast, clips, Method(name="staa-paper"))
        if "eager" in variants:
            stock = load()
            stock.set_attn_implementation("eager")
            runs["eager"] = lambda: stock(**{name: clips}, output_attentions=True).logits
        return {variant: partial(self._run, runs[variant]) for variant in variants}

    def _run(self, run: Callable[[], Tensor]) -> Tensor:
        dtype = getattr(torch, self.precision)
        with torch.autocast(self.device, dtype=dtype, enabled=dtype != torch.float32):
            return run()


def _explained_logits(adapter: Adapter, clips: Tensor, method: Method) -> Tensor:
    return explain(adapter, clips, method).logits


@dataclass
class Result:
    """What was measured of a case."""

    case: Case
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """By variant, one a turn, in order."""
    peak_bytes: dict[str, int | None] = field(default_factory=dict)
    """By variant, above the loaded model; None where the run didn't fit."""

    def ratios(self, variant: str, base: str) -> list[float]:
        """Ratios of the seconds of two variants, turn by turn; empty if either wasn't timed."""
        pairs = zip(self.seconds.get(variant, []), self.seconds.get(base, []), strict=False)
        return [value / reference for value, reference in pairs]


def peak_bytes(case: Case, variant: str) -> int:
    """Highest memory of one run above that of the loaded model; call it in a fresh process."""
    run = case.prepare(variant)
    if case.device == "cuda":
        before = torch.cuda.memory_allocated()
        with torch.inference_mode():
            run()
        return torch.cuda.max_memory_allocated() - before
    # ru_maxrss is in KiB on Linux, in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.inference_mode():
        run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit


def peak_bytes_apart(case: Case, variant: str) -> int | None:
    """`peak_bytes` in a process of its own; None if that ran out of memory, or was killed."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(peak_bytes, case, variant).result()
        except (BrokenProcessPool, torch.OutOfMemoryError):
            return None


def time_turns(
    case: Case, variants: tuple[str, ...], n_turns: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds by variant, in turns, after one run of each that isn't counted.

    Raises
    ------
    AssertionError
        If the variants don't predict the same: then they aren't the same model.
    """
    # Models are loaded outside of inference mode, as in a run.
    runs = case.prepare_all(variants)
    with torch.inference_mode():
        return _time_runs(case, runs, n_turns, clock)


def _time_runs(
    case: Case, runs: dict[str, Callable[[], Tensor]], n_turns: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    logits = [run().flatten(1).float() for run in runs.values()]
    tolerance = 1e-3 if case.precision == "float32" else 0.1
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], rtol=tolerance, atol=tolerance)
    seconds: dict[str, list[float]] = {variant: [] for variant in runs}
    for _ in range(n_turns):
        for variant, run in runs.items():
            # Garbage of the variant before must not be collected in this one's time.
            gc.collect()
            _wait_for(case.device)
            start = clock()
            run()
            _wait_for(case.device)
            seconds[variant].append(clock() - start)
    return seconds


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def machine(device: str) -> dict[str, Any]:
    """Kind of the machine, and the versions that timings depend on."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def write_report(file: Path, program: str, device: str, results: list[dict[str, Any]]) -> None:
    """Write results to JSON, with the command and the machine that they came from."""
    report = {
        "command": f"{program} {shlex.join(sys.argv[1:])}",
        "machine": machine(device),
        "results": results,
    }
    file.write_text(json.dumps(report, indent=1) + "\n")


def table(results: list[Result]) -> str:
    """Results as a Markdown table: of ratios the median and its interval, and medians else."""
    headings = (
        *("family", "layers", "batch", "forward s"),
        *(f"{variant.replace('_', ' ')} / forward" for variant in _METHODS),
        *("compiled / explain", "eager / explain"),
        f"peak MB {', '.join(VARIANTS)}",
    )
    rows = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for result in results:
        case, forward = result.case, result.seconds.get("forward")
        cells = (
            case.family,
            case.layers or "all",
            case.batch_size,
            f"{statistics.median(forward):.3f}" if forward else "-",
            *(_spread(result.ratios(variant, "forward")) for variant in _METHODS),
            _spread(result.ratios("compiled", "explain")),
            _spread(result.ratios("eager", "explain")),
            ", ".join(_megabytes(result.peak_bytes, variant) for variant in VARIANTS),
        )
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def _spread(ratios: list[float]) -> str:
    """Median, and the interval of two turns that holds the true one with 95 %, or all if few."""
    if not ratios:
        return "-"
    # Each turn lies below the true median with 1/2: a binomial count of them does.
    low = int(binom.ppf(0.025, len(ratios), 0.5)) - 1
    ordered = sorted(ratios)
    interval = ordered[max(low, 0)], ordered[min(len(ordered) - 1 - low, len(ordered) - 1)]
    return f"{statistics.median(ratios):.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def _megabytes(peaks: dict[str, int | None], variant: str) -> str:
    peak = peaks.get(variant, -1)
    return "didn't fit" if peak is None else f"{peak / 1e6:.0f}" if peak >= 0 else "-"


def main() -> None:
    """Measure as the command line says, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.overhead", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--families", nargs="+", choices=sorted(CONFIGS), default=sorted(CONFIGS))
    add("--batch-sizes", nargs="+", type=int, default=[1])
    add("--repeats", type=int, default=5, help="turns that are timed; 0: memory only")
    add("--no-memory", action="store_true", help="time only")
    add("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="measure these only")
    add("--layers", type=int, help="shorten the encoders; the ratios aren't the model's then")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--precision", choices=("float32", "bfloat16", "float16"), default="float32")
    add("--threads", type=int, help="torch's threads on a CPU")
    add("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: on a machine that isn't idle")
    add("--out", type=Path, help="JSON to write, with every second that was measured")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    where = (args.layers, args.device, args.precision, args.threads)
    results = [
        Result(Case(family, size, *where)) for family in args.families for size in args.batch_sizes
    ]
    # Memory first: a child inherits the ru_maxrss of its parent, which must still be small.
    for result in [] if args.no_memory else results:
        for variant in filter(result.case.knows, args.variants):
            result.peak_bytes[variant] = peak_bytes_apart(result.case, variant)
        print(f"memory: {result.case.family} x {result.case.batch_size}", file=sys.stderr)
    for result in results if args.repeats else []:
        fit = tuple(
            name
            for name in args.variants
            if result.peak_bytes.get(name, 0) is not None and result.case.knows(name)
        )
        result.seconds = time_turns(result.case, fit, args.repeats, CLOCKS[args.clock])
        print(f"time: {result.case.family} x {result.case.batch_size}", file=sys.stderr)
    print(table(results))
    if args.out:
        write_report(args.out, parser.prog, args.device, [asdict(result) for result in results])


if __name__ == "__main__":
    main()
