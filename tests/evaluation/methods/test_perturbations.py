"""Methods by perturbation on a linear model, where every block's contribution is known."""

import numpy as np
import pytest
import torch

from pipeline.evaluation.methods.perturbations import (
    kernel_shap,
    lime,
    occlusion,
    rise,
    supervoxels,
)
from pipeline.evaluation.perturbation import fill_frames
from pipeline.evaluation.sanity import pearson
from pipeline.models.geometry import Geometry
from tests.evaluation.models import Linear

pytestmark = pytest.mark.usefixtures("one_thread")
GRID = Geometry(n_times=2, height=3, width=4, patch_size=4, frames_per_time=2)


def linear():
    clips = torch.randn(2, 4, 3, 12, 16, generator=torch.Generator().manual_seed(1))
    model, target = Linear(GRID, 3), torch.tensor([2, 0])
    expected = model.contributions(clips - fill_frames(clips, "mean"), target)
    return model, clips, target, expected


def test_occlusion_is_the_fall_when_a_patch_is_replaced():
    model, clips, target, expected = linear()
    value = occlusion(model, clips, target, fill="mean", window=1)
    np.testing.assert_allclose(value, expected, atol=1e-4)
    # With larger windows, the mean over those that a patch is in of their sums.
    wide = occlusion(model, clips, target, fill="mean", window=2).reshape(2, 2, 3, 4)
    parts = expected.reshape(2, 2, 3, 4)
    corner = parts[:, :, :2, :2].sum(axis=(2, 3))
    np.testing.assert_allclose(wide[:, :, 0, 0], corner, atol=1e-4)
    windows = [parts[:, :, top : top + 2, :2].sum(axis=(2, 3)) for top in (0, 1)]
    np.testing.assert_allclose(wide[:, :, 1, 0], np.mean(windows, axis=0), atol=1e-4)


def test_supervoxels_are_blocks_in_space_and_time():
    blocks = supervoxels(Linear(Geometry(3, 3, 4, 4), 2), (2, 2, 2))
    assert blocks.shape == (3, 3, 4)
    assert sorted(set(blocks.flatten().tolist())) == list(range(2 * 2 * 2))
    assert len({int(blocks[t, y, x]) for t in (0, 1) for y in (0, 1) for x in (0, 1)}) == 1
    assert blocks[2, 0, 0] == 4
    assert blocks[0, 2, 3] == 3


def test_kernel_shap_finds_each_blocks_contribution_and_lime_their_order():
    model, clips, target, expected = linear()
    blocks = supervoxels(model, (1, 2, 2)).flatten(1).numpy()
    of_blocks = np.zeros_like(expected)
    for block in np.unique(blocks):
        inside = blocks == block
        of_blocks[:, inside] = expected[:, inside].mean(axis=1, keepdims=True)
    options = {"fill": "mean", "n_samples": 400, "block": (1, 2, 2)}
    shap = kernel_shap(model, clips, target, **options)
    np.testing.assert_allclose(shap, of_blocks, atol=1e-3)
    assert (pearson(lime(model, clips, target, **options).numpy(), of_blocks) > 0.9).all()
    again = kernel_shap(model, clips, target, **options)
    assert torch.equal(shap, again)


def test_kernel_shap_of_a_single_block_is_the_whole_fall():
    model = Linear(Geometry(n_times=1, height=2, width=2, patch_size=4), 3)
    clips = torch.randn(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    target = torch.tensor([0, 2])
    filled = fill_frames(clips, "blur")
    fall = (model.predict(clips) - model.predict(filled)).gather(1, target[:, None])[:, 0]
    shap = kernel_shap(model, clips, target)
    torch.testing.assert_close(shap, (fall / 4)[:, None, None].expand(2, 1, 4))


def test_rise_leans_to_what_contributes():
    model, clips, target, expected = linear()
    value = rise(model, clips, target, fill="mean", n_masks=400, cells=(2, 3, 4))
    assert value.shape == (2, 2, 12)
    assert ((value >= 0) & (value <= 1)).all()
    assert (pearson(value.numpy(), expected) > 0.3).all()
    assert torch.equal(value, rise(model, clips, target, fill="mean", n_masks=400, cells=(2, 3, 4)))
