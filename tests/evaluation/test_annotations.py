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


@pytest.mark.parametrize(
    "content",
    [
        AVA.replace("\n", "\r\n").encode(),
        AVA.replace("\n", "\r").encode(),
        b"\xef\xbb\xbf" + AVA.encode(),
        ("video_id,time,x1,y1,x2,y2,action,person\n" + AVA).encode(),
        AVA.replace("abc,", '"abc", ').encode(),
        AVA.replace(",,,,,,", ", , , , , , ").encode(),
        gzip.compress((AVA + "\n" + AVA).encode()),
        # Boxes of detectors reach a little beyond the frame.
        AVA.replace("0.600,0.000,1.000", "0.600,-0.010,1.020").encode(),
    ],
    ids=["CRLF", "CR", "BOM", "header", "quoted", "spaces", "twice and gzip", "beyond"],
)
def test_ava_kinetics_as_people_have_it(tmp_path, content):
    plain, other = tmp_path / "plain.csv", tmp_path / "other.csv"
    plain.write_text(AVA)
    other.write_bytes(content)
    expected, found = (LAYOUTS["ava-kinetics"](str(path)).mark(seen()) for path in (plain, other))
    assert found["person"].known.tolist() == expected["person"].known.tolist()
    np.testing.assert_array_equal(found["person"].masks, expected["person"].masks)


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


def test_activitynet_knows_nothing_of_videos_whose_annotations_are_held_back(tmp_path):
    database = {
        "abc": {"subset": "testing", "annotations": []},
        "def": {"subset": "testing"},
        "ghi": {"subset": "validation", "annotations": []},
        "jkl": {"subset": "testing", "annotations": [{"segment": ["12", "10.5"], "label": "x"}]},
    }
    (tmp_path / "net.json").write_text(json.dumps({"database": database}))
    layout = LAYOUTS["activitynet"](str(tmp_path / "net.json"))
    assert layout.mark(seen("abc")) == layout.mark(seen("def")) == {}
    nothing = layout.mark(seen("ghi"))["action time"]
    assert nothing.known.all()
    assert not nothing.masks.any()
    # Times in quotes, the end first.
    both = layout.mark(seen("jkl"))["action time"]
    assert both.masks.any(axis=(1, 2)).tolist() == [False, True, True, False]


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


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pictures_of_every_mode_are_masks_and_lie_in_the_order_of_their_numbers(tmp_path, mode):
    (tmp_path / "abc").mkdir()
    for frame in range(21):
        mask = np.zeros((40, 60), np.uint8)
        if frame == 10:
            mask[20:30, 30:60] = 255
        picture = Image.fromarray(mask)
        if mode == "P":
            # A palette's numbers are objects, as in DAVIS.
            picture = Image.fromarray(mask // 255, mode="L").convert("P")
        elif mode == "I;16":
            picture = Image.fromarray(mask.astype(np.uint16))
        else:
            picture = picture.convert(mode)
        picture.save(tmp_path / "abc" / f"{frame}.png")
    marked = LAYOUTS["masks"](str(tmp_path)).mark(seen())["object"]
    assert area(marked.masks[1]) == (20, 30, 30, 60)
    assert not marked.masks[[0, 2, 3]].any()


def test_masks_of_a_video_in_two_folders_are_refused(tmp_path):
    for size in ("480p", "1080p"):
        (tmp_path / size / "abc").mkdir(parents=True)
        Image.new("L", (60, 40)).save(tmp_path / size / "abc" / "0.png")
    with pytest.raises(ConfigError, match="several folders 'abc': expected one for each video"):
        LAYOUTS["masks"](str(tmp_path)).mark(seen())
    assert LAYOUTS["masks"](str(tmp_path / "480p")).mark(seen())["object"].known[0]


@pytest.mark.parametrize(
    ("layout", "content", "reason"),
    [
        ("ava-kinetics", "abc,soon,0,0,1,1,2,3\n", "line 1 is 'abc,soon,0,0,1,1,2,3'"),
        (
            "ava-kinetics",
            "abc\n",
            "line 1 is 'abc': expected video_id,time_s,x1,y1,x2,y2 with commas",
        ),
        ("ava-kinetics", "abc;1;0;0;1;1;2;3\n", "expected video_id,time_s,x1,y1,x2,y2 with commas"),
        ("ava-kinetics", "abc,1,0,0,1\n", "expected video_id,time_s,x1,y1,x2,y2 with commas"),
        ("ava-kinetics", "abc,1,0.5,,,,,\n", "line 1"),
        (
            "ava-kinetics",
            "abc,1,.5,.1,.2,.9,3,0\n",
            "line 1 is 'abc,1,.5,.1,.2,.9,3,0': expected a box",
        ),
        ("ava-kinetics", "abc,1,10,10,200,120,3,0\n", "expected a box of shares of the frame"),
        ("ava-kinetics", "abc,1,0,0,nan,1,3,0\n", "expected a box of shares of the frame"),
        ("ava-kinetics", "abc,1,,,,,,\nabc,nan,0,0,1,1,3,0\n", "line 2"),
        ("ava-kinetics", 'abc,1,"' + "0" * 200_000, "behind line 0: field larger"),
        ("activitynet", "[]", "expected database.ID.annotations.segment"),
        ("activitynet", '{"database": []}', "expected database.ID.annotations.segment"),
        ("activitynet", '{"database": {"abc": []}}', "of video 'abc'"),
        (
            "activitynet",
            '{"database": {"abc": {"annotations": [{"segment": [1, NaN]}]}}}',
            "of video 'abc': segment is 1 to nan, expected two times",
        ),
        ("something-else", '{"abc": 3}', "video 'abc'"),
        ("something-else", '{"abc": [[]]}', "video 'abc'"),
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


@pytest.mark.parametrize("layout", ["ava-kinetics", "activitynet", "something-else"])
@pytest.mark.parametrize("damage", ["not UTF-8", "cut off", "a bit turned"])
def test_a_damaged_file_is_one_line(tmp_path, layout, damage):
    whole = gzip.compress(AVA.encode() * 50)
    content = {
        "not UTF-8": b"abc,1,0,0,1,1,3,\xff\xfe\n",
        "cut off": whole[:-20],
        "a bit turned": whole[:40] + bytes([whole[40] ^ 8]) + whole[41:],
    }[damage]
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        LAYOUTS[layout](str(tmp_path / "file")).mark(seen())
    assert str(tmp_path / "file") in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damage", ["empty", "cut off", "no frame", "turned"])
@pytest.mark.parametrize("form", ["npy", "png", "mat"])
def test_damaged_masks_are_one_line(tmp_path, form, damage):
    stack = np.random.default_rng(0).integers(0, 2, (40, 60, 25)).astype(np.uint8)
    if damage == "no frame":
        stack = stack[:, :, :0]
    (tmp_path / "abc").mkdir()
    path = tmp_path / "abc" / ("puppet_mask.mat" if form == "mat" else "0.png")
    if form == "npy":
        path = tmp_path / "abc.npy"
        np.save(path, stack.transpose(2, 0, 1))
    elif form == "mat":
        savemat(path, {"part_mask": stack}, do_compression=True)
    elif damage == "no frame":
        path.write_bytes(b"GIF89a")
    else:
        Image.fromarray(stack[:, :, 0]).save(path)
    content = bytearray(path.read_bytes())
    if damage == "empty":
        content.clear()
    elif damage == "cut off":
        del content[len(content) // 2 :]
    elif damage == "turned":
        if form == "npy":
            content[0] ^= 1
        else:
            middle = len(content) // 2
            content[middle : middle + 8] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="abc") as raised:
        LAYOUTS["jhmdb" if form == "mat" else "masks"](str(tmp_path)).mark(seen())
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
