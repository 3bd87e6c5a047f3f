"""A run's store as a labelled, lazy dataset: the way into every analysis and into a notebook."""

from typing import Literal

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from pipeline.attribution.focus import Step, apply_steps, steps_name
from pipeline.errors import StoreError
from pipeline.store.opening import open_store
from pipeline.store.record import RunRecord
from pipeline.store.run_folder import store_url


def open_run(url: str) -> xr.Dataset:
    """Open the attributions of a run; nothing but metadata is read.

    Works while the run goes on: rows that it hasn't reached have ``status`` 0 and fill values.

    Parameters
    ----------
    url
        The run's folder, any fsspec URL.

    Returns
    -------
    Dataset of the store's arrays over Dask, one chunk per shard, with the store's attributes.
    ``clip`` is the row in the manifest, so that a selection still says which clips it holds.
    ``class`` holds the model's class names: ``ds["class"][ds.label]`` names the labels of rows that
    have one, and ``label``, ``prediction`` and ``top_classes`` are positions in it, -1 for unknown.

    ``layer`` holds the numbers of the layers, where several are stored or heads of any. A run of
    several views has ``view``, of each row, beside; see `by_video`.

    Raises
    ------
    StoreError
        When there is no run at the URL, its store has another schema, or it is being enlarged.
    """
    store = open_store(store_url(url))
    layout, record = store.layout, store.record
    # Its status is the last array to be enlarged.
    (n_rows,) = store.array("status").shape
    if n_rows != layout.n_rows:
        raise StoreError(
            f"{store_url(url)} is being enlarged from {n_rows} to {layout.n_rows} rows, "
            "or was cut off while it was: jobs.attribute finishes that at once"
        )
    # By default a Dask chunk is an inner chunk of a shard: many times the tasks for the same bytes.
    dataset = xr.open_zarr(
        store.group.store,
        group=store.group.path or None,
        consolidated=False,
        chunks={"clip": layout.rows_per_shard},
    )
    # Storage lists arrays in any order; the template's is the one to read them in.
    names = list(layout.arrays())
    others = sorted(set(map(str, dataset.data_vars)) - set(names))
    ordered: xr.Dataset = dataset[[*names, *others]]
    # A range index takes no memory, whatever the number of clips.
    labelled = ordered.assign_coords(
        {"clip": pd.RangeIndex(layout.n_rows), "class": list(record.class_names)}
    )
    if "layer" in labelled.dims:
        labelled = labelled.assign_coords(layer=list(record.layers))
    if len(record.views) > 1:
        rows = da.arange(layout.n_rows, chunks=layout.rows_per_shard)
        labelled = labelled.assign_coords(view=("clip", record.views.view(rows)))
    return labelled


def by_video(ds: xr.Dataset) -> xr.Dataset:
    """Give a run of several views the dimensions (video, view) in place of ``clip``, lazily.

    ``by_video(ds).label_probability.mean("view")`` is what published accuracies average.

    Parameters
    ----------
    ds
        A run from `open_run`, or whole videos of it, in order.

    Returns
    -------
    Dataset with the same arrays; ``video`` is the row in the manifest
    """
    views = RunRecord.from_attributes(ds.attrs, "the dataset").views
    videos = views.video(ds["clip"].values[:: len(views)])
    unfolded = ds.drop_vars(["clip", "view"], errors="ignore").coarsen(clip=len(views))
    constructed: xr.Dataset = unfolded.construct(clip=("video", "view"))
    return constructed.assign_coords(video=videos, view=np.arange(len(views)))


def joint_attribution(
    ds: xr.Dataset, *, per: Literal["clip", "layer", "head"] = "clip"
) -> xr.DataArray:
    """Joint attribution A = S * T of every clip, lazily.

    Parameters
    ----------
    per
        Of the run, or of each layer or head of each layer, where the run has stored them
        (``method.layers``, ``method.heads``).

    Returns
    -------
    (clip, [layer, [head,]] time, y, x) float32, sums to 1 over (time, y, x); NaN where ``status``
    isn't ok

    Raises
    ------
    StoreError
        When the run has stored no such arrays.
    """
    prefix = "" if per == "clip" else f"{per}_"
    if f"{prefix}spatial" not in ds:
        raise StoreError(f"the run has no attribution of each {per}: {prefix}spatial isn't stored")
    # S is stored in half precision, in which a product of two small shares would underflow.
    joint = ds[f"{prefix}spatial"].astype("float32") * ds[f"{prefix}temporal"].astype("float32")
    return joint.rename("joint").assign_attrs(
        description="A = S * T: share of the readout's attention; sums to 1"
    )


def focused_attribution(
    ds: xr.Dataset, *steps: Step, per: Literal["clip", "layer", "head"] = "clip"
) -> xr.DataArray:
    """Joint attribution after dynamic threshold and attention focusing, lazily.

    For example ``focused_attribution(ds, Threshold(kind="otsu"), Focus(temperature=0.5))``. The
    store stays as it is; what was applied is recorded in the attribute ``steps``.

    Parameters
    ----------
    ds
        A run from `open_run`, or a selection of its clips.
    steps
        Applied in this order.
    per
        As in `joint_attribution`.

    Returns
    -------
    (clip, [layer, [head,]] time, y, x) float32, sums to 1 over (time, y, x); NaN where ``status``
    isn't ok
    """
    joint = joint_attribution(ds, per=per)
    focused: xr.DataArray = xr.apply_ufunc(
        apply_steps,
        joint,
        kwargs={"steps": steps},
        input_core_dims=[["time", "y", "x"]],
        output_core_dims=[["time", "y", "x"]],
        dask="parallelized",
        output_dtypes=[np.float32],
    )
    return focused.rename("focused").assign_attrs(
        description=f"{joint.attrs['description']}; {steps_name(steps)}",
        steps=[step.parameters for step in steps],
    )
