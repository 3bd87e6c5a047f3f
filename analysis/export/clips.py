"""Selected clips with their attributions: NumPy arrays in one file, or a Zarr store."""

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from analysis.export.tables import scores_table
from analysis.runs import ok, open_run, record_of
from pipeline.errors import ConfigError
from pipeline.storage.zarr_store import zarr_location

MAX_NPZ_BYTES = 2_000_000_000
"""Size of the arrays, before compression, of which more belongs in a Zarr store."""

_ROWS_AT_ONCE = 256
_BYTES_AT_ONCE = 64_000_000
_DECLARED = ("schema", "zarr_conventions", "attributions")


def selected_clips(
    run_url: str, *, where: str | None = None, rows: Sequence[int] = ()
) -> tuple[xr.Dataset, int]:
    """Take clips of a run that have an attribution, lazily.

    Parameters
    ----------
    where
        Condition on the table of scores, which `jobs.aggregate` has made.
    rows
        Rows of the run; by default all.

    Returns
    -------
    Dataset like that of `open_run`, with the coordinate ``row``; and how many of the chosen clips
    have no attribution and are left out

    Raises
    ------
    StoreError
        When there is no run, or ``where`` is given and no table of scores that fits it.
    ConfigError
        When the condition can't be used, a row isn't in the run, or nothing is left.
    """
    ds = open_run(run_url)
    n_rows = ds.sizes["clip"]
    if unknown := [row for row in rows if not 0 <= row < n_rows]:
        raise ConfigError(f"rows: {run_url} has no row {unknown[0]}: expected 0 to {n_rows - 1}")
    chosen = list(dict.fromkeys(rows)) or list(range(n_rows))
    if where is not None:
        chosen = scores_table(run_url, where=where, rows=rows)["row"].to_list()
    of_these = ds.isel(clip=chosen)
    with_attribution = ok(of_these)
    if not with_attribution.sizes["clip"]:
        raise ConfigError(
            f"where: none of the {len(chosen)} chosen clips of {run_url} has an attribution"
        )
    left_out = len(chosen) - with_attribution.sizes["clip"]
    row = ("clip", np.asarray(with_attribution["clip"].values, np.int64))
    return with_attribution.assign_coords(row=row), left_out


def as_npz(ds: xr.Dataset, *, max_bytes: int = MAX_NPZ_BYTES) -> bytes:
    """Write clips as one ``.npz``, which ``numpy.load`` opens without pickle.

    It has each of the run's arrays by its name, ``row``, ``class_names``, and ``about``: how the
    run was made, as JSON. Texts are NumPy's, of one length.

    Raises
    ------
    ConfigError
        When the arrays take more than ``max_bytes``.
    """
    if ds.nbytes > max_bytes:
        raise ConfigError(
            f"format: npz would hold {ds.nbytes / 1e9:.1f} GB in memory; choose fewer clips, or "
            "--format zarr"
        )
    loaded = ds.compute()
    arrays: dict[str, NDArray[Any]] = {
        str(name): _without_objects(variable.values) for name, variable in loaded.data_vars.items()
    }
    arrays["row"] = loaded["row"].values
    arrays["class_names"] = _without_objects(np.atleast_1d(loaded["class"].values))
    arrays["about"] = np.array(json.dumps(ds.attrs))
    written = io.BytesIO()
    np.savez_compressed(written, allow_pickle=False, **arrays)
    return written.getvalue()


def write_zarr(ds: xr.Dataset, url: str, *, rows_at_once: int = _ROWS_AT_ONCE) -> None:
    """Write clips as a Zarr store, block by block, which ``xarray.open_zarr`` opens.

    It keeps the convention "attributions" (`pipeline.store.conventions`), so that
    `pipeline.store.foreign.take_in` makes a run of it. ``row`` says which rows of the run they
    were, and the attribute ``run`` how that was made. A chunk has ``rows_at_once`` clips at most.

    Raises
    ------
    ConfigError
        When something is there already.
    """
    record = record_of(ds)
    about = {name: value for name, value in ds.attrs.items() if name not in _DECLARED}
    try:
        group: Any = zarr.create_group(
            zarr_location(url), attributes={**record.declaration.to_attributes(), "run": about}
        )
    except zarr.errors.ContainsGroupError as error:
        raise ConfigError(f"out: {url} is there already") from error
    n_clips = ds.sizes["clip"]
    rows = max(1, min(rows_at_once, n_clips, _BYTES_AT_ONCE // max(1, ds.nbytes // n_clips)))
    variables = {str(name): variable for name, variable in ds.data_vars.items()}
    arrays = {
        name: group.create_array(
            name,
            shape=variable.shape,
            chunks=(rows, *variable.shape[1:]),
            dtype="str" if variable.dtype == object else variable.dtype,
            dimension_names=variable.dims,
            attributes=variable.attrs,
        )
        for name, variable in {**variables, "row": ds["row"]}.items()
    }
    for start in range(0, n_clips, rows):
        part = ds.isel(clip=slice(start, start + rows)).compute()
        for name, array in arrays.items():
            array[start : start + rows] = part[name].values


def _without_objects(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.str_) if values.dtype.kind in "OT" else values
