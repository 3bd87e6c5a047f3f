"""One pass over a run: blocks of clips become clip scores, and sums by group, merged as a tree.

A block is read, scored and summed in one task. So a shard is read once, memory depends on the
number of groups and never on the number of clips, and the graph has about one task per block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import dask.array
import numpy as np
import pandas as pd
import xarray as xr
from dask.base import tokenize
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray

from analysis.clip_scores import PEAKS, SCORES, map_scores
from analysis.sums import Rows, Sums
from pipeline.errors import StoreError
from pipeline.status import Status, failed_rows

da: Any = dask.array
"""Its functions aren't typed."""

Columns = dict[str, NDArray[Any]]

RESULTS = {
    "probability": "probability of the predicted class",
    "margin": "probability of the predicted class minus that of the second",
    "label_probability": "probability of the labelled class",
    "correct": "1 if the prediction is the label, 0 if it isn't, NaN without a label",
}
"""What is summed from the model's answer, besides the scores; a value that a clip lacks isn't
counted."""

SUMMED = (*SCORES, *RESULTS)
"""Columns of a pass's sums, in order; the spatial map and T come behind them."""

_READ = ("status", "label", "prediction", "probability", "label_probability", "top_probabilities")
_ROWS_PER_BLOCK = 2048
"""Rows per block, for a dataset in memory."""
_FAN_IN = 8
"""How many tables one task of the tree merges."""


@dataclass(frozen=True)
class Grouping:
    """How rows are grouped for summing."""

    by: tuple[str, ...]
    """Columns of the dataset with the dimension ``clip`` alone, or ``correct``; a clip's values in
    all of them together name its group."""
    rows: Literal["ok", "failed"] = "ok"
    """Which rows: those with an attribution, or those that failed, which are only counted."""
    histograms: bool = True
    """Keep histograms of the scores, for quantiles: 64 bins for each score and group."""


@dataclass(frozen=True)
class Block:
    """What a pass makes from a block of clips."""

    sums: tuple[Sums, ...]
    """One for each grouping, in order."""
    coverage: int
    """Hash of the rows and the status of each; blocks' hashes add up."""
    columns: Columns
    """Scores and peaks of each row, if requested."""
    spatial_map: NDArray[np.float16]
    """(clips, y, x) of each row, if scores were requested."""


@dataclass(frozen=True)
class Totals:
    """Merged sums of blocks."""

    sums: tuple[Sums, ...]
    coverage: int

    @classmethod
    def of(cls, parts: Sequence["Block | Totals"]) -> "Totals":
        """Merge blocks or totals in their order."""
        merged = tuple(map(Sums.merged, zip(*(part.sums for part in parts), strict=True)))
        return cls(merged, sum(part.coverage for part in parts) % 2**64)


def block_tasks(
    ds: xr.Dataset, groupings: Sequence[Grouping], *, keep_scores: bool = False
) -> list[Delayed]:
    """Make a task for each block of a run, whose result is its `Block`.

    Parameters
    ----------
    ds
        A run from `analysis.open_run`, or a selection of its clips: lazy or in memory.

    Raises
    ------
    StoreError
        When the dataset lacks a column that the pass needs, or a column has an unknown dimension.
    """
    names = [*_READ, *(name for name in ("frame_index", "frame_time") if name in ds)]
    keys = {name for grouping in groupings for name in grouping.by} - {"correct"}
    arrays = {name: _column(ds, name, ("clip", "rank", "frame")) for name in names}
    arrays |= {name: _column(ds, name, ("clip",)) for name in sorted(keys - set(arrays))}
    arrays["temporal"] = _column(ds, "temporal", ("clip", "time"))
    arrays["spatial"] = _column(ds, "spatial", ("clip", "time", "y", "x"))
    rows = arrays["spatial"].chunks[0]
    arrays["row"] = _row_numbers(ds, rows)
    inputs: list[Any] = []
    for name, array in arrays.items():
        whole = dict.fromkeys(range(1, array.ndim), -1)
        inputs += [array.rechunk({0: rows, **whole}), _indices(name, array.ndim)]
    # Dask fuses the reading of an array into the task that uses it, unless that task drops a
    # dimension. So the result, though an object and not an array, is given every dimension there
    # is.
    dims = tuple(dict.fromkeys(dim for indices in inputs[1::2] for dim in indices))
    blocks = da.blockwise(
        partial(
            reduce_block,
            names=tuple(arrays),
            groupings=tuple(groupings),
            keep_scores=keep_scores,
        ),
        dims,
        *inputs,
        dtype=object,
        meta=np.empty((0,) * len(dims), object),
        align_arrays=False,
        name=f"reduce-block-{tokenize(*inputs, groupings, keep_scores)}",
    )
    tasks: list[Delayed] = blocks.to_delayed().ravel().tolist()
    return tasks


def tree(tasks: Sequence[Delayed]) -> Delayed:
    """Merge the tasks' blocks in their order: a task that gives `Totals`."""
    merge = delayed(Totals.of, pure=True)
    level = [merge(list(part)) for part in _in_parts(tasks)]
    while len(level) > 1:
        level = [merge(list(part)) for part in _in_parts(level)]
    root: Delayed = level[0]
    return root


def reduce_block(
    *arrays: NDArray[Any],
    names: tuple[str, ...],
    groupings: tuple[Grouping, ...],
    keep_scores: bool,
) -> Block:
    """Score and sum one block; the arrays come from `block_tasks`, by ``names``."""
    columns = dict(zip(names, arrays, strict=True))
    for name in ("status", "label", "prediction"):
        # `Dataset.where` turns codes into floats, and what it takes out into NaN.
        codes = columns[name]
        if codes.dtype.kind == "f":
            codes = np.nan_to_num(codes, nan=_ABSENT[name])
        columns[name] = codes.astype(np.int64)
    status = columns["status"]
    ok = np.flatnonzero(status == Status.OK)
    here = columns
    if len(ok) < len(status):
        here = {name: column[ok] for name, column in columns.items()}
    scored = map_scores(here["spatial"], here["temporal"])
    results = _results(here)
    n_scores = len(SUMMED)
    _, n_times, height, width = columns["spatial"].shape
    uniform = np.repeat(
        [0.5, 1 / (height * width), 1 / n_times], [n_scores, height * width, n_times]
    )
    values = np.empty((len(ok), len(uniform)))
    for position, column in enumerate((*scored.scores.values(), *results.values())):
        values[:, position] = column
    kept: Columns = {}
    if keep_scores:
        kept = _kept(columns, ok, values[:, :n_scores], scored.peaks)
    values[:, n_scores : n_scores + height * width] = scored.spatial_map
    values[:, n_scores + height * width :] = scored.temporal
    # A multiple of the maps' quantum, so that its difference from a map is exact.
    origin = np.rint(uniform * 2**32) / 2**32
    optional = slice(len(SCORES), n_scores)
    scored_rows = Rows.of(values, origin, n_histograms=n_scores, optional=optional)
    failed = np.flatnonzero(failed_rows(status.astype(np.uint8)))
    sums = []
    for grouping in groupings:
        rows = ok if grouping.rows == "ok" else failed
        data = scored_rows if grouping.rows == "ok" else Rows.counted(len(failed))
        keys = _keys(columns, grouping.by, rows)
        sums.append(Sums.of(keys, data, histograms=grouping.histograms))
    maps = np.zeros((0, height, width), np.float16)
    if keep_scores:
        maps = np.full((len(status), height, width), np.nan, np.float16)
        maps[ok] = scored.spatial_map.reshape(-1, height, width)
    return Block(tuple(sums), row_hash(columns["row"], status), kept, maps)


_ABSENT = {"status": int(Status.PENDING), "label": -1, "prediction": -1}


def row_hash(rows: NDArray[np.integer], status: NDArray[np.integer]) -> int:
    """Hash of rows and the status of each, the same in any order.

    It is the sum of splitmix64 (Steele et al. 2014) over the pairs, modulo 2^64, so that the hashes
    of blocks add up.
    """
    value = rows.astype(np.uint64) * np.uint64(256) + status.astype(np.uint64)
    value += np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int((value ^ (value >> np.uint64(31))).sum(dtype=np.uint64))


def _column(ds: xr.Dataset, name: str, dims: tuple[str, ...]) -> Any:
    if name not in ds.variables:
        raise StoreError(
            f"the dataset has no {name!r}: expected a run from open_run, or a selection of its "
            "clips that keeps every array"
        )
    variable = ds[name]
    if unknown := [str(dim) for dim in variable.dims if dim not in dims]:
        raise StoreError(
            f"{name} has the unknown dimension {unknown[0]!r}: select one item along it first, "
            f"as in ds.isel({unknown[0]}=0)"
        )
    if "clip" not in variable.dims:
        raise StoreError(
            f"{name} has the dimensions {variable.dims}, expected 'clip' among them; select one "
            "clip by a list, as in ds.isel(clip=[5])"
        )
    ordered = variable.transpose(*(dim for dim in dims if dim in variable.dims))
    if isinstance(ordered.data, dask.array.Array):
        return ordered.data
    chunks = (_ROWS_PER_BLOCK, *ordered.shape[1:])
    return da.from_array(ordered.values, chunks=chunks)


def _row_numbers(ds: xr.Dataset, rows: tuple[int, ...]) -> Any:
    index = ds.indexes.get("clip")
    n_rows = ds.sizes["clip"]
    if index is None or isinstance(index, pd.RangeIndex):
        # An index that is a range needn't be in the graph.
        start, step = (0, 1) if index is None else (index.start, index.step)
        return start + step * da.arange(n_rows, chunks=(rows,))
    return da.from_array(np.asarray(index), chunks=(rows,))


def _indices(name: str, ndim: int) -> tuple[str, ...]:
    return ("clip", *(f"{name}-{axis}" for axis in range(1, ndim)))


def _in_parts(tasks: Sequence[Delayed]) -> list[Sequence[Delayed]]:
    return [tasks[start : start + _FAN_IN] for start in range(0, len(tasks), _FAN_IN)]


def _keys(columns: Columns, by: tuple[str, ...], rows: NDArray[np.integer]) -> Columns:
    keys = {}
    for name in by:
        values = _correct(columns) if name == "correct" else columns[name]
        keys[name] = values[rows]
    return keys


def _correct(columns: Columns) -> NDArray[np.int64]:
    right = columns["label"] == columns["prediction"]
    return np.where(columns["label"] >= 0, right, -1).astype(np.int64)


def _results(columns: Columns) -> Columns:
    correct = _correct(columns).astype(np.float64)
    top = columns["top_probabilities"].astype(np.float64)
    margin = top[:, 0] - top[:, 1] if top.shape[1] > 1 else np.full(len(top), np.nan)
    return {
        "probability": columns["probability"].astype(np.float64),
        "margin": margin,
        "label_probability": columns["label_probability"].astype(np.float64),
        "correct": np.where(correct < 0, np.nan, correct),
    }


def _kept(
    columns: Columns,
    ok: NDArray[np.integer],
    values: NDArray[np.float64],
    peaks: dict[str, NDArray[np.int32]],
) -> Columns:
    n_rows = len(columns["status"])
    kept: Columns = {name: columns[name] for name in ("row", "status", "label", "prediction")}
    kept["correct"] = _correct(columns)
    for position, name in enumerate(SUMMED):
        if name != "correct":
            kept[name] = np.full(n_rows, np.nan, np.float32)
            kept[name][ok] = values[:, position]
    for name in PEAKS:
        kept[name] = np.full(n_rows, -1, np.int32)
        kept[name][ok] = peaks[name]
    for name, source in (("peak_frame", "frame_index"), ("peak_s", "frame_time")):
        if source in columns:
            kept[name] = _of_peak(columns[source], kept["peak_time"], columns["temporal"].shape[1])
    return kept


def _of_peak(of_frames: NDArray[Any], peak_time: NDArray[np.int32], n_times: int) -> NDArray[Any]:
    """Take the values (clips, frames) at the first frame of each clip's peak time step."""
    per_step = of_frames.shape[1] // n_times
    first = np.maximum(peak_time, 0)[:, None] * per_step
    absent = np.nan if of_frames.dtype.kind == "f" else -1
    return np.where(peak_time >= 0, np.take_along_axis(of_frames, first, 1)[:, 0], absent)
