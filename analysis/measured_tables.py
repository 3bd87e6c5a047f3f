"""What the model has told about a sample of a run's clips, by class, as a table."""

import pandas as pd

from analysis.measured_columns import sample_of_run
from analysis.runs import open_run
from pipeline.errors import StoreError
from pipeline.store.measured import FLAGGED, GROUPS


def measured_by_class(run_url: str) -> pd.DataFrame:
    """Average what `jobs.evaluate` has asked the model, over the measured clips of each class.

    Returns
    -------
    A row for each class and figure: ``class`` (the label), ``group`` (faithfulness, time or
    sanity), ``figure``, ``mean``, ``low`` and ``high`` (95 %, over videos; NaN of fewer than 5),
    ``n_clips``, ``flagged``, whether the figure ranks a corrupted truth above the truth, and
    ``own``, for figures of time the agreement of their reference with itself on the same clips (NaN
    for others): what is above it doesn't repeat. Figures of faithfulness are less those of random
    orders. What else is to be known of figures of sanity stands in ``attrs["notes"]``.

    Raises
    ------
    StoreError
        If there is no run, or no sample of it has been measured.
    """
    notes: list[str] = []
    sample = sample_of_run(run_url, open_run(run_url), notes)
    if sample is None:
        why = f": {notes[0]}" if notes else ""
        raise StoreError(
            f"{run_url}: the model hasn't been asked about its clips{why}; jobs.evaluate "
            "--faithfulness, --time or --sanity does that"
        )
    repeats = {} if sample.repeatability is None else sample.of_classes(sample.repeatability)
    lines = [
        {
            "class": name,
            "group": group,
            "figure": figure,
            "mean": each.mean,
            "low": each.low,
            "high": each.high,
            "n_clips": each.n_clips,
            "flagged": figure in FLAGGED,
            "own": repeats[name].mean if group == "time" else float("nan"),
        }
        for group in GROUPS
        for figure in sample.figures[group]
        for name, each in sample.by_class(group, figure).items()
    ]
    columns = ("class", "group", "figure", "mean", "low", "high", "n_clips", "flagged", "own")
    table = pd.DataFrame(lines, columns=list(columns))
    table.attrs["notes"] = sample.notes_on_sanity()
    return table
