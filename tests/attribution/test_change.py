"""Change: each token's distance from that of the clip's median frame, against plain embeddings."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.attribution.change import change, median_frame, token_change

CLIPS = torch.randn(2, 4, 3, 8, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n_frames", [1, 3, 4])
def test_the_median_is_numpys(n_frames):
    expected = np.median(CLIPS[:, :n_frames].numpy(), axis=1, keepdims=True)
    np.testing.assert_allclose(median_frame(CLIPS[:, :n_frames]).numpy(), expected, atol=1e-6)


def embedded(projection, clips):
    """Tokens of clips as a model makes them: (clips, width, T, P)."""
    if isinstance(projection, nn.Conv3d):
        return projection(clips.transpose(1, 2)).flatten(3)
    of_frames = projection(clips.flatten(0, 1))
    return (
        of_frames.reshape(len(clips), clips.shape[1], *of_frames.shape[1:])
        .transpose(1, 2)
        .flatten(3)
    )


@pytest.mark.parametrize(
    ("projection", "n_times"),
    [(nn.Conv2d(3, 5, 4, 4), 4), (nn.Conv3d(3, 5, (2, 4, 4), (2, 4, 4)), 2)],
)
def test_it_is_the_difference_of_two_embeddings(projection, n_times):
    still = median_frame(CLIPS).expand_as(CLIPS)
    with torch.no_grad():
        expected = embedded(projection, CLIPS) - embedded(projection, still)
        got = token_change(CLIPS, projection)
        assert got.shape == (2, 5, n_times, 6)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(change(CLIPS, projection), expected.norm(dim=1))


def test_a_still_clip_does_not_change_and_half_precision_is_not_used():
    still = CLIPS[:, :1].expand(-1, 4, -1, -1, -1)
    projection = nn.Conv2d(3, 5, 4, 4).to(torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert change(still, projection).abs().max() == 0
        assert change(CLIPS, projection).dtype == torch.float32
