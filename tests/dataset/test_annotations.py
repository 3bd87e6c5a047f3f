"""Annotation files as people have them: understood, or refused with the line and what was meant."""

import json
from collections import Counter
from pathlib import Path

import pytest

from pipeline.dataset.layouts import Census, append_clips, build_manifest, moved_clips, read_dataset
from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.errors import ManifestError

CASES = Path(__file__).parents[2].parent / "shared" / "cases"
UCF = ("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", "YoYo/v_YoYo_g01_c01.avi")
RHYTHM = "#20_Rhythm_clap_u_nm_np1_fr_goo_1.avi"


@pytest.fixture
def make(tmp_path):
    """Makes files below `clips`, and an annotation file; gives arguments for both."""

    def make(*names, text=None, name="annotations.txt"):
        for path in (tmp_path / "clips" / name for name in names):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (tmp_path / "clips").mkdir(exist_ok=True)
        arguments = {"clips": str(tmp_path / "clips")}
        if text is not None:
            content = text if isinstance(text, str) else json.dumps(text)
            (tmp_path / name).write_text(content, encoding="utf-8")
            arguments["annotations"] = str(tmp_path / name)
        return arguments

    return make


def rows(table, *columns):
    return list(zip(*(table[column].to_pylist() for column in columns), strict=True))


LINES = {
    f"{UCF[1]} 0": (UCF[1], "0"),
    f"{UCF[1]}\t0": (UCF[1], "0"),
    f"{UCF[1]},3": (UCF[1], "3"),
    f"{UCF[1]}, riding a bike": (UCF[1], "riding a bike"),
    f"{UCF[1]};riding a bike": (UCF[1], "riding a bike"),
    f"{UCF[1]} riding a bike": (UCF[1], "riding a bike"),
    f"{UCF[1]}   ride, bike": (UCF[1], "ride, bike"),
    "gone.mp4 0": ("gone.mp4", "0"),
    "a b, c.mp4 0": ("a b, c.mp4", "0"),
    "my clip.mp4 copy.mp4 0": ("my clip.mp4 copy.mp4", "0"),
    "there.mp4 x.mp4 0": ("there.mp4", "x.mp4 0"),
    "there": ("there", None),
    "there 0": ("there", "0"),
    f"{RHYTHM} 0": (RHYTHM, "0"),
    f"clap/{RHYTHM}": (f"clap/{RHYTHM}", None),
}


@pytest.mark.parametrize(("line", "expected"), LINES.items(), ids=LINES)
def test_a_line_of_a_list_is_a_path_and_a_label(make, line, expected):
    arguments = make(*UCF, "there.mp4", "there", RHYTHM, text=f"zero.mp4 0\n{line}\n")
    table = build_manifest(layout="list", **arguments)
    assert rows(table, "path", "label") == [("zero.mp4", "0"), expected]


NO_LINES = {
    "path,label": "a table with a header is read by --layout table",
    '[{"id": "78687", "label": "holding"}]': "this is JSON",
    '{"path": "a.mp4", "label": 3}': "this is JSON",
    "-3B32lodo2M 0": "",
    "v_YoYo_g01_c01 5": "",
    "no/suffix": "",
    f"{UCF[1]} 0 3 5": "",
    f"{UCF[1]} 0,3": "",
    f'"{UCF[1]}",3': "",
    "some/folder 163 1": "",
    "\tlabel": "",
    "a.mp4\tb\tc": "",
}


@pytest.mark.parametrize(("line", "hint"), NO_LINES.items(), ids=NO_LINES)
def test_what_is_no_line_of_a_list_is_told_with_what_was_expected(make, line, hint):
    arguments = make(*UCF, text=f"{UCF[0]} 0\n{line}\n")
    with pytest.raises(ManifestError, match=r"line 2: .*expected a path and one label") as caught:
        build_manifest(layout="list", **arguments)
    assert hint in str(caught.value)
    assert len(str(caught.value).removeprefix(arguments["annotations"])) < 300


def test_a_line_that_begins_with_a_mark_is_a_comment_unless_it_names_a_file(make):
    text = f"# of clapping\n{RHYTHM} 0\n#gone.avi 0\nclap.avi 0\n"
    dataset = read_dataset(layout="list", **make(RHYTHM, text=text))
    (table,) = dataset.pieces
    assert table["path"].to_pylist() == [RHYTHM, "clap.avi"]
    assert dataset.n_comments == 2


def test_absolute_paths_below_the_root_are_accepted_and_others_are_not(make, tmp_path):
    clips = tmp_path / "clips"
    text = f"{clips}/{UCF[0]} 0\nfile://{clips}/{UCF[1]} 1\n"
    table = build_manifest(layout="list", **make(*UCF, text=text))
    assert table["path"].to_pylist() == list(UCF)
    for path in (f"{tmp_path}/elsewhere/a.mp4", f"{clips}x/a.mp4", "s3://bucket/a.mp4"):
        with pytest.raises(ManifestError, match="expected a path below the root"):
            build_manifest(layout="list", **make(text=f"{path} 0\n"))


@pytest.mark.parametrize("layout", ["list", "folders", "table"])
def test_labels_that_may_count_from_1_are_asked_for(make, layout):
    arguments = make("1/a.mp4", "3/b.mp4")
    if layout != "folders":
        separator = "," if layout == "table" else " "
        header = "path,label\n" if layout == "table" else ""
        arguments = make(text=f"{header}1/a.mp4{separator}1\n3/b.mp4{separator}3\n")
    with pytest.raises(ManifestError, match="from 1 to 3, none is 0: expected --labels-from 1"):
        build_manifest(layout=layout, **arguments)
    for labels_from, expected in {0: ["1", "3"], 1: ["0", "2"]}.items():
        table = build_manifest(layout=layout, labels_from=labels_from, **arguments)
        assert table["label"].to_pylist() == expected


def test_labels_that_count_from_0_or_are_names_are_not_asked_for(make):
    assert build_manifest(layout="list", **make(text="a.mp4 0\nb.mp4 2\n")).num_rows == 2
    assert build_manifest(layout="list", **make(text="a.mp4 1\nb.mp4 two\n")).num_rows == 2
    with pytest.raises(ManifestError, match="the lowest label is 0"):
        build_manifest(layout="list", labels_from=1, **make(text="a.mp4 0\nb.mp4 2\n"))
    with pytest.raises(ManifestError, match="label 'two' is in the data"):
        build_manifest(layout="list", labels_from=1, **make(text="a.mp4 1\nb.mp4 two\n"))


KINETICS = "label,youtube_id,time_start,time_end,split\n"


def test_kinetics_test_lists_and_trimmed_names(make):
    text = (
        "youtube_id,time_start,time_end,split\n"
        "---QUuC4vJs,84,94,test\n-3B32lodo2M,59,69,test\nabc,1,11,test\ntwice,1,11,test\n"
        "twice,20,30,test\n"
    )
    names = ("---QUuC4vJs_000084_000094.mp4", "x/-3B32lodo2M_59_69.mp4", "abc.webm", "twice.mp4")
    table = build_manifest(layout="kinetics", **make(*names, text=text))
    assert table["path"].to_pylist() == [
        *names[:3],
        # Which part of the video the file is isn't known.
        "twice_000001_000011.mp4",
        "twice_000020_000030.mp4",
    ]
    assert table["label"].to_pylist() == [None] * 5


def test_split_folders_are_no_classes(make):
    names = ("train/jump/a.mp4", "train/run/deep/b.mp4", "val/run/c.mp4", "test/d.mp4", "e/f.mp4")
    table = build_manifest(layout="folders", **make(*names))
    assert rows(table, "path", "label", "split") == [
        ("e/f.mp4", "e", None),
        # Files lie in it directly: a class of that name.
        ("test/d.mp4", "test", None),
        ("train/jump/a.mp4", "jump", "train"),
        ("train/run/deep/b.mp4", "run", "train"),
        ("val/run/c.mp4", "run", "val"),
    ]


def census(dataset):
    """What is found of a dataset, and its pieces."""
    counting = Census(dataset)
    pieces = list(counting.counted(dataset.pieces))
    return counting.found, pieces


@pytest.mark.parametrize("layout", ["folders", "files"])
def test_hidden_files_are_passed_over(make, layout):
    names = ("run/a.mp4", "run/._a.mp4", ".trash/b.mp4", "run/.DS_Store", "run/...c.mp4")
    dataset = read_dataset(layout=layout, **make(*names))
    found, (table,) = census(dataset)
    assert table["path"].to_pylist() == ["run/a.mp4"]
    assert found.n_hidden == 4


def test_ucf101(make):
    text = f"{UCF[0]} 1\n{UCF[1]} 101\n"
    table = build_manifest(layout="ucf101", **make(UCF[0], "flat/v_YoYo_g01_c01.avi", text=text))
    assert rows(table, "path", "label") == [
        (UCF[0], "ApplyEyeMakeup"),
        ("flat/v_YoYo_g01_c01.avi", "YoYo"),
    ]
    table = build_manifest(layout="ucf101", **make(text="".join(f"{path}\n" for path in UCF)))
    assert table["label"].to_pylist() == ["ApplyEyeMakeup", "YoYo"]
    for text in ("v_YoYo_g01_c01.avi 1", f"{UCF[0]} one", f"{UCF[0]} 1 2", "a/b 1", "{}"):
        with pytest.raises(ManifestError, match=r"line 1: .*expected <class>/<file>"):
            build_manifest(layout="ucf101", **make(text=text))


def test_hmdb51(make, tmp_path):
    splits = tmp_path / "splits"
    splits.mkdir()
    (splits / "clap_test_split1.txt").write_text(f"{RHYTHM} 1 \nb_clap.avi 0 \n")
    (splits / "ride_bike_test_split1.txt").write_text("(Rad)Schlag_ride_bike.avi 2 \n")
    arguments = make(f"clap/{RHYTHM}", "b_clap.avi") | {"annotations": str(splits)}
    table = build_manifest(layout="hmdb51", **arguments)
    assert rows(table, "path", "label", "split") == [
        (f"clap/{RHYTHM}", "clap", "train"),
        ("b_clap.avi", "clap", None),
        ("ride_bike/(Rad)Schlag_ride_bike.avi", "ride_bike", "test"),
    ]
    test = build_manifest(layout="hmdb51", split="test", **arguments)
    assert test["label"].to_pylist() == ["ride_bike"]
    (splits / "clap_test_split2.txt").write_text(f"{RHYTHM} 2 \n")
    with pytest.raises(ManifestError, match=r"splits 1, 2, .*expected one, .*/\*_split1\.txt"):
        build_manifest(layout="hmdb51", **arguments)
    one = arguments | {"annotations": f"{splits}/*_split2.txt"}
    assert build_manifest(layout="hmdb51", **one)["split"].to_pylist() == ["test"]
    with pytest.raises(ManifestError, match="is named <class>_test_split<n>"):
        build_manifest(layout="hmdb51", **make(text="a.avi 1\n"))


def test_something_something(make):
    entries = [
        {
            "id": "78687",
            "label": "holding potato next to bottle",
            "template": "Holding [something] next to [something]",
            "placeholders": ["potato", "bottle"],
        },
        {"id": "42"},
    ]
    table = build_manifest(layout="ssv2", **make("78687.webm", "x/42.mp4", text=entries))
    assert rows(table, "video_id", "path", "label") == [
        ("78687", "78687.webm", "Holding something next to something"),
        ("42", "x/42.mp4", None),
    ]
    for wrong in ({}, [[]], [{"label": "x"}], [{"id": "1", "template": 3}], [{"id": None}], "["):
        with pytest.raises(ManifestError, match=r"layout ssv2: .*(expected|is not JSON)"):
            build_manifest(layout="ssv2", **make(text=wrong))


def test_charades(make):
    text = (
        "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
        '46GP8,HR43,Room,6,7,Yes,"A person, cooking",y,x,c092 11.90 21.20;c147 0.00 12.60,24\n'
        "N11GT,0KZ7,Room,5,7,Yes,y,z,x,c000 1.00 2.00;c000 3.00 4.00,18\n"
        "EMPTY,0KZ7,Room,5,7,Yes,y,z,x,,18\n"
    )
    table = build_manifest(layout="charades", **make("46GP8.mp4", text=text))
    assert rows(table, "path", "label", "labels") == [
        ("46GP8.mp4", None, "c092;c147"),
        ("N11GT.mp4", "c000", "c000"),
        ("EMPTY.mp4", None, None),
    ]
    with pytest.raises(ManifestError, match=r"line 2: action 'c092 11.90'|action c092 11.90"):
        build_manifest(layout="charades", **make(text="id,actions\na,c092 11.90\n"))


def test_activitynet(make):
    content = {
        "version": "1.3",
        "database": {
            "QOlSCBRmfWY": {
                "duration": 82.73,
                "subset": "training",
                "annotations": [{"segment": [6.1, 19.9], "label": "Ballet"}],
            },
            "sJFgo9H6zNo": {
                "subset": "validation",
                "annotations": [{"label": "Ballet"}, {"label": "Tango"}],
            },
            "test": {"subset": "testing", "annotations": []},
        },
    }
    arguments = make("v_QOlSCBRmfWY.mp4", "sJFgo9H6zNo.mkv", text=content)
    table = build_manifest(layout="activitynet", **arguments)
    assert rows(table, "video_id", "path", "label", "split", "labels") == [
        ("QOlSCBRmfWY", "v_QOlSCBRmfWY.mp4", "Ballet", "training", "Ballet"),
        ("sJFgo9H6zNo", "sJFgo9H6zNo.mkv", None, "validation", "Ballet;Tango"),
        ("test", "v_test.mp4", None, "testing", None),
    ]
    assert build_manifest(layout="activitynet", split="testing", **arguments).num_rows == 1
    for database in ([], {"a": 1}, {"a": {"annotations": 3}}, {"a": {"annotations": [{}]}}, None):
        with pytest.raises(ManifestError, match="layout activitynet"):
            build_manifest(layout="activitynet", **make(text={"database": database}))


def test_ava_kinetics(make):
    text = (
        "-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1\n"
        "-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,9,1\n"
        "-5KQ66BBWC4,0903,0.077,0.151,0.283,0.811,9,1\n"
        "zz,0001\n"
    )
    table = build_manifest(layout="ava-kinetics", **make("-5KQ66BBWC4.mkv", text=text))
    assert rows(table, "path", "label", "labels") == [
        ("-5KQ66BBWC4.mkv", None, "80;9"),
        ("zz.mp4", None, None),
    ]
    with pytest.raises(ManifestError, match=r"line 1: .*expected video, time, box"):
        build_manifest(layout="ava-kinetics", **make(text="a,b,c\n"))


def test_what_was_found_is_told(make):
    text = "".join(f"{name} 0\n" for name in ("a.mp4", "b.mp4", "g1.mp4", "g2.mp4", "g3.mp4"))
    text += "g4.mp4 0\n# note\n"
    names = ("a.mp4", "b.mp4", "c.mp4", "d.gif", "e.gif", "f.txt", "._a.mp4")
    dataset = read_dataset(layout="list", **make(*names, text=text))
    found, _ = census(dataset)
    assert str(found) == (
        "6 rows, 2 files found, 4 missing (g1.mp4, g2.mp4, g3.mp4, ...), 1 files not used, "
        "3 passed over for their suffix (.gif 2, .txt 1), 1 hidden files passed over, "
        "1 lines passed over that begin with #"
    )
    assert found.passed_over == Counter({".gif": 2, ".txt": 1})
    assert (found.n_unread_videos, found.is_remarkable) == (2, True)


def test_a_clean_dataset_is_not_remarkable(make):
    dataset = read_dataset(layout="files", **make("a.mp4"))
    assert not census(dataset)[0].is_remarkable


def test_further_columns_are_carried_along_when_clips_are_appended(make, tmp_path):
    text = "path,label,source,n\na.mp4,0,home,5\n"
    old_url = str(tmp_path / "old.parquet")
    write_manifest(build_manifest(layout="table", **make(text=text)), old_url)
    table = build_manifest(layout="table", **make(text=text + "b.mp4,1,work,6\n"))
    both = append_clips(read_manifest(old_url), table)
    assert rows(both, "path", "label", "source", "n") == [
        ("a.mp4", "0", "home", "5"),
        ("b.mp4", "1", "work", "6"),
    ]
    write_manifest(both, old_url)
    assert read_manifest(old_url).n_rows == 2


ACTIVITYNET = """{"database": {
    "a": {"subset": "training", "annotations": [{"label": "x", "segment": [0, 1]}]},
    "b": {"subset": "training", "annotations": [{"label": "y", "segment": [0, 1]}]}
}}"""
LATER = {
    "kinetics": (
        "label,youtube_id,time_start,time_end,split\nx,a,1,11,t\nx,b,2,12,t\n",
        ("a_000001_000011.mp4",),
        "new/b_2_12.mkv",
    ),
    "ssv2": ('[{"id": "1", "template": "x"}, {"id": 2}]', ("1.webm",), "new/2.mp4"),
    "charades": ("id,actions\na,c001 0 1\nb,\n", ("a.mp4",), "new/b.mkv"),
    "activitynet": (ACTIVITYNET, ("v_a.mp4",), "v_b.mkv"),
    "ava-kinetics": ("a,1\nb,2\n", ("a.mp4",), "b.webm"),
    "ucf101": ("X/a.avi 1\nY/a.avi 2\n", ("X/a.avi", "X/b.avi"), "new/Y/c.avi"),
    "list": ("X/a.mp4 0\nY/a.mp4 1\n", ("X/a.mp4",), "Y/a.mp4"),
    "table": ("path,label\nX/a.mp4,0\nY/a.mp4,1\n", ("X/a.mp4",), "Y/a.mp4"),
}


@pytest.mark.parametrize("layout", LATER)
def test_an_annotated_clip_whose_file_comes_later_is_not_new(make, tmp_path, layout):
    text, names, later = LATER[layout]
    old_url = str(tmp_path / "old.parquet")
    given = make(*names, text=text)
    first = build_manifest(layout=layout, **given)
    write_manifest(first, old_url)
    old = read_manifest(old_url)
    now = build_manifest(layout=layout, **make(later, text=text))
    assert append_clips(old, now).equals(first)
    expected = first["path"][1].as_py()
    is_moved = now["path"][1].as_py() != expected
    assert is_moved == (layout not in ("ucf101", "list", "table"))
    assert moved_clips(old, now) == ({expected: later} if is_moved else {})


@pytest.mark.parametrize(
    ("layout", "text", "more"),
    [
        ("list", "X/a.mp4 0\n", "Y/a.mp4 1\n"),
        ("ucf101", "X/a.avi 1\n", "Y/a.avi 2\n"),
        ("table", "path,label,video_id\nX/a.mp4,0,v\n", "Y/a.mp4,1,v\n"),
    ],
)
def test_files_of_one_name_in_two_folders_are_two_clips(make, tmp_path, layout, text, more):
    old_url = str(tmp_path / "old.parquet")
    write_manifest(build_manifest(layout=layout, **make("X/a.mp4", text=text)), old_url)
    table = build_manifest(layout=layout, **make("Y/a.mp4", text=text + more))
    assert append_clips(read_manifest(old_url), table).num_rows == 2


@pytest.mark.parametrize("layout", ["ucf101", "hmdb51"])
def test_a_named_file_that_moves_is_not_new(make, tmp_path, layout):
    text = "X/a.avi 1\n" if layout == "ucf101" else "a.avi 1\n"
    old_url = str(tmp_path / "old.parquet")

    def built(*names):
        given = make(*names, text=text)
        if layout == "hmdb51":
            split = tmp_path / "X_test_split1.txt"
            split.write_text(text)
            given["annotations"] = str(split)
        return build_manifest(layout=layout, **given)

    write_manifest(built(), old_url)
    now = built("videos/a.avi")
    old = read_manifest(old_url)
    assert append_clips(old, now).num_rows == 1
    assert moved_clips(old, now) == {"X/a.avi": "videos/a.avi"}


@pytest.mark.skipif(not CASES.exists(), reason="the cases are kept outside of the repository")
@pytest.mark.parametrize("case", sorted(path.name for path in CASES.glob("list_*")))
def test_lists_of_other_kinds_are_understood_or_refused(tmp_path, case):
    arguments = {"clips": str(tmp_path), "annotations": str(CASES / case)}
    if case in ("list_comma.csv", "list_spaces.txt"):
        table = build_manifest(layout="list", **arguments)
        assert all(path.endswith(".avi") for path in table["path"].to_pylist())
    else:
        with pytest.raises(ManifestError, match=f"{case} line 1: .*expected a path and one label"):
            build_manifest(layout="list", **arguments)
