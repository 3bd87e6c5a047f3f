"""The stages as Ray Data calls them: timed, each telling how long its batches took."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.attributor import Attributor
from pipeline.load import ClipLoader, Columns
from pipeline.metrics import RunMetrics
from pipeline.status import Status
from pipeline.store import PendingRows, StoreLayout


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


class ExplainClips:
    """`Attributor`, in an actor, for the batches in which a clip has frames."""

    def __init__(self, layout: StoreLayout, metrics: RunMetrics, **attributor: Any) -> None:
        self._layout = layout
        self._metrics = metrics
        self._attributor = Attributor(**attributor)

    def __call__(self, batch: Columns) -> Columns:
        """Explain a batch of clips."""
        if not (batch["status"] == Status.OK).any():
            return self._without_attribution(batch)
        with self._metrics.seconds_of("transfer"):
            frames = self._attributor.to_device(batch["frames"])
        # It ends with the results on the host, so what a GPU has still to do is waited for.
        with self._metrics.seconds_of("forward"):
            return self._attributor.explain(frames, batch)

    def _without_attribution(self, batch: Columns) -> Columns:
        columns = {name: values for name, values in batch.items() if name != "frames"}
        n_clips = len(batch["row"])
        return columns | {
            name: np.full((n_clips, *spec.shape), spec.fill_value, spec.dtype)
            for name, spec in self._layout.arrays().items()
            if name not in batch
        }
