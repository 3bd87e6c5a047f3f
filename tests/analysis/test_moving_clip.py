"""A clip in a notebook: it moves, is small, and shows the attribution where it is."""

import io

import numpy as np
import pytest
from PIL import Image

from analysis import open_run, show_clip
from analysis.moving_clip import MAX_BYTES, animation, overlay
from pipeline.errors import StoreError
from pipeline.status import Status
from tests.analysis.page.pages import HOSTILE, SEEN, write_dataset
from tests.analysis.stores import random_columns, small_layout, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of five clips, the fourth of which failed, whose class names try to be markup."""
    folder = tmp_path_factory.mktemp("run")
    layout = small_layout(5)
    columns = random_columns(
        layout,
        frame_index=np.tile(SEEN, (5, 1)),
        status=np.array([1, 1, 1, Status.TRUNCATED, 1], np.uint8),
        label=np.zeros(5, np.int32),
        prediction=np.array([0, 1, 0, 0, 0], np.int32),
    )
    dataset = write_dataset(folder / "dataset", 5)
    return write_run(folder / "run", layout, columns, class_names=HOSTILE, **dataset)


def frames_of(webp):
    with Image.open(io.BytesIO(webp)) as image:
        assert image.format == "WEBP"
        frames = []
        for step in range(image.n_frames):
            image.seek(step)
            frames.append(np.asarray(image.convert("RGB")).astype(int))
    return np.stack(frames)


def test_a_clip_plays_a_frame_for_each_time_step(run):
    clip = show_clip(open_run(run), 1)
    assert clip.note is None
    assert clip.caption.startswith("clip1: wrong, ")
    frames = frames_of(clip.webp)
    assert frames.shape[0] == 2
    assert np.abs(frames[0] - frames[1]).mean() > 3
    assert len(clip.webp) <= MAX_BYTES


def test_what_a_notebook_shows_is_text_where_it_comes_from_data(run):
    shown = show_clip(open_run(run), 0)._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert shown.count('src="data:image/webp;base64,') == 1


def test_a_selection_keeps_the_rows_of_the_run(run):
    ds = open_run(run).isel(clip=[4, 2])
    assert show_clip(ds, 2).webp == show_clip(open_run(run), 2).webp
    with pytest.raises(StoreError, match="the dataset has no clip 0"):
        show_clip(ds, 0)
    with pytest.raises(StoreError, match="clip 3 has no attribution: its status is truncated"):
        show_clip(open_run(run), 3)


def test_without_its_manifest_the_map_alone_is_shown(tmp_path):
    layout = small_layout(2)
    ds = open_run(write_run(tmp_path / "run", layout, random_columns(layout), manifest="gone"))
    clip = show_clip(ds, 1)
    assert clip.note.startswith("frames aren't shown: can't read manifest gone")
    clip.save(tmp_path / "clip.webp")
    assert frames_of((tmp_path / "clip.webp").read_bytes()).shape[0] == 2


def test_the_overlay_lies_where_the_attribution_is():
    attribution = np.full((1, 4, 4), 0.01)
    attribution[0, 0, 3] = 1
    attribution[0, 3, 0] = 0.5
    frames = np.full((1, 64, 64, 3), 90, np.uint8)
    shown = overlay(frames, attribution, np.ones(1)).astype(int)[0]
    change = np.abs(shown - 90).sum(axis=-1)
    assert change[:16, 48:].mean() > 5 * change[16:48, 16:48].mean()
    assert change[24, 24] == 0


def test_noise_of_many_frames_stays_small():
    frames = np.random.default_rng(0).integers(0, 256, (32, 224, 224, 3), np.uint8)
    assert len(animation(frames, 4.0)) <= MAX_BYTES
