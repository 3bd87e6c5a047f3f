"""The model set by hand: its logits are the contributions, token by token."""

import numpy as np
import pytest
import torch

from pipeline.evaluation.perturbation import replace_patches
from pipeline.models.timesformer import Timesformer
from pipeline.synthetic.hand_set_model import (
    FRAME_OF_CLASS,
    N_TIMES,
    SIDE,
    contributions,
    hand_set_clips,
    hand_set_model,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def known():
    clips = hand_set_clips(12, seed=3)
    return Timesformer(hand_set_model()), clips, contributions(clips.pixel_values)


def test_logits_are_the_sum_of_contributions_and_labels_are_right(known):
    model, clips, true = known
    with torch.no_grad():
        logits = model.predict(clips.pixel_values).numpy()
    np.testing.assert_allclose(logits, true.sum(axis=(2, 3)), atol=1e-4)
    np.testing.assert_array_equal(logits.argmax(axis=1), clips.labels)
    rows = np.arange(12)
    assert (logits[rows, clips.runners_up] > 1).all()
    assert set(clips.labels.tolist()) == {0, 1, 2}


def test_a_token_taken_out_takes_its_contribution_and_nothing_else(known):
    model, clips, true = known
    pixels, black = clips.pixel_values[:1], torch.zeros_like(clips.pixel_values[:1])
    with torch.no_grad():
        before = model.predict(pixels)[0].numpy()
        for time in range(N_TIMES):
            for patch in range(SIDE**2):
                removed = torch.zeros(1, N_TIMES, SIDE**2, dtype=torch.bool)
                removed[0, time, patch] = True
                after = model.predict(replace_patches(pixels, black, removed, model.grid))[0]
                fall = before - after.numpy()
                np.testing.assert_allclose(fall, true[0, :, time, patch], atol=1e-4)


def test_colour_elsewhere_counts_for_nothing(known):
    _, clips, true = known
    pixels = clips.pixel_values.numpy()
    for index, frame in enumerate(FRAME_OF_CLASS):
        others = [t for t in range(N_TIMES) if t != frame]
        assert not true[:, index, others].any()
        # So that "where the colour is" is no answer.
        assert (pixels[:, others, index].sum(axis=(1, 2, 3)) > 0).mean() > 0.5


def test_of_noise_logits_are_the_contributions_too(known):
    model, _, _ = known
    noise = torch.rand(4, N_TIMES, 3, 48, 48, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        logits = model.predict(noise).numpy()
    np.testing.assert_allclose(logits, contributions(noise).sum(axis=(2, 3)), rtol=1e-4, atol=1e-3)


def test_the_same_seed_gives_the_same_clips():
    one, again, other = (hand_set_clips(3, seed) for seed in (0, 0, 1))
    torch.testing.assert_close(one.pixel_values, again.pixel_values)
    assert not torch.equal(one.pixel_values, other.pixel_values)
