"""How much of an attribution is kept and how spread out it is, on maps with known answers."""

import numpy as np

from pipeline.attribution.measures import normalised_entropy, share_kept


def test_entropy_and_share_kept_of_known_maps():
    one, half, flat = np.zeros((3, 2, 2, 4))
    one[0, 1, 2] = 1
    half[1] = 1 / 8
    flat[:] = 1 / 16
    maps = np.stack([one, half, flat, np.full_like(flat, np.nan)])
    np.testing.assert_allclose(normalised_entropy(maps), [0, 3 / 4, 1, np.nan], atol=1e-12)
    np.testing.assert_array_equal(share_kept(maps), [1 / 16, 1 / 2, 1, np.nan])
