"""Ray Datasink: one write is one shard, committed once."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import ray
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import Datasink
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.logs import LogFormat, set_up_logging
from pipeline.run.gather import ShardGathering, concatenated
from pipeline.run.steps import Write
from pipeline.store.schema import StoreLayout


# Ray's types aren't followed: its class is `Any`.
@dataclass(frozen=True)
class ShardSink(Datasink):  # type: ignore[misc]
    """Gathers the blocks of tasks, which come in any order, and has whole shards written.

    The task that brings a shard's last block writes the shard. The blocks before it wait in an
    actor, which lives as long as the pass.
    """

    write_shard: Write
    gathering: ray.actor.ActorHandle
    """A `ShardGathering`."""
    log_format: LogFormat

    def write(self, blocks: Iterable[Block], ctx: object) -> None:
        """Hand over blocks, and write the shards that they complete."""
        set_up_logging(self.log_format, logging.INFO)
        for block in blocks:
            columns = BlockAccessor.for_block(block).to_numpy()
            if parts := ray.get(self.gathering.add.remote(columns)):
                self.write_shard(concatenated(parts))
                self.gathering.forget.remote(int(parts[0]["row"][0]))


@contextmanager
def gathering(layout: StoreLayout) -> Iterator[ray.actor.ActorHandle]:
    """While open, an actor on the driver's node keeps the parts of shards that aren't whole yet."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "scheduling_strategy": here}
    actor = ray.remote(ShardGathering).options(**options).remote(layout)
    # Ray keeps the process of a task that has ended, and the first write mostly finds it ready, on
    # this node: started once columns wait, it takes seconds to load what a write needs.
    ray.remote(num_cpus=0, scheduling_strategy=here)(_load_what_a_write_needs).remote()
    try:
        yield actor
    finally:
        # Ray Data keeps the plans of its executions, and so this handle.
        with suppress(RayError):
            ray.kill(actor)


def _load_what_a_write_needs() -> None:
    """Nothing is to be done: this module is loaded by then."""
