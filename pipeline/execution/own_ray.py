"""What a Ray of one run's own is started without: processes that serve others than the run.

Around its workers Ray starts processes of Python that serve people who look at a cluster, or scale
it: the dashboard's server, which `ray.init` waits for, the autoscaler's monitor, and one that
follows log files for a driver that shows them. `pipeline.execution.own_execution` has what Ray Data
starts. Each takes half a second to two seconds of CPU to import what it needs, on a machine that
has two cores for all of them and the run.

Ray has no option that leaves them out, so what starts them is replaced while such a Ray is there.
Where a later Ray doesn't have it any more, the process is started as before.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ray._private.node import Node

Replacement = tuple[Any, str, Any]
"""Owner of an attribute, its name, and what takes its place."""


def nothing(*args: Any, **kwargs: Any) -> None:
    """Take the place of what starts a process."""


OF_NODE: tuple[Replacement, ...] = (
    (Node, "start_api_server", nothing),
    (Node, "start_monitor", nothing),
    (Node, "start_log_monitor", nothing),
)


@contextmanager
def replaced(replacements: Iterable[Replacement]) -> Iterator[None]:
    """While open, attributes that are there are others."""
    there = [each for each in replacements if each[1] in vars(each[0])]
    originals = [(owner, name, vars(owner)[name]) for owner, name, _ in there]
    for owner, name, replacement in there:
        setattr(owner, name, replacement)
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
