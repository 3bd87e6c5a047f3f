"""What is watched of a window equals what a run's table of scores has."""

import numpy as np
import pytest

from analysis.clip_scores import map_scores
from pipeline.stream.scores import SCORES, window_scores


@pytest.mark.parametrize("grid", [(4, 7, 7), (8, 14, 14), (1, 5, 9), (8, 1, 1), (2, 3, 2)])
def test_scores_are_those_of_a_run(grid):
    random = np.random.default_rng(sum(grid))
    spatial = random.dirichlet(np.full(grid[1] * grid[2], 0.5), grid[0]).reshape(grid)
    # In half precision, as stores have it.
    spatial = spatial.astype(np.float16).astype(np.float32)
    temporal = random.dirichlet(np.full(grid[0], 2)).astype(np.float32)
    expected = map_scores(spatial[None], temporal[None]).scores
    found, _ = window_scores(spatial, temporal)
    assert tuple(found) == SCORES
    for name in SCORES:
        assert found[name] == pytest.approx(expected[name][0], abs=1e-5), name


def test_a_map_that_is_not_finite_has_no_scores():
    found, _ = window_scores(np.full((2, 3, 3), np.nan, np.float32), np.full(2, 0.5, np.float32))
    assert all(np.isnan(value) for value in found.values())
