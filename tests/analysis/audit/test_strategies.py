"""Ways of looking within a class: those that are a class's own, and found again, count."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.audit.settings import AuditSettings
from analysis.audit.strategies import cluster, own_clusters, stability, strategies
from tests.analysis.simulated_runs import CLASS_NAMES, TWO

SETTINGS = AuditSettings()


def test_two_ways_are_found_in_the_class_that_has_them(planted):
    _, evidence = planted
    (found,) = strategies(evidence, SETTINGS)
    assert found.subject == (CLASS_NAMES[TWO],)
    assert "2 kinds by their maps" in found.seen
    assert "top left" in found.seen
    assert "bottom right" in found.seen


def test_ways_that_all_classes_have_are_none_of_one(clean):
    maps = clean.maps.copy()
    maps[::2, :8] += 0.1
    maps[1::2, -8:] += 0.1
    maps /= maps.sum(axis=1, keepdims=True)
    assert not strategies(replace(clean, maps=maps), SETTINGS)


@pytest.fixture
def two_blobs(day_seed):
    rng = np.random.default_rng(day_seed)
    return np.concatenate([rng.normal(0, 1, (40, 4)), rng.normal(8, 1, (40, 4))]), rng


def test_clusters_that_are_apart_are_found_and_found_again(two_blobs):
    points, rng = two_blobs
    clusters = cluster(points, 8)
    assert len(set(clusters[:40])) == len(set(clusters[40:])) == 1
    assert clusters[0] != clusters[-1]
    assert stability(points, clusters, 8, rng) == 1


def test_points_of_which_one_lies_apart_are_one_cluster(day_seed):
    points = np.random.default_rng(day_seed).normal(size=(40, 4))
    points[0] += 50
    assert cluster(points, 12).max() <= 0 or np.bincount(cluster(points, 12) + 1)[1:].min() >= 12


def test_clusters_that_others_fall_into_as_often_are_not_the_classs_own(two_blobs):
    points, rng = two_blobs
    order = rng.permutation(len(points))
    assert own_clusters(points[order], rng.normal(30, 1, (200, 4)), 8, rng) < 1e-3
    same = np.concatenate([rng.normal(0, 1, (100, 4)), rng.normal(8, 1, (100, 4))])
    assert own_clusters(points[order], same, 8, rng) > 0.05
