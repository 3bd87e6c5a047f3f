"""Gradients on models whose contributions are known, and completeness on one of random weights."""

import numpy as np
import pytest
import torch

from pipeline.evaluation.methods.gradients import (
    input_x_gradient,
    integrated_gradients,
    smooth_grad,
)
from pipeline.evaluation.perturbation import FILLS, fill_frames
from pipeline.models.geometry import Geometry
from tests.evaluation.models import Linear, hand_set, random_timesformer

pytestmark = pytest.mark.usefixtures("one_thread")
GRID = Geometry(n_times=2, height=2, width=3, patch_size=4, frames_per_time=2)


def linear():
    clips = torch.randn(2, 4, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    return Linear(GRID, 3), clips, torch.tensor([2, 0])


def test_of_a_linear_model_they_are_what_each_patch_adds():
    model, clips, target = linear()
    expected = model.contributions(clips, target)
    np.testing.assert_allclose(input_x_gradient(model, clips, target), expected, atol=1e-5)
    for fill in FILLS:
        of_change = model.contributions(clips - fill_frames(clips, fill), target)
        value = integrated_gradients(model, clips, target, fill=fill, n_steps=4)
        np.testing.assert_allclose(value, of_change, atol=1e-4)
    smooth = smooth_grad(model, clips, target, n_noise=200, noise_level=0.02)
    np.testing.assert_allclose(smooth, expected, atol=0.05)
    assert torch.equal(smooth_grad(model, clips, target), smooth_grad(model, clips, target))


def test_of_the_model_set_by_hand_they_are_the_true_contributions():
    model, clips, true = hand_set(3)
    target = torch.from_numpy(clips.labels)
    value = input_x_gradient(model, clips.pixel_values, target)
    np.testing.assert_allclose(value, true, atol=1e-3)


def test_integrated_gradients_sum_to_the_change_of_the_logit():
    model = random_timesformer()
    clips = torch.randn(2, 4, 3, 24, 24, generator=torch.Generator().manual_seed(2))
    target = torch.tensor([4, 1])
    value = integrated_gradients(model, clips, target, fill="blur", n_steps=256)
    with torch.no_grad():
        logits = model.predict(clips) - model.predict(fill_frames(clips, "blur"))
    expected = logits.gather(1, target[:, None])[:, 0]
    np.testing.assert_allclose(value.sum(dim=(1, 2)), expected, atol=0.02)
