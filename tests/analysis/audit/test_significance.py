"""Tests of significance against SciPy and known answers."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.audit.significance import (
    adjusted,
    bootstrap_interval,
    mean_difference,
    mean_of,
    rank_tests,
)

SEED = int(datetime.now(UTC).strftime("%Y%m%d"))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(8, 60),
    n_groups=st.integers(2, 5),
    ties=st.booleans(),
)
def test_rank_tests_are_mann_whitneys(seed, n, n_groups, ties):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 5, n).astype(float) if ties else rng.random(n)
    groups = rng.integers(-1, n_groups, n)
    auc, p = rank_tests(values, groups, n_groups)
    for group in range(n_groups):
        inside, outside = values[groups == group], values[groups != group]
        if not len(inside) or not len(outside):
            assert np.isnan(p[group])
            continue
        if len(np.unique(values)) == 1:
            assert p[group] == 1
            continue
        expected = stats.mannwhitneyu(
            inside, outside, alternative="greater", method="asymptotic", use_continuity=False
        )
        assert auc[group] == pytest.approx(expected.statistic / len(inside) / len(outside))
        assert p[group] == pytest.approx(expected.pvalue)


def test_adjusted_leaves_out_what_was_not_tested():
    p = np.array([0.01, np.nan, 0.04, 0.03])
    q = adjusted(p)
    assert np.isnan(q[1])
    np.testing.assert_allclose(q[[0, 2, 3]], stats.false_discovery_control([0.01, 0.04, 0.03]))
    assert np.isnan(adjusted(np.full(3, np.nan))).all()


def test_intervals_cover_as_often_as_they_say():
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    hits = 0
    for trial in range(200):
        low, high = bootstrap_interval(mean_of, rng.exponential(size=50), seed=trial)
        hits += low <= 1 <= high
    assert 170 <= hits <= 200
    one, other = rng.normal(1, 1, 80), rng.normal(0, 1, 80)
    low, high = bootstrap_interval(mean_difference, one, other, seed=0)
    reference = stats.bootstrap(
        (one, other), lambda a, b, axis: a.mean(axis) - b.mean(axis), method="percentile", rng=rng
    ).confidence_interval
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=0.05)
