"""Parts replaced by fills: NumPy and scipy say what must come of it; nothing is asked twice."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.evaluation.perturbation import (
    BLUR_SHARE,
    FILLS,
    UNITS,
    Probe,
    descending,
    fill_frames,
    first_parts,
    probability_of,
    replace_patches,
    unit_scores,
)
from pipeline.models.geometry import Geometry
from tests.evaluation.models import Linear

GRID = Geometry(n_times=2, height=3, width=4, patch_size=8, frames_per_time=2)


def pixels(n_clips=2, seed=0, grid=GRID):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_clips, grid.n_frames, 3, *grid.input_size, generator=generator)


def test_the_median_and_the_mean_are_numpys():
    clips = pixels()
    median = np.median(clips.numpy(), axis=1, keepdims=True)
    np.testing.assert_allclose(
        fill_frames(clips, "median"), np.broadcast_to(median, clips.shape), atol=1e-6
    )
    mean = clips.numpy().mean(axis=(1, 3, 4), keepdims=True)
    np.testing.assert_allclose(
        fill_frames(clips, "mean"), np.broadcast_to(mean, clips.shape), atol=1e-6
    )
    odd = clips[:, :3]
    np.testing.assert_allclose(
        fill_frames(odd, "median")[:, 0], np.median(odd.numpy(), axis=1), atol=1e-6
    )


class InLittleMemory(Linear):
    """A linear model that has room for a few clips at a time."""

    def __init__(self, room):
        super().__init__(GRID, 3)
        self.room, self.tried = room, []

    def predict(self, pixel_values):
        self.tried.append(len(pixel_values))
        if len(pixel_values) > self.room:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return super().predict(pixel_values)


def test_versions_that_do_not_fit_are_asked_about_by_fewer():
    rng = np.random.default_rng(0)
    removed = rng.random((9, 2, 2, 12)) < 0.5
    model, ample = InLittleMemory(3), Linear(GRID, 3)
    probe = Probe(model, pixels(), batch_size=16)
    expected = Probe(ample, pixels(), batch_size=16).logits(removed, "mean")
    np.testing.assert_allclose(probe.logits(removed, "mean"), expected, atol=1e-5)
    assert model.tried[:5] == [16, 8, 4, 2, 2]
    assert max(model.tried[5:]) == probe.batch_size == 2
    assert probe.n_forward == model.n_seen == 18
    # What doesn't fit alone is told by the error itself, and so are other errors.
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        Probe(InLittleMemory(0), pixels()).logits(removed, "mean")
    with pytest.raises(RuntimeError, match="must match"):
        Probe(ample, pixels()[..., :-1]).logits(removed, "mean")


def test_the_blur_is_scipys_gaussian():
    clips = pixels(1)
    sigma = BLUR_SHARE * 24
    expected = ndimage.gaussian_filter(
        clips.numpy(), sigma, mode="mirror", axes=(-2, -1), radius=round(3 * sigma)
    )
    np.testing.assert_allclose(fill_frames(clips, "blur"), expected, atol=1e-5)


def test_a_small_frame_and_a_still_clip_are_filled():
    small = torch.rand(1, 2, 3, 2, 3)
    for fill in FILLS:
        assert torch.isfinite(fill_frames(small, fill)).all()
    still = pixels()[:, :1].expand(-1, 4, -1, -1, -1)
    torch.testing.assert_close(fill_frames(still, "median"), still)
    constant = torch.full((1, 2, 3, 24, 32), 0.7)
    for fill in FILLS:
        torch.testing.assert_close(fill_frames(constant, fill), constant)
    with pytest.raises(ValueError, match="'black' is not one of blur, median, mean"):
        fill_frames(small, "black")


def test_patches_are_replaced_in_all_frames_of_their_time_and_nowhere_else():
    clips, filled = pixels(1), torch.full((1, 4, 3, 24, 32), 99.0)
    patches = torch.zeros(1, 2, 12, dtype=torch.bool)
    patches[0, 1, 4 * 2 + 3] = True
    replaced = replace_patches(clips, filled, patches, GRID)
    expected = clips.clone()
    expected[0, 2:4, :, 16:24, 24:32] = 99.0
    torch.testing.assert_close(replaced, expected)


def test_units_are_sums_and_the_first_parts_are_the_highest():
    attribution = np.random.default_rng(0).random((2, 2, 12))
    np.testing.assert_allclose(unit_scores(attribution, "frames"), attribution.sum(axis=2))
    np.testing.assert_allclose(unit_scores(attribution, "tubes"), attribution.sum(axis=1))
    for unit in UNITS:
        scores = unit_scores(attribution, unit)
        order = descending(scores, np.random.default_rng(1))
        np.testing.assert_array_equal(order, np.argsort(-scores, axis=1))
        selections = first_parts(order, [0, 1, scores.shape[1]], unit, GRID)
        assert selections.shape == (3, 2, 2, 12)
        assert not selections[0].any()
        assert selections[2].all()
        size = 24 // scores.shape[1]
        assert (selections[1].sum(axis=(1, 2)) == size).all()
        highest = attribution[selections[1]].reshape(2, -1).sum(axis=1)
        np.testing.assert_allclose(highest, scores.max(axis=1))
    with pytest.raises(ValueError, match="'voxels' is not one of patches, frames, tubes"):
        unit_scores(attribution, "voxels")


def test_equal_parts_come_in_random_order():
    constant = np.ones((1, 200))
    orders = [descending(constant, np.random.default_rng(seed))[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).any()
    assert abs(np.corrcoef(orders[0], np.arange(200))[0, 1]) < 0.3
    assert sorted(orders[0]) == list(range(200))


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_version_is_asked_once_and_answered_right(batch_size):
    model, clips = Linear(GRID, 3), pixels(2)
    probe = Probe(model, clips, batch_size=batch_size)
    removed = np.random.default_rng(2).random((5, 2, 2, 12)) < 0.5
    removed[3] = removed[1]
    removed[4] = False
    for fill in FILLS:
        filled = fill_frames(clips, fill)
        expected = [
            model.predict(replace_patches(clips, filled, torch.from_numpy(version), GRID))
            for version in removed
        ]
        # Logits are near 200: batches of other sizes differ in float32's last bits.
        np.testing.assert_allclose(
            probe.logits(removed, fill), torch.stack(expected), rtol=1e-5, atol=1e-4
        )
    # Three fills of three versions of two clips, and the clips as they are.
    assert probe.n_forward == 3 * 3 * 2 + 2
    seen = model.n_seen
    probe.logits(removed[::-1], "blur")
    np.testing.assert_allclose(probe.clean_logits(), model.predict(clips), rtol=1e-5, atol=1e-4)
    assert model.n_seen == seen + 2
    with pytest.raises(ValueError, match=r"expected \(versions, \*\(2, 2, 12\)\)"):
        probe.logits(removed[:, :1], "blur")


def test_probabilities_are_the_softmax_even_of_large_logits():
    logits = np.array([[[1.0, 2.0], [1e4, 0.0]]])
    np.testing.assert_allclose(
        probability_of(logits, np.array([1, 0])), [[1 / (1 + np.exp(-1)), 1.0]]
    )
