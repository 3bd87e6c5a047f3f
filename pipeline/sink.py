"""Ray Datasink: one block is one shard, committed once."""

import logging
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import Datasink

from pipeline.logs import LogFormat, fields, set_up_logging
from pipeline.metrics import RunMetrics
from pipeline.progress import count_shard
from pipeline.status import Status
from pipeline.store import PendingRows, StoreLayout, open_store, store_layout, write_shard

_LOGGER = logging.getLogger(__name__)


class ShardSink(Datasink):  # type: ignore[misc]
    """Writes blocks of whole shards to a store, and tells ``progress`` of each one committed.

    ``pending`` are the rows that the run is to compute.
    """

    def __init__(
        self,
        store_url: str,
        pending: PendingRows,
        progress: ray.actor.ActorHandle,
        metrics: RunMetrics,
        log_format: LogFormat,
    ) -> None:
        self._store_url = store_url
        self._pending = pending
        self._progress = progress
        self._metrics = metrics
        self._log_format = log_format

    def write(self, blocks: Iterable[Block], ctx: object) -> None:
        """Write each block; `StoreError` if one isn't exactly one shard."""
        set_up_logging(self._log_format, logging.INFO)
        group = open_store(self._store_url, mode="r+")
        for block in blocks:
            columns = BlockAccessor.for_block(block).to_numpy()
            rows = columns.pop("row")
            for name in ("video_id", "message"):
                columns[name] = columns[name].astype(np.dtypes.StringDType())
            started = time.perf_counter()
            with self._metrics.seconds_of("write"):
                written = write_shard(group, columns, rows)
            seconds = time.perf_counter() - started
            # What a task finds committed, another committed and may not have told of.
            new = self._pending.mask(rows)
            new_columns = {name: values[new] for name, values in columns.items()}
            self._tell(store_layout(group), new_columns, rows[new], seconds, bool(written.any()))

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
