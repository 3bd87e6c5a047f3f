"""The loading task: only pending rows are loaded, and every row keeps its place."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.columns import Columns
from pipeline.errors import StorageError
from pipeline.execution.metrics import RunMetrics
from pipeline.store.pending import PendingRows


@dataclass(frozen=True)
class LoadPending:
    """A loader of clips for the rows that are pending, telling how long a task took.

    Rows that are done keep their place in the batch, with status pending and zeros: batches have
    the same shape whichever of their rows are computed, and so the results have the same bits. What
    is stored of these rows stays, see `pipeline.store.shards.write_shard`.
    """

    load: Callable[[Columns], Columns]
    pending: PendingRows
    metrics: RunMetrics

    def __call__(self, rows: Columns) -> Columns:
        """Load some manifest rows; a `StorageError` says which."""
        mask = self.pending.mask(rows["row"])
        try:
            with self.metrics.seconds_of("decode"):
                loaded = self.load({name: values[mask] for name, values in rows.items()})
        except StorageError as error:
            first, last = rows["row"][0], rows["row"][-1]
            raise StorageError(f"rows {first} to {last}: {error}") from error
        columns = {name: _spread(values, mask) for name, values in loaded.items()}
        return columns | {"row": rows["row"]}


def _spread(values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Put values where the mask is set, and zeros or empty texts elsewhere."""
    if mask.all():
        return values
    spread = np.zeros((len(mask), *values.shape[1:]), values.dtype)
    if values.dtype == object:
        spread[:] = ""
    spread[mask] = values
    return spread
