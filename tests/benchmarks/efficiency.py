"""How near a run comes to its slower half: ``python -m tests.benchmarks.efficiency``.

Efficiency is the clips/s of a whole run over the smaller of two rates measured in the same call,
over the same clips: of decoding alone, in one process as the run has one decoder, and of the model
alone, with one copy and one thread as in the run. On 2 CPUs that is all there is; whatever else a
run needs (Ray, writing, the driver) has no CPU of its own, and counts against the run.

The run's rate is counted from its first shard that is committed to its last: the start of Ray and
of the model is left out, and given beside it. What was decoded during the start counts for the run;
that is at most six tasks.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import torch

from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import write_manifest
from pipeline.execution.passes import execute
from pipeline.run.config import AttributeConfig
from pipeline.run.job import real_stages
from pipeline.run.plan import Plan, plan_run
from pipeline.run.steps import Stages
from pipeline.run.tally import LocalChannel, Tally
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


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="efficiency-") as folder:
        figures = measure(arguments, Path(folder))
    print(json.dumps(figures, indent=1))
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(figures, indent=1))


def measure(arguments: argparse.Namespace, folder: Path) -> dict:
    clips = folder / "clips"
    for _ in write_dataset(SynthesizeConfig(out=str(clips), n_clips=N_FILES)):
        pass
    table = build_manifest(layout="files", clips=str(clips / "clips"))
    rows = [row % table.num_rows for row in range(arguments.clips)]
    write_manifest(table.take(pa.array(rows)), str(folder / "manifest.parquet"))
    model = SMALL if arguments.model == "small" else str(save_timesformer(folder / "model", **BASE))
    config = AttributeConfig(
        manifest=str(folder / "manifest.parquet"),
        model=model,
        out=str(folder / "run"),
        sampling={"kind": "uniform"},
        batch_size=arguments.batch_size,
        rows_per_shard=arguments.rows_per_shard,
        local_cpus=2,
        device="cpu",
    )
    plan = plan_run(config)
    stages = real_stages(plan, "cpu", LocalChannel(Tally(config.rows_per_shard)))
    decoding, model_alone = alone(plan, stages, arguments.clips_alone)
    started = time.time()
    summary = execute(plan)
    if summary.n_failed or summary.n_pending:
        sys.exit(f"not every clip is ok: {summary}")
    # A shard's commit mark is an object of its own, written last.
    marks = sorted(
        path.stat().st_mtime for path in (Path(plan.store_url) / "status" / "c").iterdir()
    )
    n_counted = arguments.clips - arguments.rows_per_shard
    rate = n_counted / (marks[-1] - marks[0])
    return {
        "model": "TimeSformer-B" if arguments.model == "base" else model,
        "clips": arguments.clips,
        "batch_size": arguments.batch_size,
        "rows_per_shard": arguments.rows_per_shard,
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "decoding_alone_clips_per_s": round(decoding, 2),
        "model_alone_clips_per_s": round(model_alone, 2),
        "run_clips_per_s": round(rate, 2),
        "efficiency": round(rate / min(decoding, model_alone), 3),
        "start_to_first_shard_s": round(marks[0] - started, 1),
    }


def alone(plan: Plan, stages: Stages, n_clips: int) -> tuple[float, float]:
    """Clips/s of decoding, and then of the model, in this process."""
    torch.set_num_threads(1)
    attributor = stages.attribute(**stages.attribute_arguments)
    size = plan.config.batch_size
    batches = []
    for start in range(0, n_clips, size):
        table = plan.manifest.rows(start, start + size)
        columns = {name: table[name].to_numpy() for name in table.column_names}
        batches.append(columns | {"row": list(range(start, start + size))})
    stages.load(batches[0])
    started = time.monotonic()
    loaded = [stages.load(batch) for batch in batches]
    decoding = n_clips / (time.monotonic() - started)
    attributor(loaded[0])
    started = time.monotonic()
    for batch in loaded:
        attributor(batch)
    return decoding, n_clips / (time.monotonic() - started)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["small", "base"], default="small")
    parser.add_argument("--clips", type=int, default=2048)
    parser.add_argument("--clips-alone", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rows-per-shard", type=int, default=64)
    parser.add_argument("--out", help="JSON file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
