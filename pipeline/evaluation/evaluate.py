"""Evaluates the attributions of a run and stores a value per clip beside it, row for row."""

from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.evaluation.ground_truth import (
    Lift,
    center_gaussian,
    lift,
    share_covered,
    share_on_mask,
    uniform_attribution,
)
from pipeline.focus import joint_attribution
from pipeline.preprocess import Preprocessing
from pipeline.status import Status
from pipeline.storage import zarr_location
from pipeline.store import in_run, open_store, store_layout, store_url
from pipeline.synthetic.ground_truth import GroundTruth

METRICS_NAME = "metrics.zarr"
"""Name of the store of metrics in a run's folder."""

_SCHEMA = {"name": "staa-metrics", "version": 1}

METHODS = ("staa", "uniform", "center_gaussian")
"""The run's attribution, and two maps that don't look at the clip."""


def evaluate_lift(run_url: str, truth: GroundTruth) -> dict[str, Lift]:
    """Lift of a run's attributions, and of the maps to compare them with, over all its ok clips.

    Writes ``mask_covered`` and ``mask_share_<method>`` (clip) float32 to ``metrics.zarr`` in the
    run's folder; NaN where the clip has no attribution, or is pending.

    Raises
    ------
    StoreError
        If there is no run at the URL, no clip is ok, one has no attribution or no ground truth, the
        ground truth is of other clips, or the metrics can't be written.
    """
    group: Any = open_store(store_url(run_url))
    layout = store_layout(group)
    preprocessing = Preprocessing.from_dict(group.attrs["preprocessing"])
    grid = (layout.n_times, layout.height, layout.width)
    constant = {"uniform": uniform_attribution(*grid), "center_gaussian": center_gaussian(*grid)}
    columns = {
        name: np.full(layout.n_rows, np.nan)
        for name in ("mask_covered", *(f"mask_share_{method}" for method in METHODS))
    }
    for shard in range(layout.n_shards):
        rows = layout.shard_rows(shard)
        part = slice(rows.start, rows.stop)
        ok = np.flatnonzero(group["status"][part] == Status.OK)
        if not len(ok):
            continue
        video_ids, frame_index = group["video_id"][part][ok], group["frame_index"][part][ok]
        mask = np.stack(
            [
                truth.patches(str(video_id), frames, preprocessing, grid)
                for video_id, frames in zip(video_ids, frame_index, strict=True)
            ]
        )
        maps: dict[str, NDArray[np.floating]] = {
            name: np.broadcast_to(value, mask.shape) for name, value in constant.items()
        }
        maps["staa"] = joint_attribution(group["spatial"][part][ok], group["temporal"][part][ok])
        columns["mask_covered"][rows.start + ok] = share_covered(mask)
        for method in METHODS:
            columns[f"mask_share_{method}"][rows.start + ok] = share_on_mask(maps[method], mask)
        if np.isnan(maps["staa"]).any():
            raise StoreError(
                f"{run_url}: ok clips in rows {rows.start} to {rows.stop - 1} have no attribution: "
                "the store has lost objects"
            )
    evaluated = np.isfinite(columns["mask_covered"])
    if not evaluated.any():
        raise StoreError(f"{run_url}: no clip is ok, so there is nothing to evaluate")
    covered = columns["mask_covered"][evaluated]
    if not covered.any():
        raise StoreError(f"{run_url}: the model saw no action, so there is nothing to evaluate")
    try:
        _write_metrics(metrics_url(run_url), columns, group.attrs["identity"])
    except OSError as error:
        raise StoreError(f"can't write metrics to {metrics_url(run_url)}: {error}") from error
    return {method: lift(columns[f"mask_share_{method}"][evaluated], covered) for method in METHODS}


def metrics_url(run_url: str) -> str:
    """Where the metrics are in a run's folder."""
    return in_run(run_url, METRICS_NAME)


def _write_metrics(url: str, columns: dict[str, NDArray[np.float64]], identity: Any) -> None:
    group = zarr.create_group(zarr_location(url), overwrite=True)
    for name, values in columns.items():
        array: Any = group.create_array(
            name,
            shape=values.shape,
            dtype="float32",
            fill_value=float("nan"),
            dimension_names=("clip",),
        )
        array[:] = values
    group.update_attributes({"schema": _SCHEMA, "identity": identity})
