"""A card tells the command that makes the model again, and no more than is true."""

import re
import shlex

import pytest

from pipeline.synthetic.config import TrainConfig
from pipeline.synthetic.exact_scenarios import SCENARIOS
from pipeline.synthetic.model_card import model_card


def card(**settings):
    return card_of(TrainConfig(out="somewhere", held_out="clips.parquet", **settings))


def card_of(config):
    return model_card(
        config,
        model_class="TimesformerForVideoClassification",
        n_parameters=212_345,
        input_size=96,
        side=8,
        width=64,
        accuracy=0.9876,
        n_held_out=400,
        seconds=61,
        cpu_seconds=150,
    )


def test_the_command_has_the_flags_that_are_not_the_defaults():
    text = card(task="order", seed=5, patch_weight=0)
    command = re.search(r"`python -m jobs\.train(.*)`", text)[1]
    flags = dict(flag.removeprefix("--").split(" ") for flag in command.split(" --")[1:])
    assert flags["task"] == "order"
    assert flags["seed"] == "5"
    assert "n-clips" not in flags
    assert shlex.split(command)


def test_what_it_learnt_from_is_said():
    assert "a label per clip is all that it learnt from" in card(patch_weight=0)
    assert "each patch tells" in card(patch_weight=0.5)
    assert "98.8% of 400 clips" in card()
    assert "61 s, rendering included" in card()
    assert "2 minutes of CPU time" in card()


@pytest.mark.parametrize("task", ["actions", "static_cue", "order", "moment"])
def test_each_task_has_its_purpose_and_one_frame_is_a_control(task):
    assert "It tells" in card(task=task)
    assert "A control" in card(task=task, n_frames=1)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_clips_that_are_drawn_have_no_file_and_no_reflections(scenario):
    config = TrainConfig(out="somewhere", task=f"exact_{scenario}", n_clips=4000, seed=3)
    text = card_of(config)
    assert "It tells" in text
    assert "| data | 4,000 drawn clips of seed 3 |" in text
    assert "of 400 clips, drawn with seed 4 |" in text
    assert "--held-out" not in text
