"""Annotations of untrimmed sets: a row for each action, its class and its place in the file."""

import json

import pytest

from pipeline.dataset.layouts import LAYOUTS, append_clips, build_manifest
from pipeline.dataset.manifest import mark_segments, read_manifest, write_manifest
from pipeline.dataset.segments import SEGMENT_READERS
from pipeline.errors import ManifestError

CHARADES = "id,subject,actions\nabc,X,c092 11.90 21.20;c147 0.00 12.60\nnone,X,\nxyz,Y,c001 1 2\n"
ACTIVITYNET = {
    "database": {
        "abc": {
            "subset": "validation",
            "annotations": [
                {"label": "Surfing", "segment": [0.5, 12.25]},
                {"label": "Rowing", "segment": [14, 20]},
            ],
        },
        "xyz": {"subset": "testing", "annotations": []},
    }
}
AVA = "abc,0902,0.1,0.2,0.5,0.7,12,0\nabc,0902,0.1,0.2,0.5,0.7,17,0\nabc,0903\nxyz,1,0,0,1,1,5,1\n"
EPIC = (
    "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb,noun\n"
    "P01_01_0,P01,P01_01,00:00:00.14,00:00:03.37,open,door\n"
    "P01_01_1,P01,P01_01,01:02:03.5,01:02:04,take,cup\n"
)
EXPECTED = {
    "charades": [("abc", "c092", 11.9, 21.2), ("abc", "c147", 0, 12.6), ("xyz", "c001", 1, 2)],
    "activitynet": [("abc", "Surfing", 0.5, 12.25), ("abc", "Rowing", 14, 20)],
    "ava-kinetics": [
        ("abc", None, 900.5, 903.5),
        ("abc", None, 901.5, 904.5),
        ("xyz", "5", 0, 2.5),
    ],
    "epic-kitchens": [("P01_01", "open", 0.14, 3.37), ("P01_01", "take", 3723.5, 3724)],
}
CONTENT = {
    "charades": CHARADES,
    "activitynet": json.dumps(ACTIVITYNET),
    "ava-kinetics": AVA,
    "epic-kitchens": EPIC,
}


@pytest.fixture
def root(tmp_path):
    clips = tmp_path / "clips"
    (clips / "deeper").mkdir(parents=True)
    for name in ("abc.mp4", "deeper/v_xyz.mkv", "deeper/P01_01.MP4"):
        (clips / name).touch()
    return tmp_path


def built(root, layout, content=None, **more):
    (root / "annotations").write_text(content or CONTENT[layout])
    given = {"segments": True} | more
    return build_manifest(
        layout=layout,
        clips=str(root / "clips"),
        annotations=str(root / "annotations"),
        labels_from=0 if layout == "ava-kinetics" and given["segments"] else None,
        **given,
    )


def rows_of(table):
    names = ("video_id", "label", "start_time", "end_time")
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


@pytest.mark.parametrize("layout", SEGMENT_READERS)
def test_each_action_is_a_row_of_its_part_of_the_file(root, layout):
    table = built(root, layout)
    assert rows_of(table) == EXPECTED[layout]
    url = str(root / "clips.parquet")
    write_manifest(mark_segments(table), url)
    assert read_manifest(url).segments
    assert layout in LAYOUTS


def test_files_are_found_wherever_they_are_and_absent_ones_expected(root):
    assert set(built(root, "epic-kitchens")["path"].to_pylist()) == {"deeper/P01_01.MP4"}
    assert built(root, "charades")["path"].to_pylist() == ["abc.mp4", "abc.mp4", "xyz.mp4"]
    assert built(root, "activitynet")["split"].to_pylist() == ["validation"] * 2


def test_further_columns_tell_what_else_is_annotated(root):
    assert built(root, "epic-kitchens")["noun"].to_pylist() == ["door", "cup"]
    assert built(root, "ava-kinetics")["labels"].to_pylist() == ["12;17", None, "5"]


@pytest.mark.parametrize("layout", ["charades", "activitynet", "ava-kinetics"])
def test_without_segments_a_video_is_one_row(root, layout):
    content = CONTENT[layout].replace(",5,1", ",,")
    table = built(root, layout, content, segments=False)
    assert len(set(table["path"].to_pylist())) == table.num_rows
    assert set(table["start_time"].to_pylist()) == {None}


def test_a_layout_of_segments_alone_asks_for_them(root):
    with pytest.raises(ManifestError, match=r"epic-kitchens: its rows are segments .*--segments"):
        built(root, "epic-kitchens", segments=False)


@pytest.mark.parametrize(
    ("layout", "old", "new", "told"),
    [
        ("charades", "11.90 21.20", "11.90", "line 2: a segment is '11.90'"),
        ("charades", "11.90 21.20", "21.90 21.20", "21.90 to 21.20"),
        ("charades", "11.90 21.20", "-1 21.20", "-1 to 21.20"),
        ("charades", "11.90 21.20", "nan inf", "nan to inf"),
        ("activitynet", "[14, 20]", "[14]", "video 'abc': a segment is '14'"),
        ("activitynet", "[14, 20]", "[14, null]", "14 to None"),
        ("activitynet", "[14, 20]", "7", "expected one with a label and a segment"),
        ("epic-kitchens", "00:00:03.37", "3:x", "00:00:00.14 to 3:x"),
        ("epic-kitchens", "stop_timestamp", "stop", "no column stop_timestamp"),
        ("ava-kinetics", "0903", "soon", "line 3"),
    ],
)
def test_what_is_no_segment_is_named_with_its_line(root, layout, old, new, told):
    with pytest.raises(ManifestError) as caught:
        built(root, layout, CONTENT[layout].replace(old, new))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_segments_that_are_new_are_appended_and_known_ones_are_not(root):
    url = str(root / "clips.parquet")
    write_manifest(mark_segments(built(root, "charades")), url)
    longer = CHARADES.replace("c001 1 2", "c001 1 2;c002 1 2;c001 5 6") + "abc,X,c092 11.90 21.20\n"
    table = append_clips(read_manifest(url), mark_segments(built(root, "charades", longer)))
    assert rows_of(table) == [
        *EXPECTED["charades"],
        ("xyz", "c002", 1, 2),
        ("xyz", "c001", 5, 6),
    ]
