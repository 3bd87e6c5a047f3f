"""Ray Datasource: the rows of pending shards, one block per task."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
from ray.data import DataContext
from ray.data.block import Block, BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from pipeline.clips.views import Views
from pipeline.dataset.manifest import Manifest
from pipeline.run.steps import read_rows
from pipeline.run.tally import Channel


# Ray's types aren't followed: its class is `Any`.
class ManifestSource(Datasource):  # type: ignore[misc]
    """Reads ranges of a run's rows, each as one block, as `read_rows` gives them.

    A range is whole batches of the model and lies inside one shard. Batches therefore depend on the
    row numbers alone, so a resumed run has the same batches, which give the same bits. The driver
    holds the ranges, not the rows.
    """

    def __init__(
        self, manifest: Manifest, ranges: Sequence[range], views: Views, channel: Channel
    ) -> None:
        self._manifest = manifest
        self._views = views
        self._ranges = ranges
        self._channel = channel

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown; rows are small compared with the frames that are decoded from them."""
        return None

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        """One task per range, whatever the parallelism: a block must be whole batches."""
        return [self._read_task(rows) for rows in self._ranges]

    def _read_task(self, rows: range) -> ReadTask:
        metadata = BlockMetadata(
            num_rows=len(rows), size_bytes=None, input_files=None, exec_stats=None
        )
        read: Callable[[], Iterable[Block]] = partial(
            _read, self._manifest, rows, self._views, self._channel
        )
        return ReadTask(read, metadata)


def _read(manifest: Manifest, rows: range, views: Views, channel: Channel) -> list[pa.Table]:
    with channel.step("read", np.asarray(rows)):
        return [read_rows(manifest, rows, views)]
