"""Where and when the model looked in each clip of a run, as stored and after sharpening, lazily."""

from typing import Literal

import numpy as np
import xarray as xr

from pipeline.attribution.focus import Step, apply_steps, steps_name
from pipeline.errors import StoreError


def joint_attribution(
    ds: xr.Dataset, *, per: Literal["clip", "layer", "head"] = "clip"
) -> xr.DataArray:
    """Joint attribution A = S * T of every clip, lazily.

    Parameters
    ----------
    per
        The run's own, or those of each layer or head of each layer, where the run has stored them
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
        description="A = S * T: share of the clip's attribution; sums to 1"
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
