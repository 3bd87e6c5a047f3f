"""A run's store as a labelled, lazy dataset: the way into every analysis and into a notebook."""

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from pipeline.errors import StorageError, StoreError
from pipeline.status import Status
from pipeline.store.opening import Store, open_store
from pipeline.store.record import RunRecord
from pipeline.store.run_folder import store_url
from pipeline.store.schema import StoreLayout
from pipeline.store.verify import REMEDY, check_store

_ROWS_PER_CHUNK = 2048
"""Rows of a Dask chunk at most, in whole shards: fewer tasks, and less of their overhead."""
_CHUNK_BYTES = 32 * 2**20
"""Size of a Dask chunk at most, unless a shard is larger."""
_ENLARGING_WAITS_S = (0.1, 0.2, 0.4, 0.8)
"""Between looks at a store that is being enlarged."""
_LOOKS = 20
"""Looks at a store that grows during each of them."""


def open_run(
    url: str | Sequence[str], *, shards_per_chunk: int | None = None, check: bool = False
) -> xr.Dataset:
    """Open the attributions of a run, or of several side by side; nothing but metadata is read.

    Works while the run goes on: rows that it hasn't reached have ``status`` 0 and fill values.

    Parameters
    ----------
    url
        The run's folder, any fsspec URL; or several, which are joined by `join_runs`.
    shards_per_chunk
        Shards of a Dask chunk; by default as many as have 2,048 rows and 32 MB at most.
    check
        Read every object of the store first, and refuse a store of which any is damaged or lost:
        without it, a lost object reads as fill values.

    Returns
    -------
    Dataset of the store's arrays over Dask, in chunks of whole shards, with the store's attributes.
    ``clip`` is the row in the manifest, so that a selection still says which clips it holds.
    ``class`` holds the model's class names, and ``class_index`` beside it what ``label``,
    ``prediction`` and ``top_classes`` call each of them, -1 for unknown: a selection or another
    order of ``class`` still says which is which. `class_names` gives the names of such a column.

    ``layer`` holds the numbers of the layers, where several are stored or heads of any. A run of
    several views has ``view``, of each row, beside; see `by_video`.

    Raises
    ------
    StoreError
        When there is no run at the URL, its store has another schema, or it is being enlarged; with
        ``check``, names the first object that is damaged.
    """
    if not isinstance(url, str):
        runs = {one: open_run(one, shards_per_chunk=shards_per_chunk, check=check) for one in url}
        return join_runs(runs)
    store, chunk, dataset = _opened(url, shards_per_chunk, check=check)
    layout, record = store.layout, store.record
    # Storage lists arrays in any order; the template's is the one to read them in.
    names = list(layout.arrays())
    others = sorted(set(map(str, dataset.data_vars)) - set(names))
    ordered: xr.Dataset = dataset[[*names, *others]]
    # NumPy's strings have no missing value, which `Dataset.where` puts in; objects take one.
    texts = {n: v.astype(object) for n, v in ordered.data_vars.items() if v.dtype.kind == "T"}
    ordered = ordered.assign(texts)
    classes = list(record.class_names)
    # A range index takes no memory, whatever the number of clips.
    labelled = ordered.assign_coords(
        {
            "clip": pd.RangeIndex(layout.n_rows),
            "class": classes,
            "class_index": ("class", np.arange(len(classes))),
        }
    )
    if "layer" in labelled.dims:
        labelled = labelled.assign_coords(layer=list(record.layers))
    if len(record.views) > 1:
        rows = da.arange(layout.n_rows, chunks=chunk)
        labelled = labelled.assign_coords(view=("clip", record.views.view(rows)))
    return labelled


def ok(ds: xr.Dataset) -> xr.Dataset:
    """Take the clips that have an attribution; reads the column ``status``.

    Parameters
    ----------
    ds
        A run from `open_run`, or a selection of its clips.

    Returns
    -------
    The dataset's clips whose status is ok, lazily; ``clip`` still says which rows they are
    """
    return _where(ds, ds["status"].values == Status.OK)


def join_runs(runs: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Put runs side by side along a new dimension ``run``, clip by clip of the same video.

    Runs over the same manifest, with the same views, are joined row by row; others on ``video_id``,
    and view, which are read for it: the clips that all have, in the order of the first.

    Parameters
    ----------
    runs
        From `open_run`, by the names that ``run`` is to hold.

    Raises
    ------
    StoreError
        When the runs' classes or patch grids differ, or a run has a video id twice.
    """
    names, datasets = list(runs), list(runs.values())
    if not names:
        raise StoreError("no run was given to join")
    first = datasets[0]
    for name, other in zip(names[1:], datasets[1:], strict=True):
        if list(other["class"].values) != list(first["class"].values):
            raise StoreError(f"{name} and {names[0]} have other classes: labels can't be compared")
        for dim in ("time", "y", "x"):
            if other.sizes[dim] != first.sizes[dim]:
                raise StoreError(
                    f"{name} has {other.sizes[dim]} steps of {dim}, and {names[0]} "
                    f"{first.sizes[dim]}: expected runs of one grid; tables of `scores` can be "
                    "joined whatever the grid"
                )
    if len({_row_identity(ds) for ds in datasets}) > 1:
        # Rows that were removed, and unused ones, have no id.
        without_id = [Status.REMOVED, Status.UNUSED]
        datasets = [_where(ds, ~np.isin(ds["status"].values, without_id)) for ds in datasets]
        ids = {name: _clip_ids(ds, name) for name, ds in zip(names, datasets, strict=True)}
        shared = ids[names[0]]
        for name in names[1:]:
            shared = shared[shared.isin(ids[name])]
        datasets = [
            ds.isel(clip=ids[name].get_indexer(shared))
            for name, ds in zip(names, datasets, strict=True)
        ]
        datasets = [ds.assign_coords(clip=datasets[0]["clip"]) for ds in datasets]
    common = [name for name in datasets[0].data_vars if all(name in ds for ds in datasets)]
    joined: xr.Dataset = xr.concat(
        # Not `ds[common]`, which loses the coordinates of classes.
        [ds.drop_vars(set(ds.data_vars) - set(common)) for ds in datasets],
        dim=pd.Index(names, name="run"),
        data_vars="all",
        coords="minimal",
        compat="override",
        join="override",
        combine_attrs="drop",
    )
    return joined.assign_attrs(runs={name: ds.attrs for name, ds in runs.items()})


def for_netcdf(ds: xr.Dataset) -> xr.Dataset:
    """Give a run, or a selection, the types that netCDF knows, for ``for_netcdf(ds).to_netcdf()``.

    Half precision becomes single precision, and attributes that are no plain values become JSON.
    """
    known = {
        name: variable.astype("float32") if variable.dtype == np.float16 else variable.compute()
        for name, variable in ds.data_vars.items()
        if variable.dtype in (np.float16, object)  # of objects, netCDF asks what they are
    }
    plain = (str, int, float)
    attributes = {
        name: value if isinstance(value, plain) else json.dumps(value, default=str)
        for name, value in ds.attrs.items()
    }
    converted: xr.Dataset = ds.assign(known).drop_attrs(deep=False).assign_attrs(attributes)
    # What Zarr wrote the arrays by means nothing to netCDF.
    return converted.drop_encoding()


def attribute(ds: xr.Dataset, name: str) -> Any:
    """Attribute of a run's dataset.

    Raises
    ------
    StoreError
        When the dataset doesn't have it, as after operations that drop attributes.
    """
    if name not in ds.attrs:
        raise StoreError(
            f"the dataset has no attribute {name!r}: expected one from open_run whose attributes "
            "were kept, as with xarray.set_options(keep_attrs=True)"
        )
    return ds.attrs[name]


def record_of(ds: xr.Dataset) -> RunRecord:
    """Read how a run was made from its dataset; `StoreError` if attributes were dropped."""
    return RunRecord.from_attributes(
        {name: attribute(ds, name) for name in ("schema", "identity")} | ds.attrs, "the dataset"
    )


def class_names(ds: xr.Dataset, column: str = "label") -> xr.DataArray:
    """Names of the classes that a column of class indices holds; empty where it is unknown.

    Right for any selection or order of ``class``; a class that was taken out has no name any more.

    Returns
    -------
    (clip, ...) object, in memory
    """
    index = class_index(ds)
    known = pd.Series(np.atleast_1d(ds["class"].values), index=index)
    values = ds[column]
    codes = np.nan_to_num(np.asarray(values.values, np.float64), nan=-1).astype(np.int64)
    names = known.reindex(codes.ravel()).fillna("").to_numpy(object).reshape(codes.shape)
    return xr.DataArray(names, dims=values.dims, coords=values.coords, name=f"{column}_name")


def class_index(ds: xr.Dataset) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Give what ``label`` and ``prediction`` call each of the dataset's classes, in their order.

    Raises
    ------
    StoreError
        When the dataset lacks the coordinate that says it.
    """
    if "class_index" not in ds.coords or "class" not in ds.coords:
        raise StoreError(
            "the dataset has no coordinate 'class_index', which says what label and prediction "
            "call each class: expected a run from open_run whose coordinates were kept"
        )
    index: np.ndarray[Any, np.dtype[np.int64]] = np.atleast_1d(ds["class_index"].values)
    return index.astype(np.int64)


def _opened(
    url: str, shards_per_chunk: int | None, *, check: bool
) -> tuple[Store, int, xr.Dataset]:
    """Open a store, and its arrays in chunks of so many rows, all of one size.

    A stream's store may grow between the look at its record and that at its arrays, or between two
    arrays; then all are looked at again.

    Raises
    ------
    StoreError
        As `_settled_store`, or when the store grew during every look.
    """
    for _ in range(_LOOKS):
        store = _settled_store(url)
        layout = store.layout
        # By default a Dask chunk is an inner chunk of a shard: many times the tasks for the same
        # bytes.
        chunk = layout.rows_per_shard * (shards_per_chunk or _shards_per_chunk(layout))
        try:
            with warnings.catch_warnings():
                # An array whose metadata are lost: it is named below.
                warnings.filterwarnings("ignore", "Object at .* is not recognized as a component")
                dataset = xr.open_zarr(
                    store.group.store,
                    group=store.group.path or None,
                    consolidated=False,
                    chunks={"clip": chunk},
                )
        except StorageError:
            raise
        # Of metadata that say nonsense, zarr and xarray raise whatever that comes to.
        except Exception as error:
            if open_store(store_url(url)).layout == layout:
                raise StoreError(
                    f"{store_url(url)}: {_damaged_metadata(store)}; {REMEDY}"
                ) from error
        else:
            if dataset.sizes["clip"] == layout.n_rows:
                if not set(layout.arrays()) <= set(dataset.variables):
                    raise StoreError(f"{store_url(url)}: {_damaged_metadata(store)}; {REMEDY}")
                if check:
                    check_store(store)
                return store, chunk, dataset
    raise StoreError(f"{store_url(url)} grows faster than it can be opened: try again")


def _settled_store(url: str) -> Store:
    """Open a store that isn't being enlarged; one of a stream that goes on often is for a moment.

    Raises
    ------
    StoreError
        As `open_store` does, and if the store is still being enlarged a while later.
    """
    for wait_s in (*_ENLARGING_WAITS_S, None):
        store = open_store(store_url(url))
        # Its status is the last array to be enlarged.
        (n_rows,) = store.array("status").shape
        if n_rows == store.layout.n_rows:
            return store
        if wait_s is not None:
            # Enlarging takes less than all of these waits.
            time.sleep(wait_s)
    raise StoreError(
        f"{store_url(url)} is being enlarged from {n_rows} to {store.layout.n_rows} rows, "
        "or was cut off while it was: jobs.attribute, or jobs.live, finishes that at once"
    )


def _shards_per_chunk(layout: StoreLayout) -> int:
    largest = max(
        int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
        for spec in layout.arrays().values()
        if spec.dtype != "str"
    )
    rows = min(_ROWS_PER_CHUNK, _CHUNK_BYTES // largest)
    return max(1, rows // layout.rows_per_shard)


def _row_identity(ds: xr.Dataset) -> tuple[Any, ...]:
    """Give what two runs share if their rows are the same clips."""
    identity = record_of(ds).identity
    return identity.manifest, ds.sizes["clip"], identity.views


def _damaged_metadata(store: Store) -> str:
    for name in store.layout.arrays():
        try:
            store.array(name)
        except StoreError as error:
            return str(error).removeprefix(f"{store.url}/")
    return "its metadata are damaged"


def _where(ds: xr.Dataset, chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> xr.Dataset:
    if chosen.ndim != 1:
        raise StoreError(
            f"status has the dimensions {ds['status'].dims}, expected 'clip' alone: take one run, "
            "as in ds.isel(run=0), or clips before `by_video`"
        )
    selected: xr.Dataset = ds.isel(clip=np.flatnonzero(chosen))
    return selected


def _clip_ids(ds: xr.Dataset, name: str) -> pd.MultiIndex:
    view = ds["view"].values if "view" in ds.coords else np.zeros(ds.sizes["clip"], np.int64)
    ids = pd.MultiIndex.from_arrays([ds["video_id"].values.astype(object), view])
    if not ids.is_unique:
        twice = ids[ids.duplicated()][0][0]
        raise StoreError(
            f"{name} has the video id {twice!r} more than once: runs over different manifests are "
            "joined on it, and expected to have each once"
        )
    return ids


def by_video(ds: xr.Dataset) -> xr.Dataset:
    """Give a run of several views the dimensions (video, view) in place of ``clip``, lazily.

    ``by_video(ds).label_probability.mean("view")`` is what published accuracies average.

    Parameters
    ----------
    ds
        A run from `open_run`, or whole videos of it.

    Returns
    -------
    Dataset with the same arrays; ``video`` is the row in the manifest

    Raises
    ------
    StoreError
        When the dataset's clips aren't whole videos, each with its views in order.
    """
    views = record_of(ds).views
    rows, n_views = ds["clip"].values, len(views)
    whole = len(rows) % n_views == 0
    if (
        not whole
        or (views.view(rows).reshape(-1, n_views) != np.arange(n_views)).any()
        or np.ptp(views.video(rows).reshape(-1, n_views), axis=1).any()
    ):
        raise StoreError(
            f"by_video: expected whole videos, each with its {n_views} views in order, got clips "
            f"{rows[:4].tolist()}... ({len(rows)})"
        )
    videos = views.video(rows[::n_views])
    unfolded = ds.drop_vars(["clip", "view"], errors="ignore").coarsen(clip=n_views)
    constructed: xr.Dataset = unfolded.construct(clip=("video", "view"))
    return constructed.assign_coords(video=videos, view=np.arange(n_views))
