"""The grid on which a model attends: its sizes, and tokens on it in their order."""

import pytest
import torch

from pipeline.errors import ModelError
from pipeline.models.geometry import Geometry, tubelet_geometry


def test_sizes_of_a_published_model():
    """VideoMAE-B: 16 frames of 224x224 in tubelets of 2x16x16, 1568 tokens."""
    grid = tubelet_geometry(16, 224, (2, 16, 16))
    assert grid == Geometry(n_times=8, height=14, width=14, patch_size=16, frames_per_time=2)
    assert grid.n_times * grid.height * grid.width == 1568
    assert grid.n_frames == 16
    assert grid.input_size == (224, 224)
    assert grid.clip_bytes == 16 * 224 * 224 * 3


def test_a_frame_that_is_no_square():
    grid = tubelet_geometry(8, (96, 160), [1, 8, 8])
    assert (grid.height, grid.width) == (12, 20)
    assert grid.input_size == (96, 160)


@pytest.mark.parametrize(
    ("size", "tubelet"), [(224, (2, 16, 14)), (225, (2, 16, 16)), ((224, 230), (2, 16, 16))]
)
def test_tubelets_that_do_not_fill_the_frame_are_refused(size, tubelet):
    with pytest.raises(ModelError, match="expected squares that fill the frame"):
        tubelet_geometry(16, size, tubelet)


def test_tokens_are_unfolded_frame_after_frame():
    grid = Geometry(n_times=2, height=3, width=4, patch_size=16)
    shares = torch.arange(5 * 24).reshape(5, 24)
    unfolded = grid.unfolded(shares)
    assert unfolded.shape == (5, 2, 12)
    # Token 17 is in the second frame, its second row, second column.
    assert unfolded[0].reshape(2, 3, 4)[1, 1, 1] == 17
