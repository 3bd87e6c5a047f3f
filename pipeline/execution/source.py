"""Ray Datasource: the rows of pending shards, one block per task."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial

import numpy as np
import pyarrow as pa
from ray.data import DataContext
from ray.data.block import Block, BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from pipeline.clips.views import Views
from pipeline.dataset.manifest import ROWS_PER_GROUP, Manifest


class ManifestSource(Datasource):  # type: ignore[misc]
    """Reads ranges of a run's rows, each as one block with their numbers in the column ``row``.

    A row of the manifest is repeated for each of its views.

    A range is whole batches of the model and lies inside one shard. Batches are thereby a function
    of the row numbers alone: the same whether a run is resumed or not, and so are the bits they
    give.
    The driver holds the ranges, not the rows.
    """

    def __init__(self, manifest: Manifest, ranges: Sequence[range], views: Views) -> None:
        self._manifest = manifest
        self._views = views
        self._ranges = ranges

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown; rows are small beside the frames that come of them."""
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
        read: Callable[[], Iterable[Block]] = partial(_read, self._manifest, rows, self._views)
        return ReadTask(read, metadata)


def _read(manifest: Manifest, rows: range, views: Views) -> list[pa.Table]:
    numbers = views.video(np.asarray(rows))
    first, last = int(numbers[0]) // ROWS_PER_GROUP, int(numbers[-1]) // ROWS_PER_GROUP
    groups = pa.concat_tables([_group(manifest, group) for group in range(first, last + 1)])
    table = groups.take(pa.array(numbers - first * ROWS_PER_GROUP))
    return [table.append_column("row", pa.array(rows, pa.int64()))]


@lru_cache(maxsize=2)
def _group(manifest: Manifest, group: int) -> pa.Table:
    """Rows of a row group, kept for the batches that a worker gets next: they lie beside."""
    start = group * ROWS_PER_GROUP
    return manifest.rows(start, min(start + ROWS_PER_GROUP, manifest.n_rows))
