"""Columns of the manifest, for the rows of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
from numpy.typing import NDArray

from analysis.runs import record_of
from pipeline.clips.views import Views
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.row_groups import ROWS_READ_AT_ONCE, tables
from pipeline.errors import ManifestError, StoreError
from pipeline.storage.files import RetryingReader, open_filesystem


@dataclass(frozen=True)
class ManifestColumns:
    """Every column that a run's manifest has; no columns if it can't be read."""

    file: pq.ParquetFile | None
    names: tuple[str, ...]
    views: Views
    rows_at_once: int = ROWS_READ_AT_ONCE
    """Most rows that are read at a time, as `pipeline.dataset.row_groups.tables` has it."""

    @classmethod
    def of_run(cls, ds: xr.Dataset, url: str | None, notes: list[str]) -> "ManifestColumns":
        """Open a run's manifest, at ``url`` or where it was when the run was made.

        Raises
        ------
        ManifestError
            When a ``url`` was given and the manifest there isn't the run's. Without a ``url``, a
            note is added instead.
        """
        record = record_of(ds)
        where = url or str(record.config["manifest"])
        try:
            manifest = read_manifest(where)
            identity = record.identity.manifest
            n_rows = record.views.video(record.layout.n_rows)
            same = manifest.digest == identity
            # --append later takes in what was added to a run's manifest.
            longer = manifest.n_rows > n_rows and manifest.digest_of_first(n_rows) == identity
            if not (same or longer):
                raise ManifestError(
                    f"manifest {where} isn't the one that the run was made from: its rows differ"
                )
            filesystem, path = open_filesystem(where)
            file = pq.ParquetFile(RetryingReader(filesystem, path))
        except ManifestError as error:
            if url is not None:
                raise
            notes.append(f"{error}; its paths, splits and other columns are left out")
            return cls(None, (), record.views)
        return cls(file, tuple(file.schema_arrow.names), record.views)

    def rows(self, rows: NDArray[np.integer]) -> dict[str, pa.ChunkedArray]:
        """Columns for some of the manifest's rows, given in ascending order."""
        if self.file is None or not len(rows):
            return {}
        parts = []
        wanted = range(int(rows[0]), int(rows[-1]) + 1)
        for start, table in tables(self.file, wanted, at_once=self.rows_at_once):
            inside = rows[(rows >= start) & (rows < start + table.num_rows)]
            parts.append(table.take(pa.array(inside - start)))
        chosen = pa.concat_tables(parts)
        return dict(zip(chosen.column_names, chosen.columns, strict=True))

    def assign_to(self, ds: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
        """Add columns to a run, as text along ``clip``; reads whole columns.

        Raises
        ------
        StoreError
            When the manifest has no such column.
        """
        for name in names:
            if self.file is None or name not in self.names:
                raise StoreError(
                    f"by: {name!r} is neither an array of the run nor a column of its manifest, "
                    f"which has {', '.join(self.names) or 'none that could be read'}"
                )
            column = self.file.read(columns=[name], use_threads=False)[name]
            values = column.cast(pa.string()).fill_null("").to_numpy(zero_copy_only=False)
            levels, codes = np.unique(values.astype(str), return_inverse=True)
            of_rows = codes.astype(np.int32)[self.views.video(ds["clip"].values)]
            # Few text objects, shared by the rows.
            ds = ds.assign_coords({name: ("clip", levels.astype(object)[of_rows])})
        return ds
