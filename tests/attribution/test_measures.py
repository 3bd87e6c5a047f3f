"""How much of an attribution is kept and how spread out it is, on maps with known answers."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import entropy as scipy_entropy

from pipeline.attribution.measures import normalised_entropy, share_kept


def test_entropy_and_share_kept_of_known_maps():
    one, half, flat = np.zeros((3, 2, 2, 4))
    one[0, 1, 2] = 1
    half[1] = 1 / 8
    flat[:] = 1 / 16
    maps = np.stack([one, half, flat, np.full_like(flat, np.nan)])
    np.testing.assert_allclose(normalised_entropy(maps), [0, 3 / 4, 1, np.nan], atol=1e-12)
    np.testing.assert_array_equal(share_kept(maps), [1 / 16, 1 / 2, 1, np.nan])


@given(
    hnp.arrays(np.float64, (2, 2, 3, 2), elements=st.floats(0, 1).map(lambda v: round(v, 3))),
    st.floats(0.1, 10),
)
def test_entropy_is_scipys_whatever_the_sum(maps, factor):
    assume((maps.sum(axis=(1, 2, 3)) > 0).all())
    expected = [scipy_entropy(one.ravel(), base=one.size) for one in maps]
    np.testing.assert_allclose(normalised_entropy(maps * factor), expected, atol=1e-9)


def test_half_precision_is_summed_in_double():
    """In float16 a sum of shares of 1e-4 stops growing at 0.25."""
    flat = np.full((8, 56, 56), 1 / (8 * 56 * 56), np.float16)
    assert normalised_entropy(flat) == pytest.approx(1, abs=1e-12)
    assert normalised_entropy(flat).dtype == np.float64


@pytest.mark.parametrize("shape", [(2, 3, 4), (5, 2, 3, 4), (2, 5, 2, 3, 4)])
def test_leading_axes_stay(shape):
    values = np.random.default_rng(0).random(shape)
    assert normalised_entropy(values).shape == share_kept(values).shape == shape[:-3]
