"""How much of a device's arithmetic a forward pass with STAA uses, and where the rest goes.

The floating-point operations of the model are counted by torch (matrix products and convolutions,
its SDPA included), and divided by the seconds that the pass takes. Two shares are printed: of what
one large matrix product reaches on the same device and in the same precision, measured in the same
run, and of the vendor's figure for the device, where it is known (model FLOPs utilisation,
Chowdhery et al. 2022, app. B). The profile that follows lists the operations by their own time.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.overhead import CONFIGS, Case, write_report

_VENDOR_FLOPS = {
    # NVIDIA's data sheets: dense, without sparsity, SXM.
    ("H100", "bfloat16"): 989e12,
    ("H100", "float16"): 989e12,
    ("H100", "float32"): 67e12,
    ("H200", "bfloat16"): 989e12,
    ("H200", "float16"): 989e12,
    ("H200", "float32"): 67e12,
    ("A100", "bfloat16"): 312e12,
    ("A100", "float16"): 312e12,
    ("A100", "float32"): 19.5e12,
}


def median_seconds(run: Callable[[], Any], device: str, n_turns: int) -> float:
    """Median time of a run, after one that isn't counted."""
    seconds = []
    for turn in range(n_turns + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        if turn:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def matrix_product_flops(device: str, precision: str, n_turns: int) -> float:
    """FLOP/s of the product of two square matrices, large enough to fill the device."""
    side = 8192 if device == "cuda" else 2048
    matrix = torch.randn(side, side, device=device, dtype=getattr(torch, precision))
    return 2 * side**3 / median_seconds(lambda: matrix @ matrix, device, n_turns)


@torch.inference_mode()
def utilisation(case: Case, n_turns: int) -> dict[str, Any]:
    """Measure one case; the profile is text."""
    run = case.prepare("explain")
    # Plain attention has the same operations, and torch can count them on a CPU as well.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        case.prepare("forward")()
    flops = counter.get_total_flops()
    seconds = median_seconds(run, case.device, n_turns)
    activities = [ProfilerActivity.CPU]
    if case.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiled:
        run()
    order = "self_cuda_time_total" if case.device == "cuda" else "self_cpu_time_total"
    reached = matrix_product_flops(case.device, case.precision, n_turns)
    name = torch.cuda.get_device_name() if case.device == "cuda" else ""
    vendor = next(
        (
            figure
            for (device, precision), figure in _VENDOR_FLOPS.items()
            if device in name and precision == case.precision
        ),
        None,
    )
    return {
        "family": case.family,
        "batch_size": case.batch_size,
        "precision": case.precision,
        "model_flops": flops,
        "explain_seconds": seconds,
        "of_matrix_product": flops / seconds / reached,
        "of_vendor": flops / seconds / vendor if vendor else None,
        "profile": profiled.key_averages().table(sort_by=order, row_limit=12),
    }


def main() -> None:
    """Measure as the command line says, print, write JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.utilisation", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--families", nargs="+", choices=sorted(CONFIGS), default=sorted(CONFIGS))
    add("--batch-size", type=int, default=1)
    add("--repeats", type=int, default=3)
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--precision", choices=("float32", "bfloat16", "float16"), default="float32")
    add("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    results = []
    for family in args.families:
        case = Case(family, args.batch_size, None, args.device, args.precision, None)
        result = utilisation(case, args.repeats)
        results.append(result)
        vendor = f", {result['of_vendor']:.1%} of the vendor's" if result["of_vendor"] else ""
        print(
            f"{family}: {result['model_flops'] / 1e9:.0f} GFLOP in {result['explain_seconds']:.3f} "
            f"s, {result['of_matrix_product']:.1%} of a matrix product's rate{vendor}"
        )
        print(result["profile"])
    if args.out:
        write_report(args.out, parser.prog, args.device, results)


if __name__ == "__main__":
    main()
