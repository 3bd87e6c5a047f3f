"""What a page reads of a run: ok clips alone, current statistics, and a class for each clip."""

import numpy as np
import pytest

from analysis import class_statistics, open_run, save_statistics
from analysis.page.run_tables import RunTables
from pipeline.errors import StoreError
from pipeline.status import Status
from tests.analysis.stores import random_columns, small_layout, write_run


def written(tmp_path, name="run", **given):
    layout = small_layout(8)
    digest = given.pop("digest", "0")
    return write_run(tmp_path / name, layout, random_columns(layout, **given), digest=digest)


def test_clips_that_are_ok_are_grouped_by_label_or_else_by_prediction(tmp_path):
    status = np.array([1, 1, Status.EMPTY, 1, 1, 1, 1, 1], np.uint8)
    label = np.array([0, 1, 2, -1, 0, 1, 2, 0], np.int32)
    run = RunTables.of_run(written(tmp_path, status=status, label=label))
    assert run.by == "label"
    assert run.table.index.tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert run.groups.tolist() == [0, 1, -1, 0, 1, 2, 0]
    unlabelled = written(tmp_path, "without", label=np.full(8, -1, np.int32))
    run = RunTables.of_run(unlabelled)
    assert run.by == "prediction"
    assert run.groups.tolist() == open_run(unlabelled)["prediction"].values.tolist()


def test_statistics_beside_the_run_are_read_and_others_refused(tmp_path):
    url = written(tmp_path)
    save_statistics(class_statistics(open_run(url)), url)
    read = RunTables.of_run(url).statistics
    expected = class_statistics(open_run(url)).compute()
    for name in expected.data_vars:
        np.testing.assert_array_equal(read[name].values, expected[name].values)
    other = written(tmp_path, "other", digest="1")
    with pytest.raises(StoreError, match="the statistics are of run"):
        RunTables.of_run(url, statistics=class_statistics(open_run(other)))


def test_a_run_without_ok_clips_is_refused(tmp_path):
    url = written(tmp_path, status=np.full(8, Status.MISSING, np.uint8))
    with pytest.raises(StoreError, match="no clip is ok, so there is nothing to show"):
        RunTables.of_run(url)
