"""Loading as Ray Data calls it: of the rows that are pending, telling how long a batch took."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.load import ClipLoader, Columns
from pipeline.metrics import RunMetrics
from pipeline.store import PendingRows


@dataclass(frozen=True)
class LoadClips:
    """`ClipLoader`, in a task, for the rows that are pending.

    Rows that are done keep their place in the batch, with status pending and zeros: batches have
    the same shape whichever of their rows are computed, and so the results have the same bits. What
    is stored of these rows stays, see `pipeline.store.write_shard`.
    """

    loader: ClipLoader
    pending: PendingRows
    metrics: RunMetrics

    def __call__(self, rows: Columns) -> Columns:
        """Load a batch of manifest rows."""
        mask = self.pending.mask(rows["row"])
        with self.metrics.seconds_of("decode"):
            loaded = self.loader({name: values[mask] for name, values in rows.items()})
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
