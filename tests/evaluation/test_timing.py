"""Planted moments and splices, by hand."""

import numpy as np
import pytest

from pipeline.evaluation.timing import moment_found, planted_excess

PLANTED = np.array([[0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool)


def test_a_moment_is_found_where_importance_is_highest():
    importance = np.array([[1.0, 5, 2, 3], [1, 2, 3, 0], [1, 2, 3, 4]])
    np.testing.assert_array_equal(moment_found(importance, PLANTED), [1, 0, np.nan])
    ties = np.array([[5.0, 5, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]])
    np.testing.assert_array_equal(moment_found(ties, PLANTED), [0.5, 0.5, np.nan])


def test_excess_is_the_share_beyond_chance():
    importance = np.array([[0.0, 2, 2, -9], [1, 1, 0, 0], [1, 1, 1, 1]])
    expected = [0.5 - 0.25, 1 - 0.5, np.nan]
    np.testing.assert_allclose(planted_excess(importance, PLANTED), expected)
    for uniform in (np.zeros((3, 4)), np.ones((3, 4)), -np.ones((3, 4))):
        np.testing.assert_allclose(planted_excess(uniform, PLANTED)[:2], 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", [moment_found, planted_excess])
def test_importance_with_nan_finds_nothing(metric):
    importance = np.array([[np.nan, 5, 2, 3], [1, 2, 3, 0], [np.nan] * 4])
    assert np.isnan(metric(importance, PLANTED)).tolist() == [True, False, True]


@pytest.mark.parametrize("metric", [moment_found, planted_excess])
def test_other_shapes_are_refused(metric):
    with pytest.raises(ValueError, match=r"\(2, 4\) and planted \(3, 4\)"):
        metric(np.ones((2, 4)), PLANTED)
