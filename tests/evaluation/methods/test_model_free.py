"""Maps that don't ask the model, by hand."""

import numpy as np
import torch

from pipeline.attribution.baselines import center_gaussian
from pipeline.evaluation.methods.model_free import (
    center_map,
    frame_difference,
    median_difference,
    per_patch,
    random_map,
    uniform_map,
)
from pipeline.models.geometry import Geometry
from tests.evaluation.models import Linear

MODEL = Linear(Geometry(n_times=2, height=2, width=3, patch_size=4, frames_per_time=2), 2)
TARGET = torch.zeros(2, dtype=torch.long)


def clips():
    return torch.rand(2, 4, 3, 8, 12, generator=torch.Generator().manual_seed(0))


def test_patches_are_means_over_their_pixels_and_frames():
    pixels = torch.rand(2, 4, 8, 12)
    values = per_patch(MODEL, pixels)
    for time in range(2):
        for row in range(2):
            for column in range(3):
                block = pixels[:, 2 * time : 2 * time + 2, 4 * row : 4 * row + 4]
                expected = block[..., 4 * column : 4 * column + 4].mean(dim=(1, 2, 3))
                torch.testing.assert_close(values[:, time, 3 * row + column], expected)


def test_what_changes_is_found_on_both_sides_of_the_change():
    still = torch.zeros(1, 4, 3, 8, 12)
    assert not frame_difference(MODEL, still, TARGET).any()
    assert not median_difference(MODEL, still, TARGET).any()
    still[0, 3, :, 4:, :4] = 1
    difference = frame_difference(MODEL, still, TARGET)
    # The step from frame 2 to 3 counts for both, of which frame 2 has another neighbour.
    np.testing.assert_allclose(difference[0, 1], [0, 0, 0, (0.5 + 1) / 2 * 3, 0, 0])
    assert not difference[0, 0].any()
    median = median_difference(MODEL, still, TARGET)
    np.testing.assert_allclose(median[0, 1], [0, 0, 0, 3 / 2, 0, 0])
    one = Linear(Geometry(n_times=1, height=2, width=3, patch_size=4), 2)
    assert not frame_difference(one, still[:, :1], TARGET).any()


def test_constants_are_those_of_the_baselines_and_noise_is_repeated():
    centre = center_map(MODEL, clips(), TARGET)
    np.testing.assert_allclose(centre[1], center_gaussian(2, 2, 3).reshape(2, 6), rtol=1e-6)
    assert (uniform_map(MODEL, clips(), TARGET) == 1).all()
    noise = random_map(MODEL, clips(), TARGET)
    assert torch.equal(noise, random_map(MODEL, clips(), TARGET))
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, random_map(MODEL, clips(), TARGET, seed=1))
