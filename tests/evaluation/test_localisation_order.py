"""Order of patches against masks: scikit-learn, answers by hand, and properties of any map."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, roc_auc_score

from pipeline.evaluation.localisation import (
    auroc,
    average_precision,
    pointing,
    relevance_mass,
    relevance_rank,
    share_on_mask,
)

ORDER_METRICS = (average_precision, auroc, relevance_rank, pointing)


@st.composite
def maps_and_truths(draw):
    """Maps with many ties, and truths; of any shape (clips, time, y, x)."""
    shape = draw(hnp.array_shapes(min_dims=4, max_dims=4, max_side=4))
    levels = st.integers(-2, 3).map(float) | st.floats(-1e3, 1e3, width=32)
    return (
        draw(hnp.arrays(np.float64, shape, elements=levels)),
        draw(hnp.arrays(np.bool_, shape)),
        draw(hnp.arrays(np.bool_, shape)),
    )


@given(maps_and_truths())
def test_average_precision_and_auroc_are_scikit_learns(drawn):
    attribution, truth, known = drawn
    of_all = average_precision(attribution, truth), auroc(attribution, truth)
    of_known = average_precision(attribution, truth, known), auroc(attribution, truth, known)
    for clip in range(len(attribution)):
        chosen = known[clip]
        for (ap, area), scores, labels in (
            (of_all, attribution[clip].ravel(), truth[clip].ravel()),
            (of_known, attribution[clip][chosen], truth[clip][chosen]),
        ):
            if labels.any():
                assert ap[clip] == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
            else:
                assert np.isnan(ap[clip])
            if labels.any() and not labels.all():
                assert area[clip] == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
            else:
                assert np.isnan(area[clip])


@given(maps_and_truths(), st.randoms(use_true_random=False))
def test_the_order_of_patches_and_a_monotonic_scale_change_nothing(drawn, random):
    attribution, truth, _ = drawn
    places = list(range(attribution[0].size))
    random.shuffle(places)
    flat = attribution.reshape(len(attribution), -1)[:, places]
    flat_truth = truth.reshape(len(truth), -1)[:, places]
    for metric in ORDER_METRICS:
        expected = metric(attribution, truth)
        np.testing.assert_allclose(metric(flat, flat_truth), expected, atol=1e-12)
        np.testing.assert_allclose(metric(4 * flat.astype(float), flat_truth), expected, atol=1e-12)
        assert ((expected >= 0) & (expected <= 1 + 1e-12) | np.isnan(expected)).all()


def test_a_constant_map_has_the_value_of_chance():
    truth = np.zeros((2, 2, 3, 3), np.bool_)
    truth[0, 0, :2, :2], truth[1, 1, 0, 0] = True, True
    for constant in (np.zeros(truth.shape), np.full(truth.shape, 0.3)):
        covered = truth.mean(axis=(1, 2, 3))
        for metric in (average_precision, relevance_rank, pointing):
            np.testing.assert_allclose(metric(constant, truth), covered)
        np.testing.assert_allclose(auroc(constant, truth), 0.5)
        np.testing.assert_allclose(relevance_mass(constant, truth), covered)


def test_the_truth_has_the_highest_value_and_its_opposite_the_lowest():
    truth = np.random.default_rng(1).random((5, 2, 4, 4)) < 0.3
    for metric in ORDER_METRICS:
        np.testing.assert_allclose(metric(truth.astype(float), truth), 1)
        assert (metric(-truth.astype(float), truth) < 0.5).all()
    np.testing.assert_allclose(relevance_mass(truth.astype(float), truth), 1)
    np.testing.assert_allclose(relevance_mass((~truth).astype(float), truth), 0)


def test_rank_counts_what_lies_among_as_many_patches_as_the_truth_has():
    attribution = np.array([[9.0, 8, 7, 6, 5, 5, 5, 1]])
    truth = np.array([[1, 0, 1, 0, 1, 1, 0, 1]], np.bool_)
    # Places 1 to 4, and one of the three 5s, of which two are truth.
    np.testing.assert_allclose(relevance_rank(attribution, truth), (2 + 2 / 3) / 5)
    np.testing.assert_allclose(pointing(attribution, truth), 1)
    known = np.array([[0, 1, 1, 1, 1, 1, 1, 0]], np.bool_)
    np.testing.assert_allclose(relevance_rank(attribution, truth, known), 1 / 3)
    np.testing.assert_allclose(pointing(attribution, truth, known), 0)


def test_mass_is_the_share_on_the_mask_and_leaves_out_what_is_not_known():
    rng = np.random.default_rng(2)
    attribution, mask = rng.random((4, 2, 3, 3)), rng.random((4, 2, 3, 3))
    shares = attribution / attribution.sum(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(relevance_mass(attribution, mask), share_on_mask(shares, mask))
    known = np.zeros(mask.shape, np.bool_)
    known[:, 0] = True
    of_first = relevance_mass(attribution[:, :1], mask[:, :1])
    np.testing.assert_allclose(relevance_mass(attribution, mask, known), of_first)
    assert np.isnan(relevance_mass(attribution, mask, np.zeros(mask.shape, np.bool_))).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", [*ORDER_METRICS, relevance_mass])
def test_a_map_with_nan_has_no_score_unless_it_lies_where_nothing_is_known(metric):
    attribution = np.random.default_rng(3).random((4, 8))
    truth = np.tile(np.arange(8) < 3, (4, 1))
    known = np.ones(truth.shape, np.bool_)
    expected = metric(attribution, truth, known)
    attribution[0] = attribution[1, 6] = attribution[2, 0] = np.nan
    found = metric(attribution, truth, known)
    assert np.isnan(found[:3]).all()
    assert found[3] == expected[3]
    known[0], known[1, 6], known[2, 0] = False, False, False
    assert np.isnan(metric(attribution, truth, known)).tolist() == [True, False, False, False]


@pytest.mark.parametrize("metric", [*ORDER_METRICS, relevance_mass])
def test_other_shapes_are_refused_with_both(metric):
    with pytest.raises(ValueError, match=r"\(1, 2, 2, 2\) and mask \(1, 2, 2, 3\)"):
        metric(np.ones((1, 2, 2, 2)), np.ones((1, 2, 2, 3), np.bool_))


def test_mass_of_half_precision_is_summed_in_double():
    rng = np.random.default_rng(20261130)
    maps = rng.gamma(0.3, size=(5, 8, 14, 14)).astype(np.float16)
    mask = rng.random((5, 8, 14, 14)).astype(np.float32)
    exact = maps.astype(np.float64)
    expected = (exact * mask).sum(axis=(1, 2, 3)) / exact.sum(axis=(1, 2, 3))
    np.testing.assert_allclose(relevance_mass(maps, mask), expected, rtol=1e-7)
