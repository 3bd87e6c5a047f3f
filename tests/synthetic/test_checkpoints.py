"""The committed checkpoints: one learnt the actions, and one frame doesn't give them away."""

import re
from pathlib import Path

import numpy as np
import pytest

import pipeline.synthetic
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.models.checkpoint import load_adapter, read_checkpoint
from pipeline.synthetic.config import SynthesizeConfig, TrainConfig
from pipeline.synthetic.dataset import write_dataset
from pipeline.synthetic.exact_scenarios import SCENARIOS, as_frames, class_names, exact_clips
from pipeline.synthetic.held_out import exact_held_out
from pipeline.synthetic.training import (
    CLASS_NAMES,
    collect_clips,
    drawn_accuracy,
    held_out_accuracy,
    render_clips,
)

CHECKPOINTS = Path(pipeline.synthetic.__file__).parent / "checkpoints"
N_CLIPS = 120


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """Clips of Kinetics' size and rate, of a seed that neither training nor the demo has seen."""
    folder = tmp_path_factory.mktemp("held_out")
    for _ in write_dataset(SynthesizeConfig(out=str(folder), n_clips=N_CLIPS, seed=2)):
        pass
    table = build_manifest(
        layout="kinetics", clips=str(folder), annotations=str(folder / "annotations.csv")
    )
    write_manifest(table, str(folder / "manifest.parquet"))
    return read_manifest(str(folder / "manifest.parquet"))


def accuracy_of(name, manifest):
    adapter = load_adapter(read_checkpoint(str(CHECKPOINTS / name)), device="cpu")
    return held_out_accuracy(adapter.model, manifest)


def accuracy_on_card(name):
    card = (CHECKPOINTS / name / "README.md").read_text()
    return float(re.search(r"held-out accuracy \| ([\d.]+)%", card)[1]) / 100


@pytest.mark.slow
def test_the_model_of_8_frames_knows_the_actions(held_out):
    accuracy = accuracy_of("8-frames", held_out)
    assert accuracy >= 0.95
    assert accuracy == pytest.approx(accuracy_on_card("8-frames"), abs=0.02)


@pytest.mark.slow
def test_the_model_of_one_frame_can_not(held_out):
    accuracy = accuracy_of("1-frame", held_out)
    assert accuracy < 0.6
    # The card's figure is of more clips: some percent are chance.
    assert accuracy == pytest.approx(accuracy_on_card("1-frame"), abs=0.1)


@pytest.mark.parametrize("name", sorted(path.name for path in CHECKPOINTS.iterdir()))
def test_a_checkpoint_is_small_and_has_a_card(name):
    files = {path.name: path.stat().st_size for path in (CHECKPOINTS / name).iterdir()}
    assert set(files) == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert sum(files.values()) < 3_000_000
    card = (CHECKPOINTS / name / "README.md").read_text()
    for fact in ("python -m jobs.train", "| seed |", "| time |", "| held-out accuracy |"):
        assert fact in card


def test_the_model_of_8_frames_has_a_fine_enough_grid():
    checkpoint = read_checkpoint(str(CHECKPOINTS / "8-frames"))
    assert checkpoint.class_names == CLASS_NAMES
    assert checkpoint.geometry.n_frames >= 8
    assert min(checkpoint.geometry.height, checkpoint.geometry.width) >= 8


@pytest.mark.parametrize(
    "name", ["static-cue", "static-cue-vivit", "static-cue-videomae", "order", "moment"]
)
def test_models_of_labels_alone_know_held_out_scenes_and_need_what_they_say(name, one_thread):
    """Rendered scenes of another seed than the card's clips: decoding is tested elsewhere."""
    task = name if name in ("order", "moment") else "static_cue"
    config = TrainConfig(
        out="none",
        held_out="none",
        task=task,
        seed=5,
        n_clips=24,
        distractors="acting",
        n_workers=1,
    )
    model = load_adapter(read_checkpoint(str(CHECKPOINTS / name)), device="cpu").model
    clips = collect_clips(render_clips(config), config)

    def accuracy(frames):
        return drawn_accuracy(model, frames, clips.labels)

    assert accuracy_on_card(name) >= 0.95
    assert accuracy(clips.frames) >= 0.9
    backwards = accuracy(clips.frames[:, ::-1].copy())
    one_frame = accuracy(np.repeat(clips.frames[:, 4:5], 8, axis=1))
    if task == "order":
        # Played backwards each clip is of the other class, and a still one gives nothing away.
        assert backwards <= 0.1
        assert 0.25 <= one_frame <= 0.75
    elif task == "moment":
        assert backwards >= 0.9
        # Seven clips in eight don't show their class in this frame.
        assert one_frame <= 0.6
    else:
        assert backwards >= 0.9
        # In some frames the actor blinks.
        assert one_frame >= 0.8


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_models_of_exact_scenarios_know_other_clips_by_their_truth_alone(scenario, one_thread):
    """Where the truth is swapped for another clip's background, nothing is left of the class."""
    name = f"exact-{scenario}"
    model = load_adapter(read_checkpoint(str(CHECKPOINTS / name)), device="cpu").model
    clips = exact_held_out(scenario, n_clips=64, seed=11)
    assert accuracy_on_card(name) >= 0.94
    assert drawn_accuracy(model, clips.frames, clips.labels) >= 0.85
    drawn = exact_clips(scenario, 64, 11)
    noise = exact_clips(scenario, 64, 12, alpha=1e-6).pixels
    noise *= drawn.pixels[~drawn.truth].std() / noise.std()
    # What is a square's width around the truth shows its edge, which was smoothed.
    bare = as_frames(np.clip(np.where(drawn.truth, noise, drawn.pixels), -1, 1))
    n_classes = len(class_names(scenario))
    assert drawn_accuracy(model, bare, clips.labels) <= 1 / n_classes + 0.25
