"""Class-level statistics: a few small tables from attributions of any size, in one pass over them.

Each Dask chunk becomes a table of classes, and the tables are merged as a tree (flox's map-reduce),
so that memory depends on the number of classes and on the patch grid, never on that of clips.
"""

from typing import Literal, get_args

import numpy as np
import xarray as xr
import zarr
from flox.xarray import xarray_reduce

from analysis.runs import joint_attribution
from analysis.summary import RunCounts
from pipeline.attribution import measures
from pipeline.errors import StoreError
from pipeline.status import Status, failed_rows
from pipeline.storage.zarr_store import zarr_location
from pipeline.store.run_folder import statistics_url

By = Literal["label", "prediction"]


_SCHEMA = {"name": "staa-statistics", "version": 1}

_DESCRIPTIONS = {
    "n_clips": "clips with an attribution",
    "n_failed": "failed clips that have the class as their label, whatever the grouping",
    "accuracy": "share of labelled clips whose prediction is their label",
    "probability": "mean probability of the predicted class",
    "spatial_map": "mean over clips of sum_t A: where the model attends; sums to 1",
    "spatial_map_std": "its standard deviation over clips",
    "temporal_profile": "mean over clips of T: when the model attends; sums to 1",
    "temporal_profile_std": "its standard deviation over clips",
    "entropy": "mean over clips of H(A) / log(time * y * x): 0 for one patch, 1 for uniform",
    "entropy_std": "its standard deviation over clips",
}


def class_statistics(ds: xr.Dataset, by: By = "label") -> xr.Dataset:
    """Reduce a run to statistics of its classes, lazily.

    Clips count that are ok and whose class is known. Standard deviations are those of the
    population (``ddof=0``). Sums are in float64, since half precision loses them after a few clips.

    Parameters
    ----------
    ds
        A run from `analysis.open_run`, or a selection of its clips.
    by
        Group by the manifest's class or by the predicted one.

    Returns
    -------
    Dataset over Dask with the dimension ``class`` (names), in the order of class indices:
    ``n_clips``, ``n_failed`` (class) int64; ``accuracy``, ``probability``, ``entropy``,
    ``entropy_std`` (class); ``spatial_map``, ``spatial_map_std`` (class, y, x);
    ``temporal_profile``, ``temporal_profile_std`` (class, time), all float64. A class without clips
    has a count of 0 and NaN elsewhere; so has ``accuracy`` in a class without labels.

    An ok clip whose attribution isn't there makes its class NaN, and is not passed over: either its
    shard was finished while it was being read, and computing again mends it, or the store has lost
    an object.

    Raises
    ------
    ValueError
        For another value of ``by``.
    """
    if by not in get_args(By):
        raise ValueError(f"by: {by!r} is not one of {', '.join(get_args(By))}")
    status, label, prediction = ds["status"], ds["label"], ds["prediction"]
    ok = status == Status.OK
    joint = joint_attribution(ds)
    per_clip = xr.Dataset(
        {
            "spatial_map": joint.sum("time", dtype="float64", skipna=False),
            "temporal_profile": ds["temporal"].astype("float64"),
            "entropy": normalised_entropy(joint),
        }
    )
    scores = xr.Dataset(
        {
            "accuracy": (prediction == label).where(label >= 0).astype("float64"),
            "probability": ds["probability"].astype("float64"),
        }
    )
    clips = xr.Dataset({"n_clips": ok.astype("int64")})
    failures = xr.Dataset({"n_failed": failed_rows(status).astype("int64")})
    groups, names = ds[by].where(ok, -1), ds["class"]
    deviations = _grouped(per_clip, groups, names, "std", skipna=False)
    statistics = xr.merge(
        [
            _grouped(clips, groups, names, "sum"),
            _grouped(failures, label, names, "sum"),
            _grouped(scores, groups, names, "mean", skipna=True),
            _grouped(per_clip, groups, names, "mean", skipna=False),
            deviations.rename({name: f"{name}_std" for name in per_clip.data_vars}),
        ]
    )[list(_DESCRIPTIONS)]
    for name, description in _DESCRIPTIONS.items():
        statistics[name].attrs = {"description": description}
    return statistics.assign_attrs(by=by, identity=ds.attrs["identity"])


def classes_with_lost_clips(statistics: xr.Dataset) -> list[str]:
    """Names of classes in whose computed statistics an ok clip's attribution isn't there."""
    lost = statistics[["spatial_map", "temporal_profile", "entropy"]].isnull()
    missing = lost["spatial_map"].any(("y", "x")) | lost["temporal_profile"].any("time")
    concerned = (statistics["n_clips"] > 0) & (missing | lost["entropy"])
    return [str(name) for name in statistics["class"].values[concerned.values]]


def default_grouping(summary: RunCounts) -> By:
    """Group by label where any row has one, else by prediction."""
    return "label" if summary["n_labelled"] else "prediction"


def normalised_entropy(joint: xr.DataArray) -> xr.DataArray:
    """Entropy of each attribution over its logarithm's maximum, lazily.

    Parameters
    ----------
    joint
        (..., time, y, x), non-negative, of two values or more.

    Returns
    -------
    (...) float64 in [0, 1]: 0 where all attention is on one patch, 1 where it is uniform
    """
    entropy: xr.DataArray = xr.apply_ufunc(
        measures.normalised_entropy,
        joint,
        input_core_dims=[["time", "y", "x"]],
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    return entropy


def overall_statistics(statistics: xr.Dataset) -> xr.Dataset:
    """Means over all clips of all classes, from those of the classes.

    Returns
    -------
    ``spatial_map`` (y, x), ``temporal_profile`` (time), ``entropy`` and ``probability`` (),
    float64; NaN where no class has a clip.
    """
    means = statistics[["spatial_map", "temporal_profile", "entropy", "probability"]]
    return means.weighted(statistics["n_clips"]).mean("class", keep_attrs=True)


def save_statistics(statistics: xr.Dataset, run_url: str) -> str:
    """Write `class_statistics` beside the run's store, over what was there; computes them first.

    The run's identity is written last, as in the store itself, so that a reader can tell statistics
    that were cut off.

    Returns
    -------
    Their URL
    """
    url = statistics_url(run_url)
    # A computation that fails leaves the former statistics as they were.
    computed = statistics.compute().assign_attrs(schema=_SCHEMA)
    identity = computed.attrs.pop("identity")
    # NumPy's fixed-length strings have no specification in Zarr v3.
    encoding = {"class": {"dtype": np.dtypes.StringDType()}}
    location = zarr_location(url)
    computed.to_zarr(location, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    zarr.open_group(location, mode="r+").update_attributes({"identity": identity})
    return url


def open_statistics(run_url: str) -> xr.Dataset:
    """Read the statistics that `save_statistics` wrote, into memory.

    Raises
    ------
    StoreError
        When there are none, they were cut off, or they have another schema.
    """
    url = statistics_url(run_url)
    try:
        statistics = xr.open_zarr(zarr_location(url), consolidated=False, chunks=None).load()
    except (OSError, ValueError, ImportError) as error:
        raise StoreError(f"no statistics at {url}: {error}") from error
    if statistics.attrs.get("schema") != _SCHEMA or "identity" not in statistics.attrs:
        raise StoreError(
            f"{url} is not whole, or not of schema {_SCHEMA}; `save_statistics` writes it anew"
        )
    ordered: xr.Dataset = statistics[list(_DESCRIPTIONS)]
    return ordered


def _grouped(
    values: xr.Dataset, groups: xr.DataArray, names: xr.DataArray, statistic: str, **options: bool
) -> xr.Dataset:
    """Reduce over ``clip`` by class index; clips of an index that no class has are left out."""
    reduced: xr.Dataset = xarray_reduce(
        values,
        groups.rename("class"),
        func=statistic,
        expected_groups=np.arange(names.size),
        method="map-reduce",
        **options,
    )
    return reduced.assign_coords({"class": names})
