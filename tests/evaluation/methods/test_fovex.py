"""FovEx: a pass for each step, and a map that is where the prediction needs sharpness."""

import pytest
import torch

from pipeline.evaluation.methods import fovex
from pipeline.models.geometry import Geometry
from tests.evaluation.models import hand_set

pytestmark = pytest.mark.usefixtures("one_thread")


def test_fovex_takes_a_pass_for_each_step_and_looks_at_what_decides():
    model, clips, _ = hand_set(1)
    passes = []

    class Counted:
        grid = model.grid

        def predict(self, pixel_values):
            passes.append(len(pixel_values))
            return model.predict(pixel_values)

    value = fovex.fovex(Counted(), clips.pixel_values, torch.from_numpy(clips.labels))
    assert len(passes) == 200
    assert value.shape == (1, 6, 36)
    assert (value >= 0).all()


def test_of_one_frame_the_first_fixation_shows_its_middle():
    grid = Geometry(n_times=1, height=3, width=3, patch_size=8)
    seen = []

    class Noting:
        def __init__(self):
            self.grid = grid

        def predict(self, pixel_values):
            seen.append(pixel_values.detach().clone())
            return pixel_values.sum(dim=(1, 3, 4))

    clip = torch.randn(1, 1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    fovex.fovex(Noting(), clip, torch.tensor([1]), n_fixations=1, n_steps=2)
    # The fovea begins in the middle, which is sharp there and blurred in the corners.
    torch.testing.assert_close(
        seen[0][..., 11:13, 11:13], clip[..., 11:13, 11:13], atol=0.1, rtol=0
    )
    assert (seen[0] - clip)[..., :2, :2].abs().max() > 0.5
