"""Card of a trained model: what it is, how it was made, and how well it does."""

import os
import shlex
from typing import Any

from pipeline.synthetic.config import TrainConfig

_PURPOSES = {
    "actions": "It tells apart the actions of `pipeline/synthetic/scenes.py`, and knows nothing\n"
    "else of the world.",
    "static_cue": "It tells the hue of the actor among distractors. It learnt from labels alone:\n"
    "nothing told it where the actor is.",
    "order": "It tells whether the actor was warm before it was cool, or cool before it was warm.\n"
    "It learnt from labels alone: nothing told it where the actor is, or when it changes.",
    "shortcuts": "It tells apart five actions, most of which a planted cue gives away. It is\n"
    "right for the wrong reasons, and there to be found out.",
    "exact_linear": "It tells which of two shapes lies at its place in noise.",
    "exact_multiplicative": "It tells which of two shapes dims the noise at its place.",
    "exact_moving": "It tells which of two shapes lies anywhere in noise, turned by any quarter.",
    "exact_motion": "It tells in which of four directions a shape moves in noise.",
    "exact_order": "It tells which of two shapes in noise was there before the other.",
    "exact_flash": "It tells whether a square got brighter or darker in one frame than in another.",
    "moment": "It tells the hue in which the actor flashed for one eighth of the clip. It learnt\n"
    "from labels alone: nothing told it where or when.",
}
_CONTROL = "A control: it sees the middle frame of a clip alone, which doesn't give its class away."


def model_card(
    config: TrainConfig,
    *,
    model_class: str,
    n_parameters: int,
    input_size: int,
    side: int,
    width: int,
    accuracy: float,
    n_held_out: int,
    seconds: float,
    cpu_seconds: float,
) -> str:
    """Write a model card in Markdown.

    Parameters
    ----------
    seconds, cpu_seconds
        Time of rendering and training together: on the clock, and of all processes.
    """
    values: dict[str, Any] = config.model_dump()
    defaults = {name: field.default for name, field in type(config).model_fields.items()}
    flags = "".join(
        f" --{name.replace('_', '-')} {shlex.quote(str(value))}"
        for name, value in values.items()
        if value != defaults[name] and value is not None and name != "n_workers"
    )
    n_frames, task, weight = config.n_frames, config.task, config.patch_loss_weight
    purpose = _CONTROL if n_frames == 1 else _PURPOSES[task]
    patch_loss = (
        f"weight {weight:g}: each patch tells if and how the actor acts on it"
        if weight
        else "none: a label per clip is all that it learnt from"
    )
    if config.scenario is not None:
        data = f"{values['n_clips']:,} drawn clips of seed {values['seed']}"
        held_out = f"drawn with seed {values['seed'] + 1}"
    else:
        reflections = "" if task == "shortcuts" else ", and their reflections"
        data = f"{values['n_clips']:,} rendered scenes of seed {values['seed']}{reflections}"
        held_out = "decoded from H.264 files"
    time = (
        f"{_minutes(seconds)}, rendering included, on {os.cpu_count()} CPU cores; "
        f"{_minutes(cpu_seconds)} of CPU time"
    )
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: video-classification
---

# Small {values["architecture"]} for {task.replace("_", " ")}, {n_frames} frame(s)

{purpose}

`{model_class}`: {n_frames} frame(s) of {input_size}x{input_size} pixels, {side}x{side} patches,
{values["n_layers"]} layers, width {width}, {n_parameters:,} parameters.

| | |
| --- | --- |
| command | `python -m jobs.train{flags}` |
| data | {data} |
| sampling | uniform: run it with `--sampling.kind uniform` |
| patch loss | {patch_loss} |
| seed | {values["seed"]} |
| time | {time} |
| held-out accuracy | {accuracy:.1%} of {n_held_out} clips, {held_out} |
"""


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"
