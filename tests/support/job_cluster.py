"""A Ray cluster of several raylets on this machine, started by `ray start`, with a token."""

import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.execution.cluster import RAYLET_ENVIRONMENT
from tests.support.nursery import nursery
from tests.support.ports import free_ports

RAY = str(Path(sys.executable).with_name("ray"))
_STORE_BYTES = 100_000_000


@dataclass(frozen=True)
class JobCluster:
    """What a user knows of a cluster."""

    address: str
    """Host and port where jobs are submitted."""
    gcs: str
    """Host and port that a driver on the head connects to."""
    folder: str
    """Where every node's Ray has its files."""
    environment: dict[str, str]
    """Holds the token."""


@contextmanager
def job_cluster(*, n_workers: int, cpus_per_worker: int) -> Iterator[JobCluster]:
    """Start a head without CPUs and some workers, each a raylet; all end with the block."""
    gcs, dashboard, client = free_ports(3)
    user = {
        name: value
        for name, value in os.environ.items()
        # The code must come with the job, not from the tests' own path.
        if not name.startswith(("RAY_", "STAA_")) and name != "PYTHONPATH"
    }
    user |= {
        # A node's `python` is the one that has the packages.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
    }
    # The path must be short, as sockets lie below it.
    with tempfile.TemporaryDirectory(prefix="staa-", dir="/tmp") as folder:
        node = [
            *(RAY, "start", "--node-ip-address=127.0.0.1"),
            f"--object-store-memory={_STORE_BYTES}",
            # These ports would be the same on every node.
            *("--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"),
        ]
        head = [
            *("--head", f"--port={gcs}", f"--dashboard-port={dashboard}", "--num-cpus=0"),
            f"--ray-client-server-port={client}",
        ]
        worker = [f"--address=127.0.0.1:{gcs}", f"--num-cpus={cpus_per_worker}"]
        with nursery(
            [node + head, *[node + worker] * n_workers],
            environment=user
            | RAYLET_ENVIRONMENT
            | {
                "RAY_AUTH_MODE": "token",
                "RAY_TMPDIR": folder,
                # A node that is gone is noticed in seconds: on a busy machine a pass could else
                # begin on it, and get nowhere.
                "RAY_health_check_period_ms": "1000",
                # Else nodes would look for updates and for proxies.
                "RAY_USAGE_STATS_ENABLED": "0",
            },
            log=Path(folder, "start.log"),
        ):
            yield JobCluster(f"127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", folder, user)
