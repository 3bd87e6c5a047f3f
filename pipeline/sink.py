"""Ray Datasink: one write is one shard, committed once."""

from collections.abc import Iterable
from functools import lru_cache
from uuid import uuid4

import numpy as np
import ray
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import Datasink
from zarr.core.group import Group

from pipeline.progress import count_shard
from pipeline.status import Status
from pipeline.store import open_store, write_shard


class ShardSink(Datasink):  # type: ignore[misc]
    """Writes whole shards to a store, and tells ``progress`` of each one committed.

    Blocks come in the order of their rows, and a shard's end is the end of a block. So the blocks
    that Ray Data gathers up to ``rows_per_shard`` rows are one shard exactly; the last shard, which
    may be short, is what is left at the end. A write that gets anything else is refused.
    """

    def __init__(
        self, store_url: str, rows_per_shard: int, progress: ray.actor.ActorHandle
    ) -> None:
        self._store_url = store_url
        self._rows_per_shard = rows_per_shard
        self._progress = progress
        self._run = uuid4().hex

    @property
    def min_rows_per_write(self) -> int:
        """Rows that Ray Data gathers for one write."""
        return self._rows_per_shard

    def write(self, blocks: Iterable[Block], ctx: object) -> None:
        """Write the blocks of one shard; `StoreError` if they aren't exactly that."""
        batches = [BlockAccessor.for_block(block).to_numpy() for block in blocks]
        columns = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        rows = columns.pop("row")
        for name in ("video_id", "message"):
            columns[name] = columns[name].astype(np.dtypes.StringDType())
        write_shard(_opened(self._store_url, self._run), columns, rows)
        n_failed = int(np.sum(columns["status"] != Status.OK))
        count_shard(self._progress, int(rows[0]), done=len(rows), failed=n_failed)


@lru_cache(maxsize=1)
def _opened(store_url: str, run: str) -> Group:
    """Open the store of a run once in each worker: that reads the metadata of every array."""
    return open_store(store_url, mode="r+")
