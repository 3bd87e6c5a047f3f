"""Flips of signs: against all flips by hand and McNemar, and how often chance alone is sure."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from analysis.audit.sign_flips import MOST_BLOCKS, sign_flip_test, smallest_p

LEAST = np.full(5, 1e-9)


@pytest.mark.parametrize("n", [1, 2, 6, 9])
def test_p_is_the_share_of_all_flips_that_are_as_large(n):
    changes = np.random.default_rng(n).normal(0.4, 1, (n, 5))
    changes[0, 1] = np.nan
    least = np.array([0.5, 1, 2, 0.1, 1e-9])
    filled = np.nan_to_num(changes)
    size = np.sqrt((filled**2).sum(axis=0) + np.isfinite(changes).sum(axis=0) * least**2)
    size[size == 0] = 1
    flips = np.array(list(product((-1, 1), repeat=n))) @ (filled / size)
    largest = np.abs(flips).max(axis=1)
    statistic = np.abs(filled.sum(axis=0) / size)
    result = sign_flip_test(changes, least, n_flips=1000, seed=0)
    assert result.exact
    assert result.p == pytest.approx((largest >= statistic.max() * (1 - 1e-9)).mean())
    for column in range(5):
        expected = (largest >= statistic[column] * (1 - 1e-9)).mean()
        assert result.p_of(column) == pytest.approx(expected)


def test_of_one_column_of_answers_it_is_mcnemar():
    for gained, lost in ((0, 6), (2, 7), (5, 5)):
        values = np.array([1] * gained + [-1] * lost, float)[:, None]
        result = sign_flip_test(values, LEAST[:1], n_flips=2000, seed=0)
        assert result.p == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
    assert result.p == 1


def test_nothing_that_changed_is_nothing_and_a_change_of_all_is_the_least_p():
    assert sign_flip_test(np.zeros((12, 5)), LEAST, n_flips=4000, seed=0).p == 1
    for n in (3, 10, 12):
        changes = np.random.default_rng(0).normal(0, 1, (n, 5))
        changes[:, 2] = 1
        result = sign_flip_test(changes, np.full(5, 0.1), n_flips=4000, seed=0)
        assert result.p == smallest_p(n) == 2.0 ** (1 - n)
    assert smallest_p(0) == 1
    with pytest.raises(ValueError, match="a row and a column"):
        sign_flip_test(np.zeros((3, 0)), np.zeros(0), n_flips=10, seed=0)


@pytest.mark.parametrize("n", [30, MOST_BLOCKS + 1, 500])
def test_flips_that_are_drawn_repeat_and_find_a_change_as_sure_as_they_can_be(n):
    changes = np.random.default_rng(n).normal(0, 1, (n, 5))
    changes[:, 3] += 5
    one, again = (sign_flip_test(changes, LEAST, n_flips=3000, seed=7) for _ in range(2))
    assert (one.p, one.exact) == (1 / 3001, False)
    np.testing.assert_array_equal(one.largest, again.largest)
    assert int(one.statistic.argmax()) == 3
    assert one.p_of(3) <= one.p
    assert one.p_of(0) > 0.05


@pytest.mark.parametrize("n", [10, 40, 200])
def test_chance_alone_is_called_sure_as_often_as_it_should(n):
    rng = np.random.default_rng(n)
    n_trials = 400
    p = []
    for seed in range(n_trials):
        # Columns that go together, of other spreads, with long tails.
        changes = rng.standard_t(3, (n, 8)) * np.geomspace(0.1, 10, 8) + rng.normal(0, 1, (n, 1))
        p.append(sign_flip_test(changes, np.full(8, 0.1), n_flips=500, seed=seed).p)
    for level in (0.05, 0.2, 0.5):
        share = np.mean(np.array(p) <= level)
        assert abs(share - level) < 4 * np.sqrt(level * (1 - level) / n_trials)
