"""An ok clip whose attribution is lost makes its class NaN, named, and no other class wrong."""

import numpy as np
import pytest

from analysis import class_statistics, open_run
from analysis.statistics import classes_with_lost_clips
from tests.analysis.stores import CLASS_NAMES, random_columns, small_layout, write_run

N_ROWS = 12
LABELS = np.array([0, 0, 1, 1, 0, 1, 0, 1, 2, 2, 2, 2], np.int32)
"""Classes 0 and 1 have clips in the shards 0 and 1, class 2 alone in shard 2."""


@pytest.fixture
def run(tmp_path):
    columns = random_columns(small_layout(N_ROWS), label=LABELS)
    return tmp_path / "run", write_run(tmp_path / "run", small_layout(N_ROWS), columns)


def statistics_of(url):
    return class_statistics(open_run(url), "label").compute()


@pytest.mark.parametrize(
    ("array", "gone"),
    [
        ("spatial", ("spatial_map", "entropy")),
        # A = S * T, so that nothing is left of it.
        ("temporal", ("spatial_map", "temporal_profile", "entropy")),
    ],
)
def test_classes_of_a_lost_object_are_nan_and_named_and_the_others_are_as_before(run, array, gone):
    folder, url = run
    whole = statistics_of(url)
    assert classes_with_lost_clips(whole) == []
    shard = folder / "attributions.zarr" / array / "c" / "1"
    (lost,) = (path for path in shard.rglob("*") if path.is_file())
    lost.unlink()
    statistics = statistics_of(url)
    assert classes_with_lost_clips(statistics) == list(CLASS_NAMES[:2])
    # The clips are ok and counted, and their answers are there; their attribution is not.
    for name in ("n_clips", "n_failed", "accuracy", "probability"):
        np.testing.assert_array_equal(statistics[name], whole[name])
    for name in ("spatial_map", "temporal_profile", "entropy"):
        values = statistics[name]
        assert values.isel({"class": [0, 1]}).isnull().all() == (name in gone), name
        np.testing.assert_array_equal(values.isel({"class": 2}), whole[name].isel({"class": 2}))
