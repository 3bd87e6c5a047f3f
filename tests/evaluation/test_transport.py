"""Earth mover's distance against scipy's linear programme, answers by hand, and bounds."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance, wasserstein_distance_nd

from pipeline.evaluation.transport import emd_space, emd_space_time, emd_time

GRID = (3, 4, 5)


def drawn(seed, n_clips=3):
    rng = np.random.default_rng(seed)
    attribution = rng.gamma(0.4, size=(n_clips, *GRID))
    truth = rng.random((n_clips, *GRID)) * (rng.random((n_clips, *GRID)) < 0.3)
    truth[:, 1] = 0
    return attribution, truth, np.ones((n_clips, GRID[0]), np.bool_)


def places(n_times, scale):
    axes = np.arange(n_times) * scale, np.arange(GRID[1]), np.arange(GRID[2])
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def test_in_space_it_is_the_mean_over_frames_with_truth_of_the_linear_programme():
    attribution, truth, known = drawn(0)
    points = places(1, 0)[:, 1:]
    diagonal = np.hypot(GRID[1] - 1, GRID[2] - 1)
    for clip, score in enumerate(emd_space(attribution, truth, known)):
        distances = [
            wasserstein_distance_nd(points, points, a.ravel(), m.ravel())
            for a, m in zip(attribution[clip], truth[clip], strict=True)
            if m.any()
        ]
        assert len(distances) == 2
        assert score == pytest.approx(1 - np.mean(distances) / diagonal, abs=1e-6)


def test_over_space_and_time_it_is_the_linear_programme_with_the_scaled_time():
    attribution, truth, known = drawn(1)
    points = places(3, 5 / 3)
    farthest = np.linalg.norm(points[-1])
    for clip, score in enumerate(emd_space_time(attribution, truth, known)):
        distance = wasserstein_distance_nd(
            points, points, attribution[clip].ravel(), truth[clip].ravel()
        )
        assert score == pytest.approx(1 - distance / farthest, abs=1e-6)


def test_in_time_it_is_scipys_distance_in_one_dimension():
    rng = np.random.default_rng(2)
    importance, truth = rng.random((6, 8)), rng.random((6, 8)) * (rng.random((6, 8)) < 0.5)
    truth[:, 3] = 1
    steps = np.arange(8)
    known = np.ones(truth.shape, np.bool_)
    for clip, score in enumerate(emd_time(importance, truth, known)):
        distance = wasserstein_distance(steps, steps, importance[clip], truth[clip])
        assert score == pytest.approx(1 - distance / 7, abs=1e-9)


def test_the_truth_scores_1_and_the_far_corner_0():
    truth = np.zeros((1, *GRID))
    truth[0, 0, 0, 0] = 1
    known = np.ones((1, GRID[0]), np.bool_)
    far = np.zeros_like(truth)
    far[0, -1, -1, -1] = 1
    far_in_frame = np.zeros_like(truth)
    far_in_frame[0, 0, -1, -1] = 1
    for metric, farthest in ((emd_space, far_in_frame), (emd_space_time, far)):
        np.testing.assert_allclose(metric(truth, truth, known), 1, atol=1e-12)
        np.testing.assert_allclose(metric(farthest, truth, known), 0, atol=1e-12)
    profiles = truth.sum(axis=(2, 3)), far.sum(axis=(2, 3))
    np.testing.assert_allclose(emd_time(profiles[0], profiles[0], known), 1)
    np.testing.assert_allclose(emd_time(profiles[1], profiles[0], known), 0)


def test_a_nearer_miss_scores_higher_which_the_order_of_patches_can_not_tell():
    truth = np.zeros((2, 1, 1, 9))
    truth[:, 0, 0, 0] = 1
    miss = np.zeros_like(truth)
    miss[0, 0, 0, 1], miss[1, 0, 0, 7] = 1, 1
    near, far = emd_space(miss, truth, np.ones((2, 1), np.bool_))
    assert near == pytest.approx(7 / 8)
    assert far == pytest.approx(1 / 8)


def test_degenerate_input_has_an_answer():
    attribution, truth, known = drawn(3)
    zeros, uniform = np.zeros_like(truth), np.ones_like(truth)
    for metric in (emd_space, emd_space_time):
        assert np.isnan(metric(attribution, zeros, known)).all()
        assert np.isnan(metric(attribution, truth, ~known)).all()
        np.testing.assert_allclose(metric(zeros, truth, known), metric(uniform, truth, known))
        one_patch = np.ones((2, 1, 1, 1))
        np.testing.assert_allclose(metric(one_patch, one_patch, np.ones((2, 1), np.bool_)), 1)
    one_step = np.ones((2, 1))
    np.testing.assert_allclose(emd_time(one_step, one_step, np.ones((2, 1), np.bool_)), 1)
    assert np.isnan(emd_time(one_step, 0 * one_step, np.ones((2, 1), np.bool_))).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_map_that_is_not_finite_has_no_distance(bad):
    attribution, truth, known = drawn(5)
    known[:], truth[:] = True, 1
    expected = emd_space(attribution, truth, known)
    attribution[0, 0, 0, 0] = bad
    found = emd_space(attribution, truth, known)
    assert np.isnan(found[0])
    np.testing.assert_array_equal(found[1:], expected[1:])
    assert np.isnan(emd_space_time(attribution, truth, known)[0])
    profiles = attribution.sum(axis=(2, 3)), truth.sum(axis=(2, 3))
    assert np.isnan(emd_time(*profiles, known)).tolist() == [True] + [False] * (len(truth) - 1)


def test_steps_whose_truth_is_not_known_are_left_out():
    attribution, truth, known = drawn(4)
    known[:, 1:] = False
    with_unknown = emd_space(attribution, truth, known)
    np.testing.assert_allclose(
        with_unknown, emd_space(attribution[:, :1], truth[:, :1], known[:, :1])
    )
    truth[:, 0, 0, 0] = 1
    profile = attribution.sum(axis=(2, 3)), truth.sum(axis=(2, 3))
    np.testing.assert_allclose(emd_time(*profile, known), 1)


@pytest.mark.parametrize("metric", [emd_space, emd_space_time])
def test_a_negative_mass_and_other_shapes_are_refused(metric):
    attribution, truth, known = drawn(5)
    with pytest.raises(ValueError, match="negative"):
        metric(attribution - 1, truth, known)
    with pytest.raises(ValueError, match="expected two of one shape"):
        metric(attribution[:, :, :-1], truth, known)
