"""Annotation files of the real formats, in small: what is marked, and what is refused."""

import gzip
import json

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from pipeline.errors import ConfigError
from pipeline.evaluation.annotations import LAYOUTS, SeenClip


def seen(video_id="abc", times=(0.0, 1.0, 2.0, 3.0), start=10.0, height=40, width=60, fps=10):
    time_s = np.array(times)
    return SeenClip(video_id, np.round(time_s * fps).astype(int), time_s, start, height, width)


def area(mask):
    rows, columns = np.nonzero(mask)
    return (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) if len(rows) else None


AVA = """abc,11,0.100,0.250,0.500,0.750,12,0
abc,11,0.100,0.250,0.500,0.750,17,0
abc,11,0.600,0.000,1.000,0.500,12,1
abc,0012.9,,,,,,
"""
"""Columns of ava_v2.2 and kinetics_*_v1.0: two actions of one person, another person, nobody."""


def test_ava_kinetics_marks_persons_at_their_times(tmp_path):
    (tmp_path / "boxes.csv").write_text(AVA)
    layout = LAYOUTS["ava-kinetics"](str(tmp_path / "boxes.csv"))
    marked = layout.mark(seen())["person"]
    # Seconds 10 to 13 of the source: 11 is annotated, and 12.9 lies 0.1 s from 13.
    assert marked.known.tolist() == [False, True, False, True]
    assert area(marked.masks[1][:, :30]) == (10, 30, 6, 30)
    assert area(marked.masks[1][:, 31:]) == (0, 20, 5, 29)
    assert not marked.masks[[0, 2, 3]].any()
    assert layout.mark(seen("unheard-of")) == {}
    narrow = LAYOUTS["ava-kinetics"](str(tmp_path / "boxes.csv"), tolerance_s=0.05)
    assert narrow.mark(seen())["person"].known.tolist() == [False, True, False, False]
    with pytest.raises(ConfigError, match="clip 'abc' has no start_time"):
        layout.mark(seen(start=np.nan))


def test_activitynet_marks_the_times_of_actions(tmp_path):
    entry = {"duration": 20.0, "subset": "validation", "url": "https://example.org"}
    segments = [{"segment": [10.5, 12.0], "label": "x"}, {"segment": [12.9, 14], "label": "y"}]
    database = {"database": {"abc": {**entry, "annotations": segments}}, "version": "1.3"}
    (tmp_path / "net.json").write_text(json.dumps(database))
    layout = LAYOUTS["activitynet"](str(tmp_path / "net.json"))
    for name in ("abc", "v_abc"):
        marked = layout.mark(seen(name))["action time"]
        assert marked.known.all()
        assert marked.masks.all(axis=(1, 2)).tolist() == [False, True, True, True]
        assert marked.masks.any(axis=(1, 2)).tolist() == [False, True, True, True]
    from_zero = layout.mark(seen(times=(0.0, 11.0), start=np.nan))["action time"]
    assert from_zero.masks.any(axis=(1, 2)).tolist() == [False, True]


@pytest.mark.parametrize("compressed", [False, True])
def test_something_else_marks_hands_and_objects_by_frame(tmp_path, compressed):
    def box(x1, y1, x2, y2, category):
        edges = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
        return {"box2d": edges, "category": "c", "standard_category": category}

    frames = [
        {"name": "abc/0001.jpg", "labels": [box(0, 0, 10, 20, "hand"), box(30, 5, 60, 40, "0000")]},
        {"name": "abc/0013.jpg", "labels": [box(5.0, 5.0, 15.0, 15.0, "0001")]},
    ]
    content = json.dumps({"abc": frames}).encode()
    path = tmp_path / "boxes.json"
    path.write_bytes(gzip.compress(content) if compressed else content)
    marked = LAYOUTS["something-else"](str(path)).mark(seen())
    # Frames 1 and 13 at 12 per second are seconds 0 and 1.
    for kind in ("hand", "object"):
        assert marked[kind].known.tolist() == [True, True, False, False]
    assert area(marked["hand"].masks[0]) == (0, 20, 0, 10)
    assert area(marked["object"].masks[0]) == (5, 40, 30, 60)
    assert not marked["hand"].masks[1].any()
    assert area(marked["object"].masks[1]) == (5, 15, 5, 15)


def test_jhmdb_marks_the_puppet_of_each_frame(tmp_path):
    folder = tmp_path / "brush_hair" / "abc"
    folder.mkdir(parents=True)
    part_mask = np.zeros((40, 60, 25), np.uint8)
    part_mask[10:20, 5:15, 10] = 3
    savemat(folder / "puppet_mask.mat", {"part_mask": part_mask})
    marked = LAYOUTS["jhmdb"](str(tmp_path)).mark(seen())["person"]
    # Frames 0, 10, 20 and 30, of which there are 25.
    assert marked.known.tolist() == [True, True, True, False]
    assert area(marked.masks[1]) == (10, 20, 5, 15)
    assert not marked.masks[[0, 2, 3]].any()


@pytest.mark.parametrize("form", ["png", "npy", "small"])
def test_masks_of_each_frame_are_of_the_kind_that_is_told(tmp_path, form):
    stack = np.zeros((21, 40, 60), np.uint8)
    stack[20, 20:30, 30:60] = 255
    if form == "npy":
        np.save(tmp_path / "abc.npy", stack > 0)
    else:
        (tmp_path / "abc").mkdir()
        for frame, mask in enumerate(stack):
            picture = Image.fromarray(mask)
            if form == "small":
                picture = picture.resize((30, 20), Image.Resampling.NEAREST)
            picture.save(tmp_path / "abc" / f"{frame:05d}.png")
    layout = LAYOUTS["masks"](f"file://{tmp_path}", kind="ball")
    assert layout.all_kinds == ("ball",)
    marked = layout.mark(seen())["ball"]
    assert marked.known.tolist() == [True, True, True, False]
    assert area(marked.masks[2]) == (20, 30, 30, 60)
    assert not marked.masks[[0, 1, 3]].any()
    assert layout.mark(seen("other")) == {}


@pytest.mark.parametrize(
    ("layout", "content", "reason"),
    [
        ("ava-kinetics", "abc,soon,0,0,1,1,2,3\n", "line 1 is 'abc,soon,0,0,1,1,2,3'"),
        ("ava-kinetics", "abc\n", "line 1 is 'abc'"),
        ("ava-kinetics", "abc,1,0.5,,,,,\n", "line 1"),
        ("activitynet", "{", "expected database.ID.annotations.segment"),
        ("activitynet", '{"results": {}}', "expected database.ID.annotations.segment"),
        ("activitynet", '{"database": {"abc": {"annotations": [{}]}}}', "expected database"),
        ("something-else", "[]", "expected a JSON object of videos"),
        ("something-else", '{"abc": [{"name": "abc/x.jpg", "labels": []}]}', "video 'abc'"),
        ("something-else", '{"abc": [{"name": "abc/0001.jpg", "labels": [{}]}]}', "video 'abc'"),
    ],
)
def test_a_file_of_another_form_is_one_line(tmp_path, layout, content, reason):
    (tmp_path / "file").write_text(content)
    with pytest.raises(ConfigError) as raised:
        LAYOUTS[layout](str(tmp_path / "file")).mark(seen())
    assert reason in str(raised.value)
    assert str(tmp_path / "file") in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_pickle_is_not_loaded_and_other_sizes_are_refused(tmp_path):
    np.save(tmp_path / "abc.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.zeros((4, 4), bool))
    np.save(tmp_path / "wide.npy", np.zeros((4, 40, 90), bool))
    layout = LAYOUTS["masks"](str(tmp_path))
    with pytest.raises(ConfigError, match=r"masks of 'abc'.*[Oo]bject arrays"):
        layout.mark(seen())
    with pytest.raises(ConfigError, match=r"expected \(frames, height, width\), got \(4, 4\)"):
        layout.mark(seen("flat"))
    with pytest.raises(ConfigError, match="40x90 pixels, the clip 40x60: not of one shape"):
        layout.mark(seen("wide"))
    folder = tmp_path / "jump" / "abc"
    folder.mkdir(parents=True)
    (folder / "puppet_mask.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + bytes(500))
    with pytest.raises(ConfigError, match=r"puppet_mask\.mat"):
        LAYOUTS["jhmdb"](str(tmp_path)).mark(seen())


@pytest.mark.parametrize("name", LAYOUTS)
def test_annotations_that_are_not_there_are_named(tmp_path, name):
    url = str(tmp_path / "none")
    with pytest.raises(ConfigError, match="none"):
        LAYOUTS[name](url).mark(seen())
