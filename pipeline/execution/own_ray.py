"""A Ray of one run's own does without the processes that serve others than the run.

Around its workers Ray starts processes of Python that serve people who look at a cluster, or scale
it: the dashboard's server, which `ray.init` waits for, the autoscaler's monitor, one that follows
log files for a driver that shows them, and three actors of Ray Data: one keeps statistics for the
dashboard, one divides a cluster between executions, and one knows on which node a model is. Each
takes half a second to two seconds of CPU to import what it needs, on a machine that has two cores
for all of them and the run.

Ray has no option that leaves them out, so what starts them is replaced while such a Ray is there.
Where a later Ray doesn't have it any more, the process is started as before.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import worker as ray_worker
from ray._private.node import Node
from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
from ray.data._internal.execution import streaming_executor
from ray.data._internal.execution.interfaces import ExecutionResources
from ray.data._internal.execution.operators import actor_pool_map_operator
from ray.data._internal.stats import _StatsManager

from pipeline.text import one_line, without_credentials

_LOGGER = logging.getLogger(__name__)


# Ray gives its classes no types.
class FixedCluster(ClusterAutoscaler):  # type: ignore[misc]
    """A cluster that stays as it is, and that one execution has for itself."""

    def __init__(self) -> None:
        self._resources = ExecutionResources.from_resource_dict(ray.cluster_resources())

    def try_trigger_scaling(self) -> None:
        """Leave the cluster as it is."""

    def on_executor_shutdown(self) -> None:
        """Have nothing to give back."""

    def get_total_resources(self) -> ExecutionResources:
        """Give all that there is."""
        return self._resources


class _Untold:
    """A method of an actor that isn't there."""

    def remote(self, *args: Any) -> None:
        """Do nothing."""


class OneNode:
    """Stands for Ray Data's `ActorLocationTracker`, where all actors are on one node."""

    update_actor_location = _Untold()


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


def _fixed_cluster(*args: Any, **kwargs: Any) -> FixedCluster:
    return FixedCluster()


def _no_news(*args: Any) -> dict[str, str]:
    return {}


def _logged(message: dict[str, Any], ignore_prefix: bool) -> None:
    said = without_credentials(one_line(" ".join(message["lines"])))
    level = logging.WARNING if "memory pressure" in said else logging.INFO
    _LOGGER.log(level, "Ray says: %s", said)


Replacement = tuple[Any, str, Any]
"""Owner of an attribute, its name, and what takes its place."""

QUIET: tuple[Replacement, ...] = ((ray_worker, "print_to_stdstream", _logged),)
"""Ray prints each process that it loses to stdout, among what a job prints there. A run tells of
those that it can't do without."""

REPLACEMENTS: tuple[Replacement, ...] = (
    *QUIET,
    (Node, "start_api_server", _nothing),
    (Node, "start_monitor", _nothing),
    (Node, "start_log_monitor", _nothing),
    (_StatsManager, "register_dataset_to_stats_actor", staticmethod(_nothing)),
    (_StatsManager, "update_execution_metrics", staticmethod(_nothing)),
    (streaming_executor, "create_cluster_autoscaler", _fixed_cluster),
    (actor_pool_map_operator, "get_or_create_actor_location_tracker", OneNode),
    (actor_pool_map_operator, "get_actor_locations", _no_news),
)


@contextmanager
def for_one_run(replacements: Iterable[Replacement] = REPLACEMENTS) -> Iterator[None]:
    """While open, a Ray that this process starts, and Ray Data on it, are for one run alone.

    With `QUIET` alone it is any Ray, of which less is printed.
    """
    there = [each for each in replacements if each[1] in vars(each[0])]
    originals = [(owner, name, vars(owner)[name]) for owner, name, _ in there]
    for owner, name, replacement in there:
        setattr(owner, name, replacement)
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
