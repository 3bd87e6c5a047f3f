"""What `jobs.evaluate` has measured of a run's clips, as columns for its rows."""

from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from analysis.runs import attribute, record_of
from pipeline.errors import StoreError, reason_of
from pipeline.storage.zarr_store import zarr_location
from pipeline.store.measured import UNITS, Sample, sample_of
from pipeline.store.objects import lost_objects
from pipeline.store.opening import DAMAGE, Absent, Found, Unfinished, find_store, open_store
from pipeline.store.record import RunIdentity
from pipeline.store.run_folder import faithfulness_url, metrics_url, store_url

MEASURED = {
    "lift": "share of the attribution on the marked region, divided by the region's share of the "
    "clip; by jobs.evaluate --ground-truth",
    **{
        f"gap_{unit}": f"insertion AUC less deletion AUC over {unit}, less that of random orders: "
        "how much the model needs what is marked; mean of three fills, by "
        "jobs.evaluate --faithfulness"
        for unit in UNITS
    },
}
"""The page shows these columns of a run that `jobs.evaluate` has measured."""
OF_MASKS = ("mask_share_attribution", "mask_covered")
"""Share of the attribution on the marked region, and that region's share of the clip; the audit
holds classes against each other by both."""


def metric_columns(run_url: str, ds: xr.Dataset, notes: list[str]) -> dict[str, NDArray[Any]]:
    """Values per clip that `jobs.evaluate` has written for this run, by name; may be empty.

    Returns
    -------
    (rows,) floats each; NaN for clips that weren't measured. Beside what ``metrics.zarr`` holds,
    there are those of `MEASURED`. A sample of another run, or a damaged one, is left out; a note
    says so.
    """
    return {**_of_ground_truth(run_url, ds, notes), **_of_perturbed_clips(run_url, ds, notes)}


def _of_ground_truth(run_url: str, ds: xr.Dataset, notes: list[str]) -> dict[str, NDArray[Any]]:
    url = metrics_url(run_url)
    try:
        group: Any = zarr.open_group(zarr_location(url), mode="r")
    except (OSError, ValueError, zarr.errors.BaseZarrError):
        return {}
    # The store has its identity as it was written, which may lack keys that this release has.
    known = (attribute(ds, "identity"), record_of(ds).identity.model_dump(mode="json"))
    if group.attrs.get("identity") not in known:
        notes.append(f"{url} is of another run and is left out")
        return {}
    n_rows = ds.sizes["clip"]
    try:
        if lost := lost_objects(group):
            notes.append(f"{url} has lost objects and is left out: {lost}")
            return {}
        columns = {
            name: array[:]
            for name, array in sorted(group.arrays())
            if array.shape == (n_rows,) and array.dtype.kind == "f"
        }
    except DAMAGE as error:
        notes.append(_damaged(url, error))
        return {}
    if set(OF_MASKS) <= set(columns):
        with np.errstate(invalid="ignore", divide="ignore"):
            covered = np.where(columns["mask_covered"] > 0, columns["mask_covered"], np.nan)
            columns["lift"] = (columns["mask_share_attribution"] / covered).astype(np.float32)
    return columns


def _of_perturbed_clips(run_url: str, ds: xr.Dataset, notes: list[str]) -> dict[str, NDArray[Any]]:
    """Gaps of the clips of a sample that the model was asked about, less those of random orders."""
    sample = sample_of_run(run_url, ds, notes)
    if sample is None:
        return {}
    columns = {}
    for unit in UNITS:
        of_fills = sample.figures["faithfulness"].get(f"gap {unit}")
        if of_fills is not None:
            values = np.full(ds.sizes["clip"], np.nan, np.float32)
            values[sample.rows] = of_fills.mean(axis=1)
            columns[f"gap_{unit}"] = values
    return columns


def sample_of_run(run_url: str, ds: xr.Dataset, notes: list[str]) -> Sample | None:
    """Give what the model has told about a sample of a run's clips; None if nobody has asked it.

    A sample of another run, or a damaged one, is left out; a note says so.
    """
    url = metrics_url(faithfulness_url(run_url))
    try:
        target = find_store(url)
        if isinstance(target, Absent | Unfinished):
            return None
        store = target.store if isinstance(target, Found) else open_store(url)
        if not _is_sample_of(store.record.identity, record_of(ds).identity):
            notes.append(f"{url} is of another run and is left out")
            return None
        return sample_of(store, open_store(store_url(run_url)))
    except (StoreError, *DAMAGE) as error:
        notes.append(_damaged(url, error))
        return None


def _damaged(url: str, error: Exception) -> str:
    return f"{url} can't be read and is left out: {reason_of(error)}"


def _is_sample_of(sample: RunIdentity, run: RunIdentity) -> bool:
    """Whether what a sample was drawn from is this run, which its clips' identity says."""
    if sample.measured is None or sample.measured.get("run") != run.manifest:
        return False
    own = ("manifest", "batch_size", "rows_per_shard", "measured")
    return sample.model_copy(update={name: getattr(run, name) for name in own}) == run
