"""Lift over a mask: examples by hand, what must hold of any, and a bootstrap of its error."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.attribution.baselines import uniform_attribution
from pipeline.evaluation.localisation import Lift, lift, share_covered, share_on_mask

shapes = hnp.array_shapes(min_dims=4, max_dims=4, max_side=5)
shares = st.floats(0, 1, width=32)


@st.composite
def masks_and_attributions(draw):
    """Masks, and as many distributions over (time, y, x)."""
    shape = draw(shapes)
    masks = draw(hnp.arrays(np.float32, shape, elements=shares))
    weights = draw(hnp.arrays(np.float64, shape, elements=shares))
    totals = weights.sum(axis=(1, 2, 3), keepdims=True)
    assume((totals > 1e-3).all())
    assume(masks.mean() > 1e-3)
    return masks, weights / totals


def test_a_clip_worked_by_hand():
    attribution = np.array([[[[0.1, 0.2], [0.3, 0.0]], [[0.0, 0.4], [0.0, 0.0]]]])
    mask = np.array([[[[0.0, 1.0], [0.5, 0.0]], [[1.0, 0.25], [0.0, 0.0]]]])
    assert share_on_mask(attribution, mask)[0] == pytest.approx(0.2 + 0.15 + 0.1)
    assert share_covered(mask)[0] == pytest.approx(2.75 / 8)
    result = lift(share_on_mask(attribution, mask), share_covered(mask))
    assert result.value == pytest.approx(0.45 / (2.75 / 8))
    assert (result.share, result.covered) == pytest.approx((0.45, 0.34375))
    assert result.n_clips == 1


def test_two_clips_worked_by_hand():
    """A ratio of means: the mean of ratios would be (6 + 0.5) / 2, ruled by the tiny mask."""
    result = lift(np.array([0.3, 0.2]), np.array([0.05, 0.4]))
    ratio = 0.25 / 0.225
    assert result.value == pytest.approx(ratio)
    # Residuals are 0.3 - 0.05 r and its opposite; their deviation with n - 1 is sqrt(2) as much.
    residual = 0.3 - 0.05 * ratio
    assert result.standard_error == pytest.approx(residual / 0.225)


@given(masks_and_attributions())
def test_shares_equal_a_loop_over_patches(pair):
    masks, attributions = pair
    for clip in range(len(masks)):
        on_mask = covered = 0.0
        for place in np.ndindex(masks.shape[1:]):
            on_mask += float(attributions[clip][place]) * float(masks[clip][place])
            covered += float(masks[clip][place]) / masks[clip].size
        assert share_on_mask(attributions, masks)[clip] == pytest.approx(on_mask)
        assert share_covered(masks)[clip] == pytest.approx(covered)


@given(masks_and_attributions())
def test_a_map_that_knows_nothing_has_a_lift_of_1_without_error(pair):
    masks, _ = pair
    uniform = np.broadcast_to(uniform_attribution(*masks.shape[1:]), masks.shape)
    result = lift(share_on_mask(uniform, masks), share_covered(masks))
    assert result.value == pytest.approx(1, abs=1e-12)
    if result.n_clips > 1:
        assert result.standard_error == pytest.approx(0, abs=1e-12)


@given(masks_and_attributions())
def test_no_map_has_more_than_the_one_that_is_all_on_the_mask(pair):
    masks, attributions = pair
    covered = share_covered(masks)
    best = np.zeros(masks.shape)
    for clip, mask in enumerate(masks):
        best[clip][np.unravel_index(mask.argmax(), mask.shape)] = 1
    highest = lift(share_on_mask(best, masks), covered).value
    assert lift(share_on_mask(attributions, masks), covered).value <= highest * (1 + 1e-6)
    assert highest <= 1 / covered.mean() * (1 + 1e-6)
    binary = (masks > 0).astype(np.float32)
    within = binary / np.maximum(binary.sum(axis=(1, 2, 3), keepdims=True), 1)
    result = lift(share_on_mask(within, binary), share_covered(binary))
    hit = binary.any(axis=(1, 2, 3))
    assert result.value == pytest.approx(hit.mean() / binary.mean())


@given(masks_and_attributions(), st.floats(0.1, 1))
def test_lift_does_not_change_with_the_unit_of_the_mask_and_off_the_mask_it_is_0(pair, factor):
    masks, attributions = pair
    covered, on_mask = share_covered(masks), share_on_mask(attributions, masks)
    result = lift(on_mask, covered)
    scaled = lift(factor * on_mask, factor * covered)
    assert scaled.value == pytest.approx(result.value)
    assert scaled.standard_error == pytest.approx(result.standard_error, abs=1e-9, nan_ok=True)
    off = np.where(masks > 0, 0, attributions)
    assert lift(share_on_mask(off, masks), covered).value == 0


@pytest.mark.parametrize("n_clips", [40, 400])
@pytest.mark.parametrize("tied", [0.0, 0.9])
def test_the_standard_error_is_that_of_a_bootstrap(n_clips, tied):
    rng = np.random.default_rng(0)
    covered = rng.gamma(4, 0.01, n_clips)
    share = 3 * (tied * covered + (1 - tied) * rng.gamma(4, 0.01, n_clips))
    chosen = rng.integers(n_clips, size=(20_000, n_clips))
    resampled = share[chosen].mean(axis=1) / covered[chosen].mean(axis=1)
    assert lift(share, covered).standard_error == pytest.approx(resampled.std(), rel=0.06)


def test_one_clip_has_no_standard_error():
    assert np.isnan(lift(np.array([0.2]), np.array([0.1])).standard_error)
    assert Lift(share=0.2, covered=0.1, n_clips=1, standard_error=0.0).value == pytest.approx(2)


def test_float16_shares_are_summed_exactly():
    """In float16 a sum of shares of 1e-4 stops growing at 0.25."""
    attribution = np.full((1, 8, 56, 56), 1 / (8 * 56 * 56), np.float16)
    mask = np.ones(attribution.shape, np.float32)
    assert share_on_mask(attribution, mask)[0] == pytest.approx(1, abs=5e-3)


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"\(1, 2, 3, 3\) and mask \(1, 2, 3, 4\)"):
        share_on_mask(np.zeros((1, 2, 3, 3)), np.zeros((1, 2, 3, 4)))


def test_views_of_a_video_make_a_lift_no_surer():
    rng = np.random.default_rng(2)
    covered = rng.uniform(0.1, 0.4, 12)
    share, videos = covered * rng.normal(2, 0.5, 12), np.arange(12).astype(str)
    once = lift(share, covered)
    several = lift(np.repeat(share, 10), np.repeat(covered, 10), np.repeat(videos, 10))
    assert several.value == pytest.approx(once.value)
    assert several.standard_error == pytest.approx(once.standard_error)
    assert several.n_clips == 120
    one_video = lift(np.repeat(share[:1], 10), np.repeat(covered[:1], 10), np.zeros(10))
    assert np.isnan(one_video.standard_error)
