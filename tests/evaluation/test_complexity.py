"""Entropy and Gini: scipy, the mean absolute difference, and the ends of the scale."""

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy

from pipeline.evaluation.complexity import entropy, gini


def test_entropy_is_scipys_of_the_shares():
    values = np.random.default_rng(0).normal(size=(7, 3, 4, 4))
    values[0, 0] = 0
    expected = [scipy_entropy(np.abs(clip).ravel()) for clip in values]
    np.testing.assert_allclose(entropy(values), expected, atol=1e-12)


def test_gini_is_half_the_relative_mean_difference():
    values = np.abs(np.random.default_rng(1).normal(size=(5, 2, 3, 3)))
    for clip, index in zip(values, gini(values), strict=True):
        flat = clip.ravel()
        difference = np.abs(flat[:, None] - flat[None]).mean()
        assert index == pytest.approx(difference / (2 * flat.mean()), abs=1e-12)


def test_the_ends_of_the_scale_and_zeros():
    one = np.zeros((1, 4, 5))
    one[0, 2, 3] = 3
    uniform = np.full((1, 4, 5), 0.2)
    np.testing.assert_allclose(entropy(one), 0)
    np.testing.assert_allclose(gini(one), 19 / 20)
    for constant in (uniform, 0 * uniform):
        np.testing.assert_allclose(entropy(constant), np.log(20))
        np.testing.assert_allclose(gini(constant), 0, atol=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_map_that_is_not_finite_is_not_uniform(bad):
    values = np.random.default_rng(2).random((3, 4, 5))
    values[1, 2, 3] = bad
    for metric in (entropy, gini):
        assert np.isnan(metric(values)).tolist() == [False, True, False]
