"""Maps that know nothing of the clip: distributions, of known shape."""

import numpy as np
import pytest

from pipeline.attribution.baselines import center_gaussian, uniform_attribution


@pytest.mark.parametrize("grid", [(1, 1, 1), (8, 8, 8), (4, 14, 7), (2, 3, 5)])
def test_maps_that_do_not_look_are_distributions(grid):
    uniform, gaussian = uniform_attribution(*grid), center_gaussian(*grid)
    for attribution in (uniform, gaussian):
        assert attribution.shape == grid
        assert attribution.sum() == pytest.approx(1)
    assert np.ptp(uniform) == 0
    assert np.array_equal(gaussian[0], gaussian[-1])
    np.testing.assert_allclose(gaussian, gaussian[:, ::-1, ::-1])


def test_the_gaussian_falls_off_by_its_deviation():
    frame = center_gaussian(1, 101, 201, sigma=0.25)[0]
    middle = frame[50, 100]
    assert frame.max() == middle
    # 25 of 101 rows, and 50 of 201 columns, are one deviation within rounding.
    assert frame[75, 100] / middle == pytest.approx(np.exp(-0.5), rel=0.02)
    assert frame[50, 150] / middle == pytest.approx(np.exp(-0.5), rel=0.02)
    assert frame[75, 150] / middle == pytest.approx(np.exp(-1), rel=0.04)
    assert center_gaussian(1, 9, 9, sigma=0.1).max() > center_gaussian(1, 9, 9, sigma=0.5).max()
