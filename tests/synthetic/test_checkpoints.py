"""The committed checkpoints: one learnt the actions, and one frame doesn't give them away."""

import re
from pathlib import Path

import pytest

import pipeline.synthetic
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.models.checkpoint import load_adapter, read_checkpoint
from pipeline.synthetic.config import SynthesizeConfig
from pipeline.synthetic.dataset import write_dataset
from pipeline.synthetic.training import CLASS_NAMES, held_out_accuracy

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


@pytest.mark.parametrize("name", ["8-frames", "1-frame"])
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
