"""Shapley values of time steps: permutations by hand, Captum, known games, and scipy's ranks."""

from itertools import permutations

import numpy as np
import pytest
import torch
from captum.attr import ShapleyValues
from scipy.stats import spearmanr

from pipeline.evaluation.perturbation import Probe, fill_frames
from pipeline.evaluation.shapley import (
    all_coalitions,
    exact_shapley,
    frame_shapley,
    log_odds,
    rank_agreement,
    repeatability,
    sampled_shapley,
    shifted,
)
from pipeline.models.geometry import Geometry
from tests.evaluation.models import Linear, hand_set, random_timesformer

pytestmark = pytest.mark.usefixtures("one_thread")


def test_exact_values_are_the_mean_over_all_orders():
    values = np.random.default_rng(0).normal(size=(16, 3))
    index = {tuple(row): values[k] for k, row in enumerate(all_coalitions(4).tolist())}
    expected = np.zeros((3, 4))
    for order in permutations(range(4)):
        present = [False] * 4
        for step in order:
            before = index[tuple(present)]
            present[step] = True
            expected[:, step] += (index[tuple(present)] - before) / 24
    np.testing.assert_allclose(exact_shapley(values), expected, atol=1e-12)


def test_values_of_a_real_model_are_captums():
    model = random_timesformer()
    clips = torch.randn(2, 4, 3, 24, 24, generator=torch.Generator().manual_seed(3))
    target = np.array([1, 4])
    ours = frame_shapley(Probe(model, clips), target, fill="median")

    def odds(pixel_values, classes):
        logits = model.predict(pixel_values).double()
        return torch.from_numpy(log_odds(logits.detach().numpy(), classes.numpy()))

    with torch.no_grad():
        theirs = ShapleyValues(odds).attribute(
            clips,
            baselines=fill_frames(clips, "median"),
            feature_mask=torch.arange(4).reshape(1, 4, 1, 1, 1),
            additional_forward_args=(torch.from_numpy(target),),
        )
    np.testing.assert_allclose(ours, theirs[:, :, 0, 0, 0].numpy(), atol=1e-5)


def test_they_sum_to_the_whole_effect_and_a_sample_does_too():
    model = random_timesformer()
    clips = torch.randn(3, 4, 3, 24, 24, generator=torch.Generator().manual_seed(4))
    target = np.array([0, 1, 2])
    probe = Probe(model, clips)
    values = frame_shapley(probe, target, fill="mean")
    with torch.no_grad():
        filled = model.predict(fill_frames(clips, "mean")).double().numpy()
    effect = log_odds(probe.clean_logits(), target) - log_odds(filled, target)
    np.testing.assert_allclose(values.sum(axis=1), effect, atol=1e-5)


def test_a_sample_of_a_known_game_is_near_and_sums_exactly():
    rng = np.random.default_rng(5)
    worth, pair = rng.normal(size=(4, 10)), rng.normal(size=(4, 10, 10))

    def value(coalitions):
        present = coalitions.astype(float)
        return present @ worth.T + np.einsum("ct,ntu,cu->cn", present, pair, present)

    # Of a game of pairs, half of each belongs to both.
    diagonal = np.einsum("ntt->nt", pair)
    expected = worth + (pair.sum(axis=1) + pair.sum(axis=2)) / 2
    assert diagonal.shape == expected.shape
    sampled = sampled_shapley(value, 10, np.random.default_rng(6), 200)
    np.testing.assert_allclose(sampled.sum(axis=1), value(np.ones((1, 10), bool))[0], atol=1e-9)
    # An order and its reverse together are exact for pairs.
    np.testing.assert_allclose(sampled, expected, atol=1e-9)
    one = sampled_shapley(value, 10, np.random.default_rng(7), 1)
    np.testing.assert_allclose(one, expected, atol=1e-9)


def test_beyond_eight_steps_a_sample_is_asked_and_the_seed_repeats_it():
    grid = Geometry(n_times=10, height=1, width=1, patch_size=2)
    model = Linear(grid, 1)
    clips = torch.randn(2, 10, 3, 2, 2)
    target = np.zeros(2, int)
    values = frame_shapley(Probe(model, clips), target, fill="mean", n_permutations=5)
    again = frame_shapley(Probe(model, clips), target, fill="mean", n_permutations=5)
    np.testing.assert_array_equal(values, again)
    # The logit is linear in frames: each adds what it adds.
    moved = model.contributions(clips - fill_frames(clips, "mean"), target)[:, :, 0]
    np.testing.assert_allclose(values, moved, atol=1e-5)


def test_only_the_frame_that_counts_has_a_value_in_the_model_set_by_hand():
    model, clips, true = hand_set(6)
    values = frame_shapley(Probe(model, clips.pixel_values, batch_size=64), clips.labels)
    assert (values.argmax(axis=1) == true.sum(axis=2).argmax(axis=1)).all()


def test_log_odds_are_those_of_the_softmax():
    logits = np.random.default_rng(8).normal(size=(3, 4, 5)) * 3
    target = np.array([0, 4, 2, 2])
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    p = p[:, np.arange(4), target]
    np.testing.assert_allclose(log_odds(logits, target), np.log(p / (1 - p)), atol=1e-9)
    assert np.isfinite(log_odds(logits * 1e3, target)).all()


def test_agreement_is_scipys_with_an_answer_for_constants():
    rng = np.random.default_rng(9)
    one, other = rng.integers(0, 4, (6, 8)).astype(float), rng.random((6, 8))
    for clip, value in enumerate(rank_agreement(one, other)):
        assert value == pytest.approx(spearmanr(one[clip], other[clip]).statistic, abs=1e-12)
    np.testing.assert_array_equal(rank_agreement(np.ones((2, 5)), other[:2, :5]), 0)
    np.testing.assert_array_equal(rank_agreement(np.ones((2, 1)), np.zeros((2, 1))), 1)
    with pytest.raises(ValueError, match="not the same"):
        rank_agreement(one, other[:, :7])


def test_the_reference_is_repeated_on_the_clip_that_was_moved():
    model, clips, _ = hand_set(4)
    moved = shifted(clips.pixel_values)
    torch.testing.assert_close(moved[..., 2:, 2:], clips.pixel_values[..., :-2, :-2])
    values = frame_shapley(Probe(model, clips.pixel_values), clips.labels)
    again = repeatability(model, clips.pixel_values, clips.labels, values, batch_size=64)
    assert again.shape == (4,)
    assert (again > 0.3).all()
    still = repeatability(model, clips.pixel_values * 0, clips.labels, values * 0)
    np.testing.assert_array_equal(still, 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n_steps", [1, 5])
def test_a_profile_with_nan_agrees_with_nothing(n_steps):
    rng = np.random.default_rng(20261130)
    one, other = rng.random((3, n_steps)), rng.random((3, n_steps))
    bad = other.copy()
    bad[1, 0] = np.nan
    for agreement in (rank_agreement(one, bad), rank_agreement(bad, one)):
        assert np.isnan(agreement).tolist() == [False, True, False]
        np.testing.assert_array_equal(agreement[[0, 2]], rank_agreement(one, other)[[0, 2]])
