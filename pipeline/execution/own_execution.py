"""What Ray Data goes without in a Ray of one run's own: three actors, each a process of its own.

One keeps statistics for the dashboard, one divides a cluster between executions, and one knows on
which node a model is. See `pipeline.execution.own_ray`; this is a module of its own since Ray Data
takes a second to load, and Ray is started before.
"""

from typing import Any

import ray
from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
from ray.data._internal.execution import streaming_executor
from ray.data._internal.execution.interfaces import ExecutionResources
from ray.data._internal.execution.operators import actor_pool_map_operator
from ray.data._internal.stats import _StatsManager

from pipeline.execution.own_ray import Replacement, nothing


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


def _fixed_cluster(*args: Any, **kwargs: Any) -> FixedCluster:
    return FixedCluster()


def _no_news(*args: Any) -> dict[str, str]:
    return {}


OF_EXECUTION: tuple[Replacement, ...] = (
    (_StatsManager, "register_dataset_to_stats_actor", staticmethod(nothing)),
    (_StatsManager, "update_execution_metrics", staticmethod(nothing)),
    (streaming_executor, "create_cluster_autoscaler", _fixed_cluster),
    (actor_pool_map_operator, "get_or_create_actor_location_tracker", OneNode),
    (actor_pool_map_operator, "get_actor_locations", _no_news),
)
