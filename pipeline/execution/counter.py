"""How far a run is: counted by an actor for the write tasks, shown by the driver."""

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.execution.metrics import RunMetrics
from pipeline.logs import LogFormat
from pipeline.progress_bar import progress_bar
from pipeline.status import Status

_LOGGER = logging.getLogger(__name__)
_POLL_S = 0.5


class Progress:
    """Rows that were committed in this run, by the name of their status; runs as a Ray actor.

    The one place that knows each shard once, and that lives as long as the run: it tells the
    metrics, too, whose counts would go with the processes of write tasks.
    """

    def __init__(self, metrics: RunMetrics, n_pending: int) -> None:
        self._metrics = metrics
        self._n_pending = n_pending
        self._first_rows: set[int] = set()
        self._counts: Counter[str] = Counter()
        metrics.set_pending(n_pending)

    def add(self, first_row: int, counts: Mapping[str, int], n_bytes: int) -> None:
        """Count the shard that starts at a row; once, however often it is committed."""
        if first_row not in self._first_rows:
            self._first_rows.add(first_row)
            self._counts.update(counts)
            self._metrics.count_shard(counts, n_bytes)
            self._metrics.set_pending(self._n_pending - self._counts.total())

    def counts(self) -> tuple[int, int]:
        """Rows done, and of these failed."""
        return self._counts.total(), self._counts.total() - self._counts[Status.OK.label]


def count_shard(
    progress: ray.actor.ActorHandle, first_row: int, counts: Mapping[str, int], n_bytes: int
) -> None:
    """Tell of a shard that was committed, and wait until it was heard.

    What is stored is what counts: that the actor is lost must not fail the task that wrote.
    """
    with suppress(RayError):
        ray.get(progress.add.remote(first_row, counts, n_bytes))


@contextmanager
def shown_progress(
    metrics: RunMetrics, n_rows: int, n_done: int, log_format: LogFormat = "text"
) -> Iterator[ray.actor.ActorHandle]:
    """While open, show rows done, clips/s, failed so far and time left; gives the actor to tell.

    Parameters
    ----------
    n_rows
        Rows of the whole run.
    n_done
        Rows that an earlier run has done.
    """
    # Beside the driver: other nodes may be taken away while the run goes on.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "scheduling_strategy": here}
    actor = ray.remote(Progress).options(**options).remote(metrics, n_rows - n_done)
    stop = threading.Event()
    logger = _LOGGER if log_format == "json" else None
    bar = progress_bar(total=n_rows, initial=n_done, unit="clip", desc="attribute", logger=logger)

    def update() -> None:
        try:
            done, failed = ray.get(actor.counts.remote())
        except RayError:
            return
        bar.set_postfix(failed=failed, refresh=False)
        bar.update(n_done + done - bar.n)

    def follow() -> None:
        while not stop.wait(_POLL_S):
            update()

    follower = threading.Thread(target=follow, name="progress", daemon=True)
    follower.start()
    try:
        yield actor
    finally:
        stop.set()
        # Behind a shutdown of Ray, a call of the thread would start another one.
        follower.join()
        update()
        bar.close()
