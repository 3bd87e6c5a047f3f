"""What methods claim, on the committed models that learnt from labels alone.

A map that is of a class is another one for another class, and a map that is of a model is another
one for a model of noise.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

import pipeline.synthetic
from pipeline.evaluation.methods.explainer import METHODS, explain
from pipeline.evaluation.sanity import pearson, randomised
from pipeline.models.attributor import normalise
from pipeline.models.checkpoint import load_adapter, read_checkpoint
from pipeline.synthetic.held_out import held_out_clips

CHECKPOINTS = Path(pipeline.synthetic.__file__).parent / "checkpoints"

FEW = {
    "FovEx": {"n_fixations": 3, "n_steps": 5},
    "Integrated Gradients": {"n_steps": 8},
    "KernelSHAP": {"n_samples": 48},
    "LIME": {"n_samples": 48},
    "RISE": {"n_masks": 48},
    "SmoothGrad": {"n_noise": 4},
    "occlusion": {"window": 6},
}
"""Gives methods of many passes fewer."""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["static-cue", "static-cue-vivit", "static-cue-videomae"])
def test_maps_change_with_the_class_and_with_the_model_where_they_claim_to(name):
    checkpoint = read_checkpoint(str(CHECKPOINTS / name))
    model = load_adapter(checkpoint, device="cpu")
    grid = model.grid
    scenes = held_out_clips(
        "static_cue", n_clips=2, n_frames=grid.n_frames, n_times=grid.n_times, seed=77, n_actors=2
    )
    clips = normalise(torch.from_numpy(scenes.frames), checkpoint.preprocessing, torch.float32)
    label, rival = torch.from_numpy(scenes.labels), torch.from_numpy(scenes.rivals)
    for method, known in METHODS.items():
        if method == "published attention" and name != "static-cue":
            continue
        few = FEW.get(method, {})
        of_label, of_rival = (
            explain(method, model, clips, classes, **few).numpy() for classes in (label, rival)
        )
        with randomised(model.model, 5):
            of_noise = explain(method, model, clips, label, **few).numpy()
        if known.is_class_specific:
            assert pearson(of_label, of_rival).mean() < 0.97, method
        else:
            np.testing.assert_array_equal(of_label, of_rival, err_msg=method)
        if known.needs == "nothing":
            np.testing.assert_array_equal(of_label, of_noise, err_msg=method)
        else:
            assert pearson(of_label, of_noise).mean() < 0.85, method
