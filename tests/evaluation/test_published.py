"""The paper's metrics and the code's: by hand, and why they don't stand for quality."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from pipeline.evaluation.faithfulness import gap
from pipeline.evaluation.perturbation import Probe, probability_of
from pipeline.evaluation.published import (
    SHARES,
    faithfulness,
    legacy_faithfulness,
    legacy_masked,
    legacy_monotonicity,
    monotonicity,
    tau,
)
from tests.evaluation.models import hand_set

pytestmark = pytest.mark.usefixtures("one_thread")


def rng():
    return np.random.default_rng(0)


def test_half_of_the_patches_are_removed_and_the_change_counts():
    model, clips, true = hand_set(4)
    probe = Probe(model, clips.pixel_values, batch_size=64)
    value = faithfulness(probe, true, clips.labels, fill="mean", generator=rng())
    order = np.lexsort((rng().random((4, 216)), -true.reshape(4, -1)), axis=-1)
    removed = np.zeros((4, 216), bool)
    np.put_along_axis(removed, order[:, :108], True, axis=1)
    after = probability_of(probe.logits(removed.reshape(1, 4, 6, 36), "mean"), clips.labels)[0]
    before = probability_of(probe.clean_logits(), clips.labels)
    np.testing.assert_allclose(value, np.abs(before - after))


def test_monotonicity_is_scipys_tau_and_0_without_a_change():
    changes = np.random.default_rng(1).random((9, 3)).round(1)
    changes[:, 2] = 0.4
    expected = [kendalltau(SHARES, column).statistic for column in changes.T[:2]]
    np.testing.assert_allclose(tau(SHARES, changes), [*expected, 0])


def test_random_order_is_the_most_monotonic_so_that_tau_is_no_quality():
    model, clips, true = hand_set(16)
    probe = Probe(model, clips.pixel_values, batch_size=64)
    random = np.random.default_rng(2).random(true.shape)
    of = {"fill": "mean", "generator": rng()}
    taus = [monotonicity(probe, each, clips.labels, **of).mean() for each in (true, random)]
    gaps = [gap(probe, each, clips.labels, unit="patches", **of).mean() for each in (true, random)]
    assert taus[1] > taus[0]
    assert gaps[0] > gaps[1] + 0.3


def test_the_codes_form_clears_the_first_bytes_whatever_the_patches():
    frames = np.full((2, 8, 8, 3), 200, np.uint8)
    attention = np.arange(12.0).reshape(3, 4)
    masked = legacy_masked(frames, attention)
    flat = masked.ravel()
    assert (flat[6:12] == 0).all()
    assert (np.delete(flat, np.arange(6, 12)) == 200).all()
    assert (frames == 200).all()
    # What was normalised is masked by what black was normalised to.
    of_floats = legacy_masked(frames / 100, attention, black=(-1.0, -2.0, -3.0)).ravel()
    np.testing.assert_allclose(of_floats[5:12], [2, -1, -2, -3, -1, -2, -3])
    # A tenth of few patches is none of them.
    assert (legacy_masked(frames, np.arange(9.0), 0.1) == frames).all()
    with pytest.raises(ValueError, match="attention has 400 values and the clip 384 bytes"):
        legacy_masked(frames, np.zeros(400))


def test_the_codes_figures_are_means_over_all_logits():
    logits, masked = np.array([[1.0, 2.0, 6.0]]), np.array([[1.0, -1.0, 0.0]])
    np.testing.assert_allclose(legacy_faithfulness(logits, masked), 1 - 9 / 3)
    steps = np.stack([logits - k for k in (1, 2, 3, 4, 5, 6, 7, 9, 8)])
    expected = kendalltau(np.arange(9), [1, 2, 3, 4, 5, 6, 7, 9, 8]).statistic
    np.testing.assert_allclose(legacy_monotonicity(logits, steps), expected)


def test_tau_of_nan_is_not_that_of_a_constant():
    changes = np.tile(np.linspace(0.1, 0.9, 9)[:, None], (1, 3))
    changes[:, 1] = 0.4
    changes[4, 2] = np.nan
    values = tau(SHARES, changes)
    assert values[:2].tolist() == [1.0, 0.0]
    assert np.isnan(values[2])
