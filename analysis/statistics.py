"""Class-level statistics: a few small tables from attributions of any size, in one pass.

Each block of clips becomes a table of classes, and the tables are merged as a tree (see
`analysis.reduction`). So memory depends on the number of classes and on the patch grid, never on
the number of clips.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import dask
import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from dask.delayed import delayed
from numpy.typing import NDArray

from analysis.reduction import SUMMED, Grouping, Totals, block_tasks, row_hash, tree
from analysis.runs import attribute, class_index, open_run
from analysis.summary import RunCounts
from analysis.sums import Sums
from pipeline.errors import StoreError
from pipeline.status import Status
from pipeline.storage.zarr_store import zarr_location
from pipeline.store.run_folder import statistics_url

By = Literal["label", "prediction"]


_SCHEMA = {"name": "staa-statistics", "version": 2}

_FLAT_SCHEMA = {"name": "staa-statistics", "version": 1}
"""Schema of older statistics, by one column, from before coverage was kept."""

_DESCRIPTIONS = {
    "n_clips": "clips with an attribution",
    "n_failed": "failed clips whose label is the class, whatever the grouping",
    "accuracy": "share of labelled clips whose prediction is their label",
    "probability": "mean probability of the predicted class",
    "spatial_map": "mean over clips of sum_t A: where the weight lies; sums to 1",
    "spatial_map_std": "standard deviation of the spatial map over clips",
    "temporal_profile": "mean over clips of T: when the weight lies; sums to 1",
    "temporal_profile_std": "standard deviation of T over clips",
    "entropy": "mean over clips of H(A) / log(time * y * x): 0 for one patch, 1 for uniform",
    "entropy_std": "standard deviation of the entropy over clips",
}

_COVERAGE = "hash of the rows and of the status of each"

_KNOWN_DIMS = {"clip", "time", "y", "x", "rank", "frame", "class", "video", "view"}
_USED = (
    *("spatial", "temporal", "status", "label", "prediction"),
    *("probability", "label_probability", "top_probabilities"),
)


def class_statistics(ds: xr.Dataset, by: By | None = None) -> xr.Dataset:
    """Reduce a run to statistics of its classes, lazily.

    Only clips that are ok and whose class is known count. Standard deviations are those of the
    population (``ddof=0``). Sums are in float64, since half precision fails after a few clips.

    Parameters
    ----------
    ds
        A run from `analysis.open_run`, lazy or in memory; a selection of its clips or its classes,
        in any order; or the result of `analysis.by_video`, whose views count as clips. A dimension
        that a single run doesn't have, such as ``run`` of joined runs, is kept in the statistics.
    by
        Group by the manifest's class or by the predicted one; by default by ``label``, or by
        ``prediction`` if no ok clip has a label, which reads both columns. The result's attribute
        ``by`` says which it is.

    Returns
    -------
    Dataset over Dask with the dimension ``class`` (names), the dataset's classes in its order:
    ``n_clips``, ``n_failed`` (class) int64; ``accuracy``, ``probability``, ``entropy``,
    ``entropy_std`` (class); ``spatial_map``, ``spatial_map_std`` (class, y, x);
    ``temporal_profile``, ``temporal_profile_std`` (class, time), all float64. A class without clips
    has a count of 0 and NaN elsewhere; ``accuracy`` is NaN in a class without labels. ``coverage``
    () uint64 identifies the rows and the status of each.

    An ok clip whose attribution isn't there makes its class NaN and is not skipped. Either its
    shard was finished while it was being read, which computing again mends, or the store has lost
    an object.

    Raises
    ------
    ValueError
        For another value of ``by``.
    StoreError
        When the dataset lacks an array or the coordinate ``class_index``.
    """
    by = by or _grouping_of(ds)
    if by not in get_args(By):
        raise ValueError(f"by: {by!r} is not one of {', '.join(get_args(By))}")
    extra = [
        str(dim)
        for dim in ds.dims
        if dim not in _KNOWN_DIMS and any(dim in ds[name].dims for name in _USED if name in ds)
    ]
    if extra:
        parts = [
            class_statistics(ds.isel({extra[0]: position}), by)
            for position in range(ds.sizes[extra[0]])
        ]
        along = ds[extra[0]] if extra[0] in ds.coords else extra[0]
        joined: xr.Dataset = xr.concat(
            parts, dim=along, coords="minimal", compat="override", combine_attrs="override"
        )
        return joined
    index = class_index(ds)
    rows = _as_clips(ds)
    sizes = (
        {dim: rows["spatial"].sizes[dim] for dim in ("time", "y", "x")}
        if ("spatial" in rows)
        else {}
    )
    groupings = (Grouping((by,), histograms=False), Grouping(("label",), rows="failed"))
    totals = tree(block_tasks(rows, groupings))
    tables = delayed(_tables_of_totals, pure=True)(totals, index, by, sizes)
    arrays = {
        name: da.from_delayed(  # type: ignore[no-untyped-call]
            tables[name], tuple(len(index) if dim == "class" else sizes[dim] for dim in dims), dtype
        )
        for name, (dims, dtype) in _VARIABLES.items()
    }
    statistics = _dataset(ds, arrays, by)
    return statistics if "class" in ds.dims else statistics.isel({"class": 0})


def statistics_of_sums(
    ds: xr.Dataset, sums: Sums, failed: Sums, coverage: int, by: By
) -> xr.Dataset:
    """Give the `class_statistics` of a run from sums by class that are already there.

    Parameters
    ----------
    ds
        The whole run that was summed.
    sums
        Sums by ``label`` or by ``prediction``, as ``by`` says.
    failed
        Sums of failed rows, by ``label``.
    """
    sizes = {dim: ds["spatial"].sizes[dim] for dim in ("time", "y", "x")}
    return _dataset(ds, _tables(sums, failed, coverage, class_index(ds), by, sizes), by)


def group_statistics(ds: xr.Dataset, by: Sequence[str]) -> xr.Dataset:
    """Mean, spread and quantiles of the scores, and mean maps, by any columns together.

    For example ``group_statistics(ds, ["label", "prediction"])`` by confusion pair, or
    ``group_statistics(ds, ["correct"])``. This computes at once, in one pass.

    Parameters
    ----------
    ds
        As for `class_statistics`, but with a run's dimensions only.
    by
        Arrays or coordinates of the dataset along ``clip`` alone, or ``correct``: 1, 0, or -1
        without a label.

    Returns
    -------
    Dataset with the dimension ``group``, whose coordinates are the columns: ``n`` (group) int64,
    ``mean``, ``std``, ``q05``, ``q50``, ``q95`` (group, score), ``spatial_map`` (group, y, x),
    ``temporal_profile`` (group, time) float64. Quantiles come from 64 equal bins on [0, 1].
    """
    rows = _as_clips(ds)
    (totals,) = dask.compute(tree(block_tasks(rows, (Grouping(tuple(by)),))))  # type: ignore[attr-defined, no-untyped-call]
    sums, n_scores = totals.sums[0], len(SUMMED)
    sizes = {dim: rows["spatial"].sizes[dim] for dim in ("time", "y", "x")}
    where, when = _maps_of(sums.mean, sizes)
    scores = ("group", "score")
    return xr.Dataset(
        {
            "n": ("group", sums.n),
            "mean": (scores, sums.mean[:, :n_scores]),
            "std": (scores, sums.deviation[:, :n_scores]),
            **{f"q{int(100 * q):02d}": (scores, sums.quantile(q)) for q in (0.05, 0.5, 0.95)},
            "spatial_map": (("group", "y", "x"), where),
            "temporal_profile": (("group", "time"), when),
        },
        coords={
            "score": list(SUMMED),
            **{n: ("group", sums.keys.get_level_values(n).to_numpy()) for n in by},
        },
    )


def _dataset(ds: xr.Dataset, arrays: dict[str, Any], by: str) -> xr.Dataset:
    variables = {
        name: (dims, arrays[name], {"description": _DESCRIPTIONS.get(name, _COVERAGE)})
        for name, (dims, _) in _VARIABLES.items()
    }
    names = np.atleast_1d(ds["class"].values)
    coords = {"class": names, "class_index": ("class", class_index(ds))}
    statistics = xr.Dataset(variables, coords=coords, attrs={"by": by})
    if "identity" in ds.attrs:
        statistics.attrs["identity"] = ds.attrs["identity"]
    return statistics


_VARIABLES: dict[str, tuple[tuple[str, ...], str]] = {
    "n_clips": (("class",), "int64"),
    "n_failed": (("class",), "int64"),
    "accuracy": (("class",), "float64"),
    "probability": (("class",), "float64"),
    "spatial_map": (("class", "y", "x"), "float64"),
    "spatial_map_std": (("class", "y", "x"), "float64"),
    "temporal_profile": (("class", "time"), "float64"),
    "temporal_profile_std": (("class", "time"), "float64"),
    "entropy": (("class",), "float64"),
    "entropy_std": (("class",), "float64"),
    "coverage": ((), "uint64"),
}


def _tables_of_totals(
    totals: Totals, index: NDArray[np.int64], by: str, sizes: dict[str, int]
) -> dict[str, NDArray[Any]]:
    return _tables(totals.sums[0], totals.sums[1], totals.coverage, index, by, sizes)


def _tables(
    sums: Sums,
    failed: Sums,
    coverage: int,
    index: NDArray[np.int64],
    by: str,
    sizes: dict[str, int],
) -> dict[str, NDArray[Any]]:
    """Statistics of the classes with the given indices, in their order."""
    sums = sums.select(pd.MultiIndex.from_arrays([index], names=[by]))
    failed = failed.select(pd.MultiIndex.from_arrays([index], names=["label"]))
    mean, deviation = sums.mean, sums.deviation
    column = {name: position for position, name in enumerate(SUMMED)}
    spatial_map, temporal_profile = _maps_of(mean, sizes)
    spatial_map_std, temporal_profile_std = _maps_of(deviation, sizes)
    return {
        "n_clips": sums.n,
        "n_failed": failed.n,
        "accuracy": mean[:, column["correct"]],
        "probability": mean[:, column["probability"]],
        "spatial_map": spatial_map,
        "spatial_map_std": spatial_map_std,
        "temporal_profile": temporal_profile,
        "temporal_profile_std": temporal_profile_std,
        "entropy": mean[:, column["entropy"]],
        "entropy_std": deviation[:, column["entropy"]],
        "coverage": np.asarray(coverage, np.uint64),
    }


def _maps_of(
    table: NDArray[np.float64], sizes: dict[str, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Spatial map (groups, y, x) and profile (groups, time) from a table of a pass's columns."""
    start, n_patches = len(SUMMED), sizes["y"] * sizes["x"]
    where = table[:, start : start + n_patches].reshape(-1, sizes["y"], sizes["x"])
    return where, table[:, start + n_patches :]


def _as_clips(ds: xr.Dataset) -> xr.Dataset:
    """Put the rows of a dataset by video along ``clip`` again."""
    if "clip" in ds.dims or "video" not in ds.dims:
        return ds
    if "view" not in ds.dims:
        return ds.drop_vars("view", errors="ignore").rename(video="clip")
    rows = ds["video"].values[:, None] * ds.sizes["view"] + np.arange(ds.sizes["view"])
    used = ds[[name for name in _USED if name in ds]]
    flat = used.stack(clip=("video", "view"), create_index=False)
    return flat.assign_coords(clip=rows.ravel())


def classes_with_lost_clips(statistics: xr.Dataset) -> list[str]:
    """Names of classes that have an ok clip without attribution, from computed statistics."""
    lost = statistics[["spatial_map", "temporal_profile", "entropy"]].isnull()
    missing = lost["spatial_map"].any(("y", "x")) | lost["temporal_profile"].any("time")
    concerned = (statistics["n_clips"] > 0) & (missing | lost["entropy"])
    return [str(name) for name in statistics["class"].values[concerned.values]]


def _grouping_of(ds: xr.Dataset) -> By:
    if "status" not in ds or "label" not in ds:
        return "label"
    labelled = (ds["status"] == Status.OK) & (ds["label"] >= 0)
    return "label" if bool(labelled.any()) else "prediction"


def default_grouping(summary: RunCounts) -> By:
    """Group by label if any row has one, else by prediction."""
    return "label" if summary["n_labelled"] else "prediction"


def overall_statistics(statistics: xr.Dataset) -> xr.Dataset:
    """Means over all clips of all classes, from the classes' means.

    Returns
    -------
    ``spatial_map`` (y, x), ``temporal_profile`` (time), ``entropy`` and ``probability`` (),
    float64; NaN where no class has a clip.
    """
    means = statistics[["spatial_map", "temporal_profile", "entropy", "probability"]]
    # A class without clips has no mean to weigh; a class that lost clips makes the result NaN.
    present = statistics["n_clips"] > 0
    weights = statistics["n_clips"].where(present, 0)
    total = (means.where(present, 0.0) * weights).sum("class", skipna=False, keep_attrs=True)
    overall: xr.Dataset = total / weights.sum("class").where(weights.sum("class") > 0)
    for name in overall.data_vars:
        overall[name].attrs = statistics[name].attrs
    return overall.assign_attrs(statistics.attrs)


def save_statistics(statistics: xr.Dataset, run_url: str) -> str:
    """Compute `class_statistics` of a run and write them beside its store.

    Statistics by label and by prediction are kept side by side; each replaces its predecessor. The
    run's identity is written last, as in the store itself, so that a reader can recognise
    statistics that were cut off.

    Returns
    -------
    Their URL

    Raises
    ------
    StoreError
        When the statistics don't say which run they come from.
    """
    url = statistics_url(run_url)
    identity = attribute(statistics, "identity")
    by = attribute(statistics, "by")
    # Compute first: a failure leaves the former statistics as they were.
    computed = statistics.compute().assign_attrs(schema=_SCHEMA)
    del computed.attrs["identity"]
    # NumPy's fixed-length strings have no specification in Zarr v3.
    encoding = {"class": {"dtype": np.dtypes.StringDType()}}
    location, group = zarr_location(url), f"by_{by}"
    root = _open_group(location)
    if root is None or root.attrs.get("schema") != _SCHEMA:
        zarr.create_group(location, overwrite=True, attributes={"schema": _SCHEMA})
    computed.to_zarr(
        location, group=group, mode="w", zarr_format=3, consolidated=False, encoding=encoding
    )
    zarr.open_group(location, mode="r+", path=group).update_attributes({"identity": identity})
    return url


def open_statistics(run_url: str, by: By | None = None) -> xr.Dataset:
    """Read the statistics that `save_statistics` wrote, into memory.

    Parameters
    ----------
    by
        Which to read, by label or by prediction; by default those that exist, by label if both do.

    Raises
    ------
    StoreError
        When there are none, they were cut off, they have another schema, or the run has gone on
        since they were made.
    """
    url = statistics_url(run_url)
    try:
        location = zarr_location(url)
        root = zarr.open_group(location, mode="r")
        flat = root.attrs.get("schema") == _FLAT_SCHEMA
        kept = [root.attrs["by"]] if flat else [k for k in get_args(By) if f"by_{k}" in root]
        if by is not None and by not in kept:
            raise StoreError(f"no statistics by {by} at {url}; there are some by {kept}")
        group = None if flat else f"by_{by or next(iter(kept), 'label')}"
        statistics = xr.open_zarr(location, group=group, consolidated=False, chunks=None).load()
    except (OSError, ValueError, ImportError, KeyError, zarr.errors.BaseZarrError) as error:
        raise StoreError(f"no statistics at {url}: {error}") from error
    expected = _FLAT_SCHEMA if flat else _SCHEMA
    if statistics.attrs.get("schema") != expected or "identity" not in statistics.attrs:
        raise StoreError(
            f"{url} is not complete, or not of schema {_SCHEMA}; jobs.aggregate writes it again"
        )
    check_current(statistics, open_run(run_url), f"the statistics in {url}")
    ordered: xr.Dataset = statistics[[name for name in _VARIABLES if name in statistics]]
    return ordered


def check_current(statistics: xr.Dataset, ds: xr.Dataset, name: str = "the statistics") -> None:
    """Refuse statistics of another run, or that don't match the run's rows as they are now.

    Parameters
    ----------
    statistics
        Computed statistics.
    ds
        The run, from `analysis.open_run`; its column ``status`` is read.

    Raises
    ------
    StoreError
        Says what differs.
    """
    theirs, ours = attribute(statistics, "identity"), attribute(ds, "identity")
    again = "jobs.aggregate or `class_statistics` makes them again"
    if theirs != ours:
        raise StoreError(f"{name} are of run {theirs}, expected those of {ours}; {again}")
    status = ds["status"].values
    if "coverage" in statistics:
        rows = np.asarray(ds["clip"].values)
        current = int(statistics["coverage"]) == row_hash(rows, status)
    else:
        groups = ds[statistics.attrs["by"]].values
        known = (groups >= 0) & (groups < statistics.sizes["class"])
        current = int(statistics["n_clips"].sum()) == int((known & (status == Status.OK)).sum())
    if not current:
        n_pending = int((status == Status.PENDING).sum())
        raise StoreError(
            f"{name} don't match the run's rows as they are now ({len(status) - n_pending} of "
            f"{len(status)} are done); {again}"
        )


def _open_group(location: Any) -> zarr.Group | None:
    try:
        return zarr.open_group(location, mode="r")
    except (OSError, ValueError, zarr.errors.BaseZarrError):
        return None
