"""Ray Datasink: one block is one shard, committed once."""

from collections.abc import Iterable

import numpy as np
import ray
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import Datasink

from pipeline.progress import count_shard
from pipeline.status import Status
from pipeline.store import open_store, write_shard


class ShardSink(Datasink):  # type: ignore[misc]
    """Writes blocks of whole shards to a store, and tells ``progress`` of each one committed."""

    def __init__(self, store_url: str, progress: ray.actor.ActorHandle) -> None:
        self._store_url = store_url
        self._progress = progress

    def write(self, blocks: Iterable[Block], ctx: object) -> None:
        """Write each block; `StoreError` if one isn't exactly one shard."""
        group = open_store(self._store_url, mode="r+")
        for block in blocks:
            columns = BlockAccessor.for_block(block).to_numpy()
            rows = columns.pop("row")
            for name in ("video_id", "message"):
                columns[name] = columns[name].astype(np.dtypes.StringDType())
            write_shard(group, columns, rows)
            n_failed = int(np.sum(columns["status"] != Status.OK))
            count_shard(self._progress, int(rows[0]), done=len(rows), failed=n_failed)
