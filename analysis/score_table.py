"""A table of scores, with a row for each row of a run: the start of any further question.

``scores.parquet`` lies beside the run's store: the manifest's columns, the model's answer, and the
scores of `analysis.clip_scores`. One pass over the store makes it, together with the class
statistics. Maps summed over time are kept beside it, since a clip's agreement with its class's mean
can be computed only once the mean is known. Memory doesn't depend on the number of clips.
"""

import json
import mmap
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
import zarr
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray

from analysis.clip_scores import PEAKS, SCORES, agreement
from analysis.manifest_columns import ManifestColumns
from analysis.measured_columns import MEASURED, OF_MASKS, metric_columns
from analysis.reduction import (
    RESULTS,
    SUMMED,
    Block,
    Columns,
    Grouping,
    Totals,
    block_tasks,
    row_hash,
    tree,
)
from analysis.runs import attribute, open_run, record_of
from pipeline.errors import StoreError
from pipeline.status import Status
from pipeline.storage.files import read_bytes, write_bytes
from pipeline.storage.zarr_store import zarr_location
from pipeline.store.run_folder import maps_url, scores_url

SCHEMA = {"name": "staa-scores", "version": 1}
_METADATA = b"staa.scores"

AGREEMENTS = {
    "class_agreement": "Bhattacharyya coefficient of the spatial map and the mean of its class's "
    "other clips: by label, or by prediction in a run without labels",
    "dataset_agreement": "Bhattacharyya coefficient of the spatial map and the mean of all "
    "other clips",
}

_BLOCKS_AT_ONCE = 8
"""How many blocks' scores are in memory at a time."""
_ROWS_AT_ONCE = 1024
"""How many rows' maps are compared with means at a time."""

STANDARD = (
    Grouping(("label",)),
    Grouping(("label",), rows="failed"),
    Grouping(("prediction",)),
)
"""Groupings of every pass; the class statistics come from them."""


@dataclass(frozen=True)
class ScoredRun:
    """What a pass over a run has found."""

    totals: Totals
    """Sums by `STANDARD`, followed by those of the further groupings."""
    url: str
    """Version of the table."""
    notes: tuple[str, ...]
    """What couldn't be read and so isn't in the table."""


def score_run(
    run_url: str,
    *,
    by: Sequence[Grouping] = (),
    manifest: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ScoredRun:
    """Score every clip of a run, write the table beside it, and sum the scores by group.

    Dask computes blocks on its current scheduler: threads, or a cluster. The sums are equal to the
    bit for the same run.

    Parameters
    ----------
    run_url
        The run's folder, any fsspec URL.
    by
        Groupings besides `STANDARD`; their columns are arrays of the run, ``correct``, or columns
        of the manifest.
    manifest
        Where the manifest is now; by default, where it was when the run was made.
    progress
        Called with the number of blocks done and of all blocks.

    Raises
    ------
    StoreError
        When there is no run, a column isn't known, or the table can't be written.
    """
    ds = open_run(run_url)
    notes: list[str] = []
    columns = ManifestColumns.of_run(ds, manifest, notes)
    keys = {name for grouping in by for name in grouping.by} - {"correct"} - set(ds.variables)
    tasks = block_tasks(columns.assign_to(ds, sorted(keys)), (*STANDARD, *by), keep_scores=True)
    kept = delayed(_kept, pure=True)
    parts: list[Totals] = []
    with tempfile.TemporaryDirectory(prefix="staa-scores-") as folder:
        first = _Parts(Path(folder) / "scores.parquet")
        maps = _MapsWriter(maps_url(run_url), ds)
        for start in range(0, len(tasks), _BLOCKS_AT_ONCE):
            batch: list[Delayed] = tasks[start : start + _BLOCKS_AT_ONCE]
            totals, *blocks = dask.compute(tree(batch), *map(kept, batch))  # type: ignore[attr-defined, no-untyped-call]
            parts.append(totals)
            first.write(_concatenated([table for table, _ in blocks]))
            maps.write(np.concatenate([table for _, table in blocks]))
            if len(parts) > 1:
                parts = [Totals.of(parts)]
            if progress:
                progress(min(start + _BLOCKS_AT_ONCE, len(tasks)), len(tasks))
        first.close()
        merged = parts[0]
        maps.finish(attribute(ds, "identity"), merged.coverage)
        rows = _Finished(ds, merged, columns, metric_columns(run_url, ds, notes), maps)
        target = Path(folder) / "finished.parquet"
        _write_finished(target, first, rows)
        _upload(target, scores_url(run_url))
    return ScoredRun(merged, scores_url(run_url), tuple(notes))


def _upload(path: Path, url: str) -> None:
    """Copy a local file to a URL without reading all of it into memory."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        view = memoryview(data)
        try:
            write_bytes(url, view)
        finally:
            view.release()


def with_current_metrics(table: pd.DataFrame, run_url: str, ds: xr.Dataset) -> pd.DataFrame:
    """Replace what `jobs.evaluate` had measured as a table was made by what it has measured since.

    These are the columns of `MEASURED` and those of the marked region.
    """
    measured = metric_columns(run_url, ds, [])
    names = (*MEASURED, *OF_MASKS)
    current = table.drop(columns=list(names), errors="ignore")
    return current.assign(**{name: measured[name] for name in names if name in measured})


def scores(
    run_url: str, columns: Sequence[str] | None = None, *, make: bool = True
) -> pd.DataFrame:
    """Table of a run's scores, with a row for each row of the run; computed if there is none.

    Parameters
    ----------
    columns
        The columns to read; by default all.
    make
        Whether to compute the table where there is none; otherwise nothing is written.

    Returns
    -------
    DataFrame whose index is the run's row. ``label``, ``prediction``, ``status`` and the manifest's
    texts are categories or strings, missing if unknown; scores are NaN for a clip without
    attribution. `describe_scores` says what each column is.

    Raises
    ------
    StoreError
        When the run has gone on since the table was made, or the table lacks a column.
    """
    url = scores_url(run_url)
    try:
        data = read_bytes(url)
    except FileNotFoundError as error:
        if not make:
            open_run(run_url)
            raise StoreError(
                f"there is no table of scores at {url}: jobs.aggregate makes it"
            ) from error
        score_run(run_url)
        data = read_bytes(url)
    file = pq.ParquetFile(pa.BufferReader(data))
    about = _about(file, url)
    check_scores_current(about, open_run(run_url), url)
    known = file.schema_arrow.names
    if unknown := [name for name in columns or () if name not in known]:
        raise StoreError(f"{url} has no column {unknown[0]!r}; it has {', '.join(known)}")
    wanted = None if columns is None else list(dict.fromkeys(["row", *columns]))
    table: pd.DataFrame = file.read(columns=wanted).to_pandas()
    return table.set_index("row")


def describe_scores() -> pd.Series:
    """Say what each score means: descriptions by column."""
    described = {**SCORES, **RESULTS, **PEAKS, **AGREEMENTS, **_PLACES, **MEASURED}
    return pd.Series(described, name="description")


_PLACES = {
    "peak_frame": "number of the frame, in the clip's file, at which the peak time step begins",
    "peak_s": "second in the clip's file at which the peak time step begins",
}


def check_scores_current(about: dict[str, Any], ds: xr.Dataset, url: str) -> None:
    """Refuse a table of another run, or that doesn't match the run's rows as they are now."""
    again = "jobs.aggregate makes it again"
    if about["identity"] != attribute(ds, "identity"):
        raise StoreError(f"{url} is not of the run beside it; {again}")
    status = ds["status"].values
    if about["coverage"] != row_hash(np.arange(len(status)), status):
        n_done = int((status != Status.PENDING).sum())
        raise StoreError(
            f"{url} doesn't match the run's rows as they are now ({n_done} of {len(status)} are "
            f"done); {again}"
        )


def _about(file: pq.ParquetFile, url: str) -> dict[str, Any]:
    metadata = file.schema_arrow.metadata or {}
    about: dict[str, Any] = json.loads(metadata.get(_METADATA, b"{}"))
    if about.get("schema") != SCHEMA:
        raise StoreError(
            f"{url} is not a table of scores of schema {SCHEMA}; jobs.aggregate makes it"
        )
    return about


def _kept(block: Block) -> tuple[Columns, NDArray[np.float16]]:
    return block.columns, block.spatial_map


def _concatenated(tables: Sequence[Columns]) -> pa.Table:
    return pa.table({name: np.concatenate([table[name] for table in tables]) for name in tables[0]})


class _Parts:
    """A pass's scores on a local disk, batch by batch."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="lz4")
        self._writer.write_table(table, row_group_size=len(table))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def __iter__(self) -> Iterator[pa.Table]:
        with pq.ParquetFile(self._path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group)


class _MapsWriter:
    """Writes ``spatial_maps.zarr``: each clip's map, summed over time, float16 (clip, y, x)."""

    def __init__(self, url: str, ds: xr.Dataset) -> None:
        n_rows, _, height, width = ds["spatial"].shape
        self._group = zarr.create_group(zarr_location(url), overwrite=True)
        self._rows = max(1, int(ds["spatial"].data.chunks[0][0]))
        self._array: Any = self._group.create_array(
            "spatial_map",
            shape=(n_rows, height, width),
            chunks=(self._rows, height, width),
            dtype="float16",
            fill_value=float("nan"),
            dimension_names=("clip", "y", "x"),
            attributes={"description": "sum of A over time: where the weight lies; sums to 1"},
        )
        self._written = 0

    def write(self, maps: NDArray[np.float16]) -> None:
        self._array[self._written : self._written + len(maps)] = maps
        self._written += len(maps)

    def finish(self, identity: Any, coverage: int) -> None:
        about = {"schema": {"name": "staa-maps", "version": 1}, "coverage": str(coverage)}
        self._group.update_attributes({**about, "identity": identity})

    def read(self, start: int, stop: int) -> NDArray[np.float64]:
        maps = self._array[start:stop]
        flat: NDArray[np.float64] = maps.reshape(len(maps), -1).astype(np.float64)
        return flat


@dataclass(frozen=True)
class _Finished:
    """Adds to a batch of scores what the whole run, the store's texts and the manifest say."""

    ds: xr.Dataset
    totals: Totals
    manifest: ManifestColumns
    metrics: dict[str, NDArray[np.float32]]
    maps: _MapsWriter

    def table(self, scored: pa.Table) -> pa.Table:
        rows = scored["row"].to_numpy()
        names = np.array(record_of(self.ds).class_names, object)
        n_views = len(record_of(self.ds).views)
        status = scored["status"].to_numpy()
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        video_id = self.ds["video_id"].isel(clip=part).values.astype(object)
        columns: dict[str, Any] = {
            "row": rows,
            "view": (rows % n_views).astype(np.int32),
            "video_id": video_id,
        }
        of_manifest = _without_removed(self.manifest.rows(rows // n_views), status)
        columns |= {name: of_manifest.get(name) for name in ("path", "split")}
        columns |= {
            "label": _named(scored["label"].to_numpy(), names),
            "prediction": _named(scored["prediction"].to_numpy(), names),
            "label_index": scored["label"].to_numpy().astype(np.int32),
            "prediction_index": scored["prediction"].to_numpy().astype(np.int32),
        }
        correct = scored["correct"].to_numpy()
        columns["correct"] = pa.array(correct == 1, mask=correct < 0)
        labels = [Status(code).label for code in range(int(max(Status)) + 1)]
        columns["status"] = _named(status, np.array(labels, object))
        described = [name for name in (*RESULTS, *SCORES) if name != "correct"]
        columns |= {name: scored[name] for name in described}
        columns |= self._agreements(scored, part)
        columns |= {
            name: scored[name] for name in (*PEAKS, *_PLACES) if name in scored.schema.names
        }
        columns |= {name: values[part] for name, values in self.metrics.items()}
        for name, values in of_manifest.items():
            if name not in ("video_id", "path", "split", "label"):
                columns[f"manifest_{name}" if name in columns else name] = values
        return pa.table(
            {
                name: pa.nulls(len(rows), pa.string()) if values is None else values
                for name, values in columns.items()
            }
        )

    def _agreements(self, scored: pa.Table, part: slice) -> dict[str, NDArray[np.float32]]:
        groups = {name: scored[name].to_numpy() for name in ("label", "prediction")}
        parts = [
            self._agreements_of(
                {name: codes[start : start + _ROWS_AT_ONCE] for name, codes in groups.items()},
                self.maps.read(
                    part.start + start, min(part.start + start + _ROWS_AT_ONCE, part.stop)
                ),
            )
            for start in range(0, part.stop - part.start, _ROWS_AT_ONCE)
        ]
        return {name: np.concatenate([one[name] for one in parts]) for name in AGREEMENTS}

    def _agreements_of(
        self, codes: dict[str, NDArray[np.integer]], maps: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float32]]:
        if not self.totals.sums[2].n.any():
            return dict.fromkeys(AGREEMENTS, np.full(len(maps), np.nan, np.float32))
        labelled = self.totals.sums[0]
        by, sums = "label", labelled
        if not (labelled.keys.get_level_values(0) >= 0).any():
            by, sums = "prediction", self.totals.sums[2]
        where = slice(len(SUMMED), len(SUMMED) + maps.shape[1])
        at = sums.keys.get_level_values(0).get_indexer(pd.Index(codes[by]))
        known = (at >= 0) & (codes[by] >= 0)
        total = sums.total[:, where] + sums.n[:, None] * sums.origin[where]
        result = {}
        for name, mass, count in (
            ("class_agreement", total[at], np.where(known, sums.n[at], 0)),
            ("dataset_agreement", total.sum(axis=0), np.full(len(maps), sums.n.sum())),
        ):
            # Leave out the clip itself, which would agree too well with a mean of few clips.
            others = count - 1
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = np.maximum(mass - maps, 0) / others[:, None]
            values = agreement(maps, mean)
            result[name] = np.where(others > 0, values, np.nan).astype(np.float32)
        return result


def _without_removed(
    columns: dict[str, pa.ChunkedArray], status: NDArray[np.integer]
) -> dict[str, pa.ChunkedArray]:
    """Leave out what the manifest says about rows that `jobs.forget` has taken out of the run."""
    removed = status == Status.REMOVED
    if not removed.any():
        return columns
    kept = pa.array(np.arange(len(removed)), pa.int64(), mask=removed)
    return {name: column.take(kept) for name, column in columns.items()}


def _named(codes: NDArray[np.integer], names: NDArray[Any]) -> pa.Array:
    """Names of codes, as a dictionary array; null for a code without a name."""
    unknown = (codes < 0) | (codes >= len(names))
    indices = pa.array(np.where(unknown, 0, codes).astype(np.int32), mask=unknown)
    return pa.DictionaryArray.from_arrays(indices, pa.array(names, pa.string()))


def _write_finished(path: Path, parts: _Parts, rows: _Finished) -> None:
    about = {
        "schema": SCHEMA,
        "identity": attribute(rows.ds, "identity"),
        "coverage": rows.totals.coverage,
        "descriptions": describe_scores().to_dict(),
    }
    writer: pq.ParquetWriter | None = None
    for part in parts:
        table = rows.table(part)
        if writer is None:
            schema = table.schema.with_metadata({_METADATA: json.dumps(about).encode()})
            writer = pq.ParquetWriter(path, schema, compression="zstd")
        writer.write_table(table.cast(writer.schema), row_group_size=len(table))
    if writer is None:
        raise StoreError("the run has no rows: there is nothing to score")
    writer.close()
