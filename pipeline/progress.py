"""How far a run is: counted by the write tasks, shown by the driver."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import ray
from ray.exceptions import RayError

from pipeline.bar import progress_bar

_POLL_S = 0.5


class Counter:
    """Rows that were committed in this run, and how many of them failed; runs as a Ray actor."""

    def __init__(self) -> None:
        self._shards: set[int] = set()
        self._done = 0
        self._failed = 0

    def add(self, first_row: int, done: int, failed: int) -> None:
        """Count the shard that starts at a row; once, however often it is committed."""
        if first_row not in self._shards:
            self._shards.add(first_row)
            self._done += done
            self._failed += failed

    def counts(self) -> tuple[int, int]:
        """Rows done, and of these failed."""
        return self._done, self._failed


def count_shard(counter: ray.actor.ActorHandle, first_row: int, *, done: int, failed: int) -> None:
    """Tell the counter of a shard that was committed, and wait until it was heard.

    What is stored is what counts: that the counter is lost must not fail the task that wrote.
    """
    with suppress(RayError):
        ray.get(counter.add.remote(first_row, done, failed))


@contextmanager
def shown_progress(n_rows: int, n_done: int) -> Iterator[ray.actor.ActorHandle]:
    """While open, show rows done, clips/s, failed so far and time left; gives the counter to tell.

    Parameters
    ----------
    n_rows
        Rows of the whole run.
    n_done
        Rows that an earlier run has done.
    """
    counter = ray.remote(Counter).options(num_cpus=0).remote()
    stop = threading.Event()
    bar = progress_bar(total=n_rows, initial=n_done, unit="clip", desc="attribute")

    def update() -> None:
        try:
            done, failed = ray.get(counter.counts.remote())
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
        yield counter
    finally:
        stop.set()
        # Behind a shutdown of Ray, a call of the thread would start another one.
        follower.join()
        update()
        bar.close()
