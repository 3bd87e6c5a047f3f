"""Untrained models of three families: one grid, the same weights from the same seed."""

import pytest
import torch

from pipeline.models.registry import FAMILIES
from pipeline.synthetic.small_models import IMAGE_SIZE, SIDE, sinusoids, small_model

NAMES = ("a", "b", "c")
FAMILY = ["timesformer", "vivit", "videomae"]


@pytest.mark.parametrize("architecture", FAMILY)
def test_a_model_prefers_no_class_and_follows_its_seed(architecture):
    model = small_model(architecture, 8, 3, NAMES).eval()
    pixels = torch.rand(2, 8, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not model(pixels).logits.any()
    assert model.config.id2label == dict(enumerate(NAMES))
    same, other = small_model(architecture, 8, 3, NAMES), small_model(architecture, 8, 4, NAMES)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(same.state_dict()[name], value, rtol=0, atol=0)
    assert any(
        not torch.equal(value, other.state_dict()[name])
        for name, value in model.state_dict().items()
    )


@pytest.mark.parametrize("architecture", FAMILY)
def test_number_of_layers_and_grid_are_those_that_were_asked_for(architecture):
    config = small_model(architecture, 8, 0, NAMES, n_layers=2).config
    assert config.num_hidden_layers == 2
    assert config.image_size // SIDE == 12
    assert config.model_type in FAMILIES


def test_positions_are_told_apart():
    embedded = sinusoids(64, 32)
    distances = torch.cdist(embedded, embedded) + 10 * torch.eye(64)
    assert distances.min() > 0.5
    assert embedded.abs().max() <= 1
