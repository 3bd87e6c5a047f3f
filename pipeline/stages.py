"""The stages as Ray Data calls them: timed, each telling how long its batches took."""

from dataclasses import dataclass
from typing import Any

from pipeline.attributor import Attributor
from pipeline.load import ClipLoader, Columns
from pipeline.metrics import RunMetrics


@dataclass(frozen=True)
class LoadClips:
    """`ClipLoader`, in a task."""

    loader: ClipLoader
    metrics: RunMetrics

    def __call__(self, rows: Columns) -> Columns:
        """Load a batch of manifest rows."""
        with self.metrics.seconds_of("decode"):
            return self.loader(rows)


class ExplainClips:
    """`Attributor`, in an actor."""

    def __init__(self, metrics: RunMetrics, **attributor: Any) -> None:
        self._metrics = metrics
        self._attributor = Attributor(**attributor)

    def __call__(self, batch: Columns) -> Columns:
        """Explain a batch of clips."""
        with self._metrics.seconds_of("transfer"):
            frames = self._attributor.to_device(batch["frames"])
        # It ends with the results on the host, so what a GPU has still to do is waited for.
        with self._metrics.seconds_of("forward"):
            return self._attributor.explain(frames, batch)
