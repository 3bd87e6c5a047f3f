"""Nearest neighbours against a full search and scikit-learn's."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from analysis.audit.neighbours import n_nearer, nearest, two_nn_dimension

SEED = int(datetime.now(UTC).strftime("%Y%m%d"))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(5, 60), k=st.integers(1, 6))
def test_neighbours_are_those_of_a_full_search_but_for_the_same_group(seed, n, k):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 5)).astype(np.float32)
    vectors[-1] = vectors[0]
    group = rng.integers(0, n, n)
    rows, distances = nearest(vectors, group, k)
    for row in range(n):
        others = np.flatnonzero(group != group[row])
        expected = np.sort(np.linalg.norm(vectors[others] - vectors[row], axis=1))[:k]
        np.testing.assert_allclose(distances[row, : len(expected)], expected, atol=1e-6)
        assert np.isinf(distances[row, len(expected) :]).all()
        assert not set(rows[row, : len(expected)]) & set(np.flatnonzero(group == group[row]))


def test_neighbours_across_blocks_are_those_of_scikit_learn():
    rng = np.random.default_rng(SEED)
    vectors = rng.normal(size=(333, 12)).astype(np.float32)
    _, distances = nearest(vectors, np.arange(333), 7, rows_at_once=64, columns_at_once=100)
    expected, _ = NearestNeighbors(n_neighbors=8).fit(vectors).kneighbors(vectors)
    np.testing.assert_allclose(distances, expected[:, 1:], rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(4, 60))
def test_what_is_nearer_than_a_partner_is_counted_without_the_same_group(seed, n):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 5)).astype(np.float32)
    group = rng.integers(0, n, n)
    rows, partners = rng.integers(0, n, (2, 2 * n))
    distances = np.linalg.norm(vectors[rows][:, None] - vectors, axis=2)
    limit = distances[np.arange(2 * n), partners]
    nearer = (distances < limit[:, None] - 1e-3) & (group[rows][:, None] != group)
    got = n_nearer(vectors, group, rows, partners, rows_at_once=7, columns_at_once=9)
    near = (abs(distances - limit[:, None]) <= 1e-3).sum(axis=1)
    assert (got >= nearer.sum(axis=1)).all()
    assert (got <= nearer.sum(axis=1) + near).all()


def test_a_copy_has_nothing_nearer_among_rows_that_are_all_the_same():
    vectors = np.tile(np.random.default_rng(SEED).random(200, np.float32), (50, 1))
    assert not n_nearer(vectors, np.arange(50), np.arange(49), np.arange(1, 50)).any()


@pytest.mark.parametrize("dimension", [2, 5])
def test_the_dimension_of_points_is_found_and_duplicates_do_not_matter(dimension):
    rng = np.random.default_rng(SEED)
    points = rng.random((3000, dimension)) @ rng.normal(size=(dimension, 20))
    points[:200] = points[200:400] + 1e-6
    _, distances = nearest(points.astype(np.float32), np.arange(3000), 3)
    assert two_nn_dimension(distances) == pytest.approx(dimension, rel=0.25)
