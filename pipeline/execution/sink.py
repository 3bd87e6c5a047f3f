"""Ray Datasink: one write is one shard, committed once."""

import logging
from collections.abc import Iterable

from ray.data.block import Block, BlockAccessor
from ray.data.datasource import Datasink

from pipeline.logs import LogFormat, set_up_logging
from pipeline.run.steps import Write, concatenated


class ShardSink(Datasink):  # type: ignore[misc]
    """Gathers whole shards, and has them written by ``write``.

    Blocks come in the order of their rows, and a shard's end is the end of a block. So the blocks
    that Ray Data gathers up to ``rows_per_shard`` rows are one shard exactly; the last shard, which
    may be short, is what is left at the end. A write that gets anything else is refused.
    """

    def __init__(self, write: Write, rows_per_shard: int, log_format: LogFormat) -> None:
        self._write = write
        self._rows_per_shard = rows_per_shard
        self._log_format = log_format

    @property
    def min_rows_per_write(self) -> int:
        """Rows that Ray Data gathers for one write."""
        return self._rows_per_shard

    def write(self, blocks: Iterable[Block], ctx: object) -> None:
        """Write the blocks of one shard; `StoreError` if they aren't exactly that."""
        set_up_logging(self._log_format, logging.INFO)
        self._write(concatenated([BlockAccessor.for_block(block).to_numpy() for block in blocks]))
