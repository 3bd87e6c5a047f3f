"""A function of each shard of a run, computed on Ray, where none of them needs a model."""

import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from typing import TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.errors import ClusterError
from pipeline.execution.cluster import check_alive, n_cpus
from pipeline.text import one_line, without_credentials

_RETRIES = 3
_LOOK_S = 10.0
"""Between two looks at how many CPUs there are; a cluster may have grown, or be gone."""
_STALL_S = 1800.0
"""Time without any shard after which nobody is taken to work on them."""
_SPARE = 2

Value = TypeVar("Value")


def each_on_ray(
    function: Callable[[int], Value], shards: Sequence[int]
) -> Generator[tuple[int, Value]]:
    """Compute a function of each shard on the Ray that is there, as many at once as it has CPUs.

    Parameters
    ----------
    function
        Is sent to the processes that compute; they only read, so a shard whose process dies is
        computed again.

    Yields
    ------
    Shards with what the function gives of them, in the order in which they are done

    Raises
    ------
    ClusterError
        If a process dies again and again, Ray is lost, or nothing is done for half an hour.

    Whatever the function raises is raised here, too.
    """
    if not shards:
        return
    compute = ray.remote(num_cpus=1, max_retries=_RETRIES)(_call)
    sent = ray.put(function)
    waiting = [*reversed(shards)]
    running: dict[Future[Value], tuple[ray.ObjectRef, int]] = {}
    looked_at_s = heard_at_s = time.monotonic()
    most = _at_once()

    def begin() -> None:
        while waiting and len(running) < most:
            shard = waiting.pop()
            answer = compute.remote(sent, shard)
            running[answer.future()] = answer, shard

    try:
        begin()
        while running:
            # Not `ray.wait`, which a signal breaks off with a `SystemError`.
            for done in wait(running, _LOOK_S, FIRST_COMPLETED).done:
                value = done.result()
                _, shard = running.pop(done)
                # Before it is handed over, which may take long.
                begin()
                yield shard, value
                heard_at_s = time.monotonic()
            if (now_s := time.monotonic()) - looked_at_s >= _LOOK_S:
                check_alive()
                most, looked_at_s = _at_once(), now_s
            if now_s - heard_at_s > _STALL_S:
                raise ClusterError(
                    f"no shard was computed for {now_s - heard_at_s:.0f} s: of {n_cpus():g} CPUs "
                    f"{ray.available_resources().get('CPU', 0):g} are free"
                )
    except RayTaskError as error:
        if error.cause is None:
            raise
        raise error.cause from error
    except RayError as error:
        raise ClusterError(without_credentials(one_line(str(error)))) from error
    finally:
        with suppress(RayError):
            for answer, _ in running.values():
                ray.cancel(answer)


def _at_once() -> int:
    """Tasks that are given to Ray at once: some more than CPUs, so that none of these waits."""
    return max(1, int(n_cpus())) + _SPARE


def _call(function: Callable[[int], Value], shard: int) -> Value:
    return function(shard)
