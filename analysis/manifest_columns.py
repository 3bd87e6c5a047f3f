"""Columns of the manifest and of the metrics, for the rows of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
import zarr
from numpy.typing import NDArray

from analysis.runs import attribute, record_of
from pipeline.clips.views import Views
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.row_groups import tables
from pipeline.errors import ManifestError, StoreError
from pipeline.storage.files import RetryingReader, open_filesystem
from pipeline.storage.zarr_store import zarr_location
from pipeline.store.run_folder import metrics_url


@dataclass(frozen=True)
class ManifestColumns:
    """Every column of a run's manifest, whichever it has; no columns where it can't be read."""

    file: pq.ParquetFile | None
    names: tuple[str, ...]
    views: Views

    @classmethod
    def of_run(cls, ds: xr.Dataset, url: str | None, notes: list[str]) -> "ManifestColumns":
        """Open the manifest of a run, at ``url`` or where it was when the run was made.

        Raises
        ------
        ManifestError
            When a ``url`` was given and isn't that of the run's manifest. Without one, a note is
            added in its place.
        """
        record = record_of(ds)
        where = url or str(record.config["manifest"])
        try:
            manifest = read_manifest(where)
            identity = record.identity.manifest
            n_rows = record.views.video(record.layout.n_rows)
            same = manifest.digest == identity
            # A run takes in by --append what was added to its manifest.
            longer = manifest.n_rows > n_rows and manifest.digest_of_first(n_rows) == identity
            if not (same or longer):
                raise ManifestError(
                    f"manifest {where} isn't the one that the run was made from: its rows are "
                    "others"
                )
            filesystem, path = open_filesystem(where)
            file = pq.ParquetFile(RetryingReader(filesystem, path))
        except ManifestError as error:
            if url is not None:
                raise
            notes.append(f"{error}; paths, splits and other columns of it are left out")
            return cls(None, (), record.views)
        return cls(file, tuple(file.schema_arrow.names), record.views)

    def rows(self, rows: NDArray[np.integer]) -> dict[str, pa.ChunkedArray]:
        """Columns of some rows of the manifest, in ascending order."""
        if self.file is None or not len(rows):
            return {}
        parts = []
        for start, table in tables(self.file, range(int(rows[0]), int(rows[-1]) + 1)):
            inside = rows[(rows >= start) & (rows < start + table.num_rows)]
            parts.append(table.take(pa.array(inside - start)))
        chosen = pa.concat_tables(parts)
        return dict(zip(chosen.column_names, chosen.columns, strict=True))

    def assign_to(self, ds: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
        """Add columns to a run, as text along ``clip``; reads them whole.

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
            # Objects of few texts, which the rows share.
            ds = ds.assign_coords({name: ("clip", levels.astype(object)[of_rows])})
        return ds


def metric_columns(run_url: str, ds: xr.Dataset, notes: list[str]) -> dict[str, NDArray[Any]]:
    """Values per clip that `jobs.evaluate` has written of this run, by name; none if it hasn't."""
    url = metrics_url(run_url)
    try:
        group: Any = zarr.open_group(zarr_location(url), mode="r")
    except (OSError, ValueError, zarr.errors.BaseZarrError):
        return {}
    if group.attrs.get("identity") != attribute(ds, "identity"):
        notes.append(f"{url} is of another run, and left out")
        return {}
    n_rows = ds.sizes["clip"]
    columns = {
        name: array[:]
        for name, array in sorted(group.arrays())
        if array.shape == (n_rows,) and array.dtype.kind == "f"
    }
    if "mask_share_attribution" in columns and "mask_covered" in columns:
        with np.errstate(invalid="ignore", divide="ignore"):
            covered = np.where(columns["mask_covered"] > 0, columns["mask_covered"], np.nan)
            columns["lift"] = (columns["mask_share_attribution"] / covered).astype(np.float32)
    return columns
