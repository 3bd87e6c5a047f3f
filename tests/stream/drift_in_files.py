"""Drift the whole way: rendered streams in files, a trained model, `jobs.live`, and its events."""

import json
from dataclasses import replace
from itertools import count

import numpy as np

from jobs.live import live
from pipeline.stream.config import LiveConfig
from pipeline.synthetic.scenes import Canvas
from pipeline.synthetic.stream import stream_frames, write_frames

MODEL = "pipeline/synthetic/checkpoints/shortcuts"
CANVAS = Canvas(128, 96, 5, 3.0, 3.0)
"""Scenes of 3 s at 5 frames/s."""
DRIFTS = ("logo", "background", "camera turned aside", "camera on its side")
SKY_ROWS = 32
"""Of the canvas, above the scenes of a stream that has an up and a down."""
DRIFT_AT_S = 60.0
WINDOW_S, HOP_S = 3.0, 1.0
MAX_WINDOWS = 50
USUAL_SEED = 9000
"""Of the stream that the others are held against; theirs are smaller."""
USUAL_S = 600.0


def frames(length_s, seed, drift=None, *, sky=False, drift_at_s=DRIFT_AT_S):
    """A stream, which has the drift from a time on.

    Scenes are drawn without an up or a down: their actors are as often above as beside each other.
    With a sky they have one, as what a camera sees outdoors.
    """
    cue = drift if drift in ("logo", "background") else "none"
    from_s = length_s if drift is None else drift_at_s
    ground = replace(CANVAS, height=CANVAS.height - SKY_ROWS) if sky else CANVAS
    shades = np.linspace(210, 160, CANVAS.height - ground.height)[:, None, None]
    above = np.repeat(shades * (0.8, 0.9, 1.0), CANVAS.width, axis=1).astype(np.uint8)
    scenes = stream_frames(length_s, from_s, seed, ground, cue)
    for number, image in zip(count(), scenes, strict=False):
        seen = np.concatenate([above, image])
        turned = number / CANVAS.fps >= from_s and cue == "none"
        yield turn(seen, drift) if turned else seen


def turn(image, how):
    """What a camera sees that was turned; the sides, which the model doesn't see, are grey."""
    height, width = image.shape[:2]
    left = (width - height) // 2
    if how == "camera turned aside":
        # By two sevenths of what the model sees; what comes into sight is as the edge was.
        by = round(2 / 7 * height)
        return np.concatenate([np.repeat(image[:, :1], by, axis=1), image[:, :-by]], axis=1)
    turned = np.full_like(image, 127)
    turned[:, left : left + height] = np.rot90(image[:, left : left + height])
    return turned


def explain(folder, name, length_s, seed, drift=None, *, against=None, **how):
    """Write a stream, go through it, and give the windows of its alarms: (to, from) each."""
    path = folder / f"{name}.mp4"
    write_frames(path, frames(length_s, seed, drift, **how), CANVAS)
    out = folder / name
    config = {
        "sources": (f"camera={path}",),
        "model": MODEL,
        "method": {"name": "evidence", "clamp": "sum"},
        "sampling": {"kind": "uniform"},
        "window": WINDOW_S,
        "hop": HOP_S,
        "fast": True,
        "page": {"show": False},
        "out": str(out),
        "drift_against": None if against is None else str(against),
    }
    assert live(LiveConfig.model_validate(config)) == 0
    path.unlink()
    lines = (out / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "drift"]


def usual(folder, *, sky=False):
    """Sessions of a stream without drift, to hold others against."""
    name = "usual under a sky" if sky else "usual"
    explain(folder, name, USUAL_S, USUAL_SEED, sky=sky)
    return folder / name


def first_affected():
    """The first window with a frame behind the change."""
    return int((DRIFT_AT_S - WINDOW_S) / HOP_S) + 1


def delay(alarms):
    """Windows from the change to the first alarm behind it; None if there is none."""
    behind = [event["to_window"] - first_affected() for event in alarms]
    return next((windows for windows in behind if windows >= 0), None)
