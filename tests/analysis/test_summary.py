"""Counts of a run's rows, against counting them by hand."""

import numpy as np

from analysis import open_run, run_summary
from pipeline.status import Status
from tests.analysis.stores import random_columns, small_layout, write_run


def test_every_row_is_counted_once(tmp_path):
    layout = small_layout(11)
    status = np.ones(11, np.uint8)
    status[[0, 1]] = Status.TOO_SHORT
    status[2] = Status.MODEL_ERROR
    status[8], status[10] = Status.UNUSED, Status.REMOVED
    label = np.array([0, 0, 0, 1, 2, 2, 2, 2, -1, 1, 0], np.int32)
    prediction = np.array([0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0], np.int32)
    columns = random_columns(layout, status=status, label=label, prediction=prediction)
    url = write_run(tmp_path / "run", layout, columns, pending_shards=(1,))
    assert run_summary(open_run(url)) == {
        "n_rows": 11,
        "n_ok": 2,
        "n_failed": 3,
        "n_removed": 1,
        "n_unused": 1,
        "n_pending": 4,
        "n_labelled": 2,
        "failed": {"too_short": 2, "model_error": 1},
        "accuracy": 1 / 2,
    }


def test_without_labels_there_is_no_accuracy(tmp_path):
    layout = small_layout(5)
    columns = random_columns(layout, label=np.full(5, -1, np.int32))
    summary = run_summary(open_run(write_run(tmp_path / "run", layout, columns)))
    assert summary["accuracy"] is None
    assert summary["n_labelled"] == 0
