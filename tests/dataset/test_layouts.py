"""Layouts to rows in a fixed order, nothing outside the root, and what is wrong by its line."""

import os
import zipfile

import fsspec
import pytest

from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.errors import ManifestError
from tests.dataset.text_files import text_file

HEADER = "label,youtube_id,time_start,time_end,split\n"


CSV = HEADER + (
    "archery,zzzzzzzzzzz,5,15,validate\n"
    '"playing ""ü"", loud",-_aaaaaaaaa,0,10,train\n'
    "archery,missing0000,100,110,validate\n"
)


def test_kinetics_keeps_the_csvs_order_and_finds_files_anywhere(root, tmp_path):
    table = build_manifest(
        layout="kinetics", clips=str(root), annotations=text_file(tmp_path, "a.csv", CSV)
    )
    assert table.to_pydict() == {
        "video_id": ["zzzzzzzzzzz", "-_aaaaaaaaa", "missing0000"],
        "path": [
            "zzzzzzzzzzz_000005_000015.mkv",
            "train/playing ü/-_aaaaaaaaa_000000_000010.webm",
            "missing0000_000100_000110.mp4",
        ],
        "label": ["archery", 'playing "ü", loud', "archery"],
        "start_time": [5.0, 0.0, 100.0],
        "end_time": [15.0, 10.0, 110.0],
        "split": ["validate", "train", "validate"],
    }


def test_kinetics_split_filters_rows(root, tmp_path):
    annotations = text_file(tmp_path, "a.csv", "\ufeff" + CSV)
    table = build_manifest(
        layout="kinetics", clips=str(root), annotations=annotations, split="validate"
    )
    assert table["video_id"].to_pylist() == ["zzzzzzzzzzz", "missing0000"]
    with pytest.raises(ManifestError, match="no clip of split 'test'"):
        build_manifest(layout="kinetics", clips=str(root), annotations=annotations, split="test")


def test_folders_are_classes_and_sorted(root):
    table = build_manifest(layout="folders", clips=str(root))
    assert table["path"].to_pylist() == [
        "a 'class' \"ü\"/10.avi",
        "a 'class' \"ü\"/below/9.mov",
        "b class/1.MP4",
        "b class/2.mp4",
        "train/playing ü/-_aaaaaaaaa_000000_000010.webm",
    ]
    assert table["label"].to_pylist()[:3] == ["a 'class' \"ü\""] * 2 + ["b class"]
    assert table["start_time"].null_count == 5


def test_list_lines(root, tmp_path):
    text = (
        "# comment\n\n"
        "b class/2.mp4 7\n"
        "b class/1.MP4\tplaying ü, loud\n"
        "b class/1.MP4\r\n"
        "gone.mp4 -1\n"
        "my clip.mp4\t\n"
    )
    table = build_manifest(
        layout="list", clips=str(root), annotations=text_file(tmp_path, "list.txt", text)
    )
    assert list(zip(table["path"].to_pylist(), table["label"].to_pylist(), strict=True)) == [
        ("b class/2.mp4", "7"),
        ("b class/1.MP4", "playing ü, loud"),
        ("b class/1.MP4", None),
        ("gone.mp4", "-1"),
        ("my clip.mp4", None),
    ]


def test_files_of_a_folder_a_glob_and_one_file(root):
    assert build_manifest(layout="files", clips=str(root)).num_rows == 6
    glob = build_manifest(layout="files", clips=f"{root}/b class/*.mp4")
    assert glob["path"].to_pylist() == ["2.mp4"]
    everywhere = build_manifest(layout="files", clips=f"{root}/**/*.m*")
    assert everywhere["path"].to_pylist()[0] == "a 'class' \"ü\"/below/9.mov"
    one = build_manifest(layout="files", clips=str(root / "notes.txt"))
    assert one["path"].to_pylist() == ["notes.txt"]
    assert one["label"].to_pylist() == [None]
    assert one.schema.metadata[b"staa.root"] == f"file://{root}".encode()


def test_another_filesystem(tmp_path):
    filesystem = fsspec.filesystem("memory")
    for name in ("b/1.mp4", "a/2.mp4"):
        filesystem.pipe(f"/manifest/{name}", b"")
    table = build_manifest(layout="folders", clips="memory://manifest")
    write_manifest(table, "memory://out/deep/m.parquet")
    manifest = read_manifest("memory://out/deep/m.parquet")
    assert (manifest.root, manifest.layout, manifest.n_rows) == ("memory:///manifest", "folders", 2)
    assert manifest.rows(0, 2)["path"].to_pylist() == ["a/2.mp4", "b/1.mp4"]
    assert manifest.distinct_labels() == [("a", 0), ("b", 1)]


@pytest.mark.parametrize("path", ["../secret.mp4", "a/../../secret.mp4", "/etc/passwd.mp4"])
def test_an_escape_is_refused_when_built(root, tmp_path, path):
    annotations = text_file(tmp_path, "list.txt", f"{path} 1\n")
    with pytest.raises(ManifestError, match="below the root"):
        build_manifest(layout="list", clips=str(root), annotations=annotations)
    csv = text_file(tmp_path, "a.csv", HEADER + f"x,{path.removesuffix('.mp4')},0,10,train\n")
    with pytest.raises(ManifestError, match="below the root"):
        build_manifest(layout="kinetics", clips=str(root), annotations=csv)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "ucf"}, "'ucf': expected one of kinetics, folders, list, files"),
        ({"layout": "kinetics"}, "annotations is None, expected the URL"),
        ({"layout": "folders", "annotations": "a.csv"}, "expected none"),
        ({"layout": "folders", "split": "train"}, "split is 'train'"),
        ({"layout": "folders", "clips": "{tmp}/absent"}, "absent is not a folder"),
        ({"layout": "files", "clips": "{tmp}/absent.mp4"}, "nothing at .*absent.mp4"),
        ({"layout": "files", "clips": "{tmp}/*.mp4"}, "no clip in"),
        ({"layout": "files", "clips": "nonesuch://x"}, "no access to nonesuch://x"),
        ({"layout": "kinetics", "annotations": "{tmp}/none.csv"}, "can't read .*none.csv"),
    ],
)
def test_what_is_asked_wrongly_is_named(root, tmp_path, arguments, message):
    arguments = {key: value.format(tmp=tmp_path) for key, value in arguments.items()}
    with pytest.raises(ManifestError, match=message) as caught:
        build_manifest(**{"clips": str(root)} | arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,youtube_id\n", "no column time_start, time_end, split; expected a header"),
        ("", "no column label"),
        (HEADER, "no clip in"),
        (HEADER + "a,b\n", "line 2: expected one value a column"),
        (HEADER + "a,b,0,1,train,more\n", "line 2: expected one value a column"),
        (HEADER + "a,,0,1,train\n", "youtube_id not empty"),
        (HEADER + "a,b,zero,1,train\n", "line 2: times are 'zero' and '1'"),
        (HEADER + "a,b,0,inf,train\n", "times are '0' and 'inf'"),
    ],
)
def test_a_malformed_csv_is_named_with_its_line(root, tmp_path, text, message):
    annotations = text_file(tmp_path, "a.csv", text)
    with pytest.raises(ManifestError, match=message):
        build_manifest(layout="kinetics", clips=str(root), annotations=annotations)


def test_a_malformed_list_is_named_with_its_line(root, tmp_path):
    annotations = text_file(tmp_path, "list.txt", "a.mp4 1\n\tlabel\n")
    with pytest.raises(ManifestError, match="line 2"):
        build_manifest(layout="list", clips=str(root), annotations=annotations)
    (tmp_path / "latin.txt").write_bytes(b"\xfcber.mp4 1\n")
    with pytest.raises(ManifestError, match="UTF-8"):
        build_manifest(layout="list", clips=str(root), annotations=str(tmp_path / "latin.txt"))


def test_a_name_that_is_no_text_is_named(tmp_path):
    (tmp_path / os.fsdecode(b"bad\xff.mp4")).write_bytes(b"")
    with pytest.raises(ManifestError, match=r"bad.*expected names in UTF-8"):
        build_manifest(layout="files", clips=str(tmp_path))


def test_a_quote_that_never_ends_is_told(root, tmp_path):
    annotations = text_file(tmp_path, "a.csv", HEADER + '"archery,' + "x" * 200_000)
    with pytest.raises(ManifestError, match=r"a\.csv is not CSV"):
        build_manifest(layout="kinetics", clips=str(root), annotations=annotations)


def test_a_root_that_workers_could_not_find_again_is_refused(root, tmp_path):
    archive = tmp_path / "clips.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("folder/a.mp4", b"")
    with pytest.raises(ManifestError, match="can't be found again"):
        build_manifest(layout="files", clips=f"zip://folder::file://{archive}")
