"""Ray Datasink: one write is one shard, committed once."""

import logging
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Any
from uuid import uuid4

import numpy as np
import ray
from numpy.typing import NDArray
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import Datasink

from pipeline.execution.counter import count_shard
from pipeline.execution.metrics import RunMetrics
from pipeline.logs import LogFormat, fields, set_up_logging
from pipeline.status import Status
from pipeline.store.opening import Store, open_store
from pipeline.store.pending import PendingRows
from pipeline.store.schema import StoreLayout
from pipeline.store.shards import write_shard

_LOGGER = logging.getLogger(__name__)


class ShardSink(Datasink):  # type: ignore[misc]
    """Writes whole shards to a store, and tells ``progress`` of each one committed.

    Blocks come in the order of their rows, and a shard's end is the end of a block. So the blocks
    that Ray Data gathers up to ``rows_per_shard`` rows are one shard exactly; the last shard, which
    may be short, is what is left at the end. A write that gets anything else is refused.
    ``pending`` are the rows that the run is to compute.
    """

    def __init__(
        self,
        store_url: str,
        rows_per_shard: int,
        pending: PendingRows,
        progress: ray.actor.ActorHandle,
        metrics: RunMetrics,
        log_format: LogFormat,
    ) -> None:
        self._store_url = store_url
        self._rows_per_shard = rows_per_shard
        self._pending = pending
        self._progress = progress
        self._metrics = metrics
        self._log_format = log_format
        self._pass = uuid4().hex

    @property
    def min_rows_per_write(self) -> int:
        """Rows that Ray Data gathers for one write."""
        return self._rows_per_shard

    def write(self, blocks: Iterable[Block], ctx: object) -> None:
        """Write the blocks of one shard; `StoreError` if they aren't exactly that."""
        set_up_logging(self._log_format, logging.INFO)
        store = _opened(self._store_url, self._pass)
        batches = [BlockAccessor.for_block(block).to_numpy() for block in blocks]
        columns = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        rows = columns.pop("row")
        for name in ("video_id", "message"):
            columns[name] = columns[name].astype(np.dtypes.StringDType())
        started = time.perf_counter()
        with self._metrics.seconds_of("write"):
            written = write_shard(store, columns, rows)
        seconds = time.perf_counter() - started
        # What a task finds committed, another committed and may not have told of.
        new = self._pending.mask(rows)
        new_columns = {name: values[new] for name, values in columns.items()}
        self._tell(store.layout, new_columns, rows[new], seconds, bool(written.any()))

    def _tell(
        self,
        layout: StoreLayout,
        columns: dict[str, NDArray[Any]],
        rows: NDArray[np.int64],
        seconds: float,
        committed: bool,
    ) -> None:
        codes, n_rows = np.unique(columns["status"], return_counts=True)
        counts = {Status(code).label: int(n) for code, n in zip(codes, n_rows, strict=True)}
        n_bytes = sum(values.nbytes for values in columns.values())
        first_row = int(rows[0])
        _LOGGER.info(
            "shard committed" if committed else "shard found committed",
            extra=fields(
                run=self._metrics.run,
                shard=first_row // layout.rows_per_shard,
                rows=len(rows),
                **counts,
                bytes=n_bytes,
                seconds=round(seconds, 3),
            ),
        )
        count_shard(self._progress, first_row, counts, n_bytes)


@lru_cache(maxsize=1)
def _opened(store_url: str, _pass: str) -> Store:
    """Open the store once in each worker and pass: that reads the metadata of every array."""
    return open_store(store_url, mode="r+")
