"""What is done to the rows of a run, as Ray Data calls it: load in tasks, attribute in actors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.attributor import Attributor
from pipeline.cluster import ModelPool
from pipeline.errors import StorageError
from pipeline.load import ClipLoader, Columns
from pipeline.metrics import RunMetrics
from pipeline.plan import Plan
from pipeline.store import PendingRows

_PROCESS_BYTES = 1_000_000_000
"""Memory of a process that has loaded torch, with room for the frames of a batch."""


@dataclass(frozen=True)
class Stages:
    """What is done to a batch: first in a task, then in an actor that holds the model."""

    load: Callable[[Columns], Columns]
    """Manifest rows to frames, as `ClipLoader`."""
    attribute: type
    """Class of the actors, whose calls take what ``load`` gives to columns, as `Attributor`."""
    attribute_arguments: Mapping[str, Any]
    """Keyword arguments of ``attribute``."""
    attribute_bytes: int
    """Memory of an actor's process, reserved."""


def real_stages(plan: Plan, pool: ModelPool, metrics: RunMetrics) -> Stages:
    """Decode and attribute, as the plan says."""
    config, checkpoint = plan.config, plan.checkpoint
    return Stages(
        load=ClipLoader(
            root=plan.manifest.root,
            views=plan.views,
            input_size=checkpoint.geometry.input_size,
            class_of_label=plan.class_of_label,
            decode_timeout_s=config.decode_timeout,
            decode_memory_bytes=int(config.decode_memory),
        ),
        attribute=Attributor,
        attribute_arguments={
            "timed": metrics.seconds_of,
            "checkpoint": checkpoint,
            "method": config.method,
            "layout": plan.layout,
            "device": pool.device,
            "precision": config.precision,
            "compile_model": config.compile_model,
            "n_threads": max(1, int(config.cpus_per_model)),
        },
        # For the weights, as read and as loaded.
        attribute_bytes=_PROCESS_BYTES + 2 * checkpoint.weights_bytes,
    )


@dataclass(frozen=True)
class LoadPending:
    """A loader of clips for the rows that are pending, telling how long a task took.

    Rows that are done keep their place in the batch, with status pending and zeros: batches have
    the same shape whichever of their rows are computed, and so the results have the same bits. What
    is stored of these rows stays, see `pipeline.store.write_shard`.
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
