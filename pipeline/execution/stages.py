"""What is done to the rows of a run, as Ray Data calls it: load in tasks, attribute in actors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.clips.columns import Columns
from pipeline.clips.loader import ClipLoader
from pipeline.execution.metrics import RunMetrics
from pipeline.models.attributor import Attributor
from pipeline.run.plan import Plan
from pipeline.run.resources import ModelPool

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
            segments=plan.manifest.segments,
            decoder=config.decoder,
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
