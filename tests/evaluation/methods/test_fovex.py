"""FovEx: a pass for each step, and a map that is where the prediction needs sharpness."""

import pytest
import torch

from pipeline.evaluation.methods import fovex
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
