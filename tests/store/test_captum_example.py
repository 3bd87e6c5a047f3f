"""The lines of README.md that bring Captum's results into the audit, on a trained model's clips."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TimesformerForVideoClassification

from analysis import class_statistics, open_run, scores
from pipeline import store
from pipeline.clips.preprocess import Preprocessing
from pipeline.store.conforming import problems_of
from pipeline.synthetic.rendering import render_frame
from pipeline.synthetic.scenes import Canvas, sample_scene

CHECKPOINT = Path(store.__file__).parents[1] / "synthetic" / "checkpoints" / "8-frames"
N_CLIPS = 10


@pytest.fixture(scope="module")
def given():
    """A model, and clips of its classes, as the lines expect them."""
    model = (
        TimesformerForVideoClassification.from_pretrained(CHECKPOINT).eval().requires_grad_(False)
    )
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    labels = np.arange(N_CLIPS) % len(names)
    canvas = Canvas(width=128, height=96, fps=8, min_duration_s=3, max_duration_s=3.1)
    fitted = Preprocessing(
        shortest_edge=96, crop=(96, 96), image_mean=(0.45,) * 3, image_std=(0.225,) * 3
    )
    clips = []
    for index, label in enumerate(labels):
        scene = sample_scene(11, index, names[label].replace(" ", "_"), canvas)
        frames = np.stack([render_frame(scene, frame) for frame in range(1, 24, 3)])
        clips.append(fitted.resize_and_crop(frames))
    pixels = (np.stack(clips).astype(np.float32) / 255 - 0.45) / 0.225
    return {
        "model": model,
        "names": names,
        "clips": torch.from_numpy(pixels.transpose(0, 1, 4, 2, 3).astype(np.float32)),
        "labels": labels,
        "video_ids": [f"scene {index}" for index in range(N_CLIPS)],
    }


def test_captums_results_are_audited(given, tmp_path, monkeypatch):
    text = Path(store.__file__).with_name("README.md").read_text()
    (lines,) = re.findall(r"### Captum's results.*?```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    known = dict(given)
    exec(lines, known)
    assert problems_of("captum.zarr") == []
    assert "kind" in known["table"]
    ds = open_run("captum_run")
    np.testing.assert_allclose(ds["temporal"].sum("time"), 1, atol=1e-5)
    assert ds["prediction"].values.tolist() == known["prediction"].tolist()
    # A is Captum's own, but for half precision.
    joint = (ds["spatial"].astype(float) * ds["temporal"]).values
    expected = known["joint"].double().numpy()
    expected /= expected.sum((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(joint, expected, atol=1e-3 * expected.max())
    table = scores("captum_run")
    assert table["entropy"].between(0, 1).all()
    assert table["video_id"].tolist() == given["video_ids"]
    statistics = class_statistics(ds).compute()
    np.testing.assert_allclose(statistics["spatial_map"].sum(("y", "x")), 1, atol=1e-3)
    assert (known["prediction"].numpy() == given["labels"]).mean() > 0.5
