"""Planted cues: each in its class, where it says it is, and nothing in the clean twin."""

import json
from collections import Counter

import numpy as np
import pytest

from pipeline.synthetic.rendering import render_frame
from pipeline.synthetic.scenes import Canvas
from pipeline.synthetic.shortcuts import (
    CLASSES,
    CUE_OF_CLASS,
    ShortcutConfig,
    cue_mask,
    plant,
    render_planted,
)

SMALL = Canvas(width=128, height=96, fps=8, min_duration_s=1.0, max_duration_s=2.0)
CONFIG = ShortcutConfig(n_clips=120, n_duplicates=5, n_swapped=7)


def test_what_is_planted_is_what_was_asked_for():
    clips = plant(CONFIG, SMALL)
    assert len({clip.video_id for clip in clips}) == 120
    splits = Counter(clip.split for clip in clips)
    assert splits == {"train": 90, "val": 30}
    copies = [clip for clip in clips if clip.duplicate_of is not None]
    by_id = {clip.video_id: clip for clip in clips}
    assert len(copies) == 5
    for copy in copies:
        original = by_id[copy.duplicate_of]
        assert (copy.split, original.split) == ("val", "train")
        assert (copy.scene, copy.cue, copy.label) == (original.scene, original.cue, original.label)
    swapped = [clip for clip in clips if clip.label != clip.true_label]
    assert len(swapped) == 7
    assert not any(clip.duplicate_of for clip in swapped)
    for label in CLASSES:
        cues = Counter(clip.cue for clip in clips if clip.true_label == label)
        planted = sum(cues[cue] for cue in CUE_OF_CLASS[label])
        assert planted >= 0.8 * cues.total()
        assert set(cues) <= {*CUE_OF_CLASS[label], "none"}
    strategies = Counter(clip.cue for clip in clips if clip.true_label == "orbit")
    assert abs(strategies["logo_low"] - strategies["frame_end"]) <= 4
    assert plant(CONFIG, SMALL) == clips
    for clip in clips[:3]:
        json.dumps(clip.facts)
        assert clip.facts["cue"] == clip.cue


def test_the_clean_twin_has_the_scenes_and_nothing_planted():
    planted = plant(CONFIG, SMALL)
    clean = plant(ShortcutConfig(n_clips=120, clean=True), SMALL)
    for clip, twin in zip(planted, clean, strict=True):
        assert twin.cue == "none"
        assert twin.label == twin.true_label
        assert twin.duplicate_of is None
        assert clip.duplicate_of is not None or clip.scene == twin.scene
        np.testing.assert_array_equal(render_planted(twin, 2), render_frame(twin.scene, 2))


@pytest.mark.parametrize("cue", ["logo", "logo_low", "background", "flash", "frame_end"])
def test_a_cue_changes_the_pixels_of_its_mask_alone(cue):
    clip = next(clip for clip in plant(CONFIG, SMALL) if clip.cue == cue)
    n_frames = clip.scene.n_frames
    shown = [bool(cue_mask(clip, frame).any()) for frame in range(n_frames)]
    early, late = shown[: n_frames // 5], shown[-(n_frames // 5) :]
    assert all(early) == (cue != "frame_end")
    assert all(late) == (cue != "flash")
    for frame in (0, n_frames // 2, n_frames - 1):
        mask = cue_mask(clip, frame)
        plain, planted = render_frame(clip.scene, frame), render_planted(clip, frame)
        assert planted.dtype == np.uint8
        np.testing.assert_array_equal(planted[~mask], plain[~mask])
        assert not mask.any() or (planted[mask] != plain[mask]).any()
    if cue.startswith("logo"):
        # The central square is all that a model sees.
        assert cue_mask(clip, 0)[:, 16:112].sum() == cue_mask(clip, 0).sum() > 0
        first, last = render_planted(clip, 0), render_planted(clip, n_frames - 1)
        mask = cue_mask(clip, 0)
        np.testing.assert_array_equal(first[mask], last[mask])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"val_share": 1.0}, r"val_share: 1\.0"),
        ({"planted_share": -0.1}, r"planted_share: -0\.1"),
        ({"n_clips": 8, "n_duplicates": 3}, "n_duplicates is 3 out of 2 validation clips"),
        ({"n_clips": 20, "n_duplicates": 1, "n_swapped": 21}, "n_swapped is 21 out of 20 clips"),
    ],
)
def test_more_than_there_is_is_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        ShortcutConfig(**changes)
