"""What became of a run's rows, in numbers."""

from typing import TypedDict

import xarray as xr

from pipeline.status import Status


class RunCounts(TypedDict):
    """Rows of a run by outcome; ok, failed, removed, unused and pending ones are all of them."""

    n_rows: int
    n_ok: int
    n_failed: int
    n_removed: int
    """Rows that `jobs.forget` has taken out."""
    n_unused: int
    """Places of `jobs.live` in which no window is."""
    n_pending: int
    n_labelled: int
    """Ok rows that have a label."""
    failed: dict[str, int]
    """Failed rows by the name of their status; only statuses that occur."""
    accuracy: float | None
    """Share of the labelled rows whose prediction is their label; None if there are none."""


def run_summary(ds: xr.Dataset) -> RunCounts:
    """Count a run's rows by outcome; reads three of its columns, chunk by chunk.

    Parameters
    ----------
    ds
        A run from `analysis.open_run`.
    """
    status = ds["status"]
    labelled = (status == Status.OK) & (ds["label"] >= 0)
    counts = xr.Dataset(
        {
            "n_labelled": labelled.sum(),
            "n_correct": (labelled & (ds["prediction"] == ds["label"])).sum(),
            **{code.label: (status == code).sum() for code in Status},
        }
    ).compute()
    failed = {code.label: int(counts[code.label]) for code in Status if code.failed}
    n_labelled = int(counts["n_labelled"])
    return RunCounts(
        n_rows=ds.sizes["clip"],
        n_ok=int(counts[Status.OK.label]),
        n_failed=sum(failed.values()),
        n_removed=int(counts[Status.REMOVED.label]),
        n_unused=int(counts[Status.UNUSED.label]),
        n_pending=int(counts[Status.PENDING.label]),
        n_labelled=n_labelled,
        failed={name: count for name, count in failed.items() if count},
        accuracy=int(counts["n_correct"]) / n_labelled if n_labelled else None,
    )
