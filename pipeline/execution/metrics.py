"""What a run tells Prometheus, through the endpoint that Ray has on every node.

Ray puts ``ray_`` before the names, and ``_total`` behind those of counters. The tag ``run`` is the
run's short name, see `pipeline.store.record.run_id`. Queue depths are Ray Data's own, by operator:
``ray_data_num_external_inqueue_blocks`` and ``ray_data_obj_store_mem_internal_inqueue_blocks``.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from ray.util.metrics import Counter, Gauge, Histogram

TIMED = {
    "decode": "to fetch, decode and resize the clips of a task",
    "transfer": "to copy a batch of frames to the model's device",
    "forward": "to run the model on a batch and to take its attribution",
    "write": "to write a shard",
}
"""What is timed, and what is done in that time."""
_BOUNDARIES = [step * 10.0**power for power in range(-3, 3) for step in (1, 2, 5)]
"""Upper ends of the histograms' buckets, s. They are narrow because Ray takes a bucket's middle for
every value in it, also in the sum."""


@dataclass(frozen=True)
class RunMetrics:
    """Metrics of one run; small, and sent to every process that has something to tell."""

    run: str
    """Short name of the run."""

    @contextmanager
    def seconds_of(self, stage: str) -> Iterator[None]:
        """Tell how long the body took, unless it fails."""
        started = time.perf_counter()
        yield
        _seconds(stage).observe(time.perf_counter() - started, {"run": self.run})

    def count_shard(self, counts: Mapping[str, int], n_bytes: int) -> None:
        """Count a shard that was committed: clips by the name of their status, and bytes."""
        _bytes_written().inc(n_bytes, {"run": self.run})
        for status, count in counts.items():
            _clips().inc(count, {"run": self.run, "status": status})

    def set_pending(self, n_rows: int) -> None:
        """Tell how many rows are left to do."""
        _rows_pending().set(n_rows, {"run": self.run})


# A process makes each metric once: a second one of the same name would count on its own.
@cache
def _seconds(stage: str) -> Histogram:
    return Histogram(f"staa_{stage}_seconds", f"Time {TIMED[stage]}, s", _BOUNDARIES, ("run",))


@cache
def _clips() -> Counter:
    return Counter("staa_clips", "Clips that were committed, by status", ("run", "status"))


@cache
def _bytes_written() -> Counter:
    return Counter("staa_bytes_written", "Bytes of committed shards, uncompressed", ("run",))


@cache
def _rows_pending() -> Gauge:
    return Gauge("staa_rows_pending", "Rows of the run that are not committed yet", ("run",))
