"""Layouts to rows in a fixed order, nothing outside the root, and a digest of the values alone."""

import os
import pickle
import posixpath
import zipfile

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import SCHEMA, mark_segments, read_manifest, write_manifest
from pipeline.errors import ManifestChangedError, ManifestError

HEADER = "label,youtube_id,time_start,time_end,split\n"
CSV = HEADER + (
    "archery,zzzzzzzzzzz,5,15,validate\n"
    '"playing ""ü"", loud",-_aaaaaaaaa,0,10,train\n'
    "archery,missing0000,100,110,validate\n"
)


@pytest.fixture
def root(tmp_path):
    """A folder of clips, flat, in class folders, and with awkward names."""
    for name in (
        "zzzzzzzzzzz_000005_000015.mkv",
        "train/playing ü/-_aaaaaaaaa_000000_000010.webm",
        "b class/2.mp4",
        "b class/1.MP4",
        "a 'class' \"ü\"/10.avi",
        "a 'class' \"ü\"/below/9.mov",
        "notes.txt",
    ):
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "clips"


def text_file(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


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
        "no/suffix 3\n"
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
        ("no/suffix 3", None),
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


def many_rows(root, tmp_path, n_rows=1000, changed=None):
    labels = [str(row % 7) for row in range(n_rows)]
    if changed is not None:
        labels[changed] = "other"
    text = "".join(f"{row}.mp4\t{label}\n" for row, label in enumerate(labels))
    return build_manifest(
        layout="list", clips=str(root), annotations=text_file(tmp_path, "list.txt", text)
    )


def test_rows_read_only_the_row_groups_needed(root, tmp_path, monkeypatch):
    table = many_rows(root, tmp_path)
    url = str(tmp_path / "m.parquet")
    write_manifest(table, url, rows_per_group=64)
    manifest = pickle.loads(pickle.dumps(read_manifest(url)))
    assert len(pickle.dumps(manifest)) < 1000
    for start, stop in [(0, 1000), (0, 0), (63, 65), (64, 128), (999, 1000), (1000, 1000)]:
        assert manifest.rows(start, stop).equals(table.slice(start, stop - start))
    read = []
    original = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_groups",
        lambda self, groups, **kwargs: read.extend(groups) or original(self, groups, **kwargs),
    )
    manifest.rows(130, 200)
    assert read == [2, 3]
    with pytest.raises(ManifestError, match="0 to 1000"):
        manifest.rows(0, 1001)


def test_distinct_labels_have_their_first_rows(root, tmp_path):
    url = str(tmp_path / "m.parquet")
    write_manifest(many_rows(root, tmp_path, changed=500), url, rows_per_group=64)
    expected = [(str(row), row) for row in range(7)] + [("other", 500)]
    assert read_manifest(url).distinct_labels() == expected


def test_digest_is_of_the_values_alone(root, tmp_path):
    def digest(table, name, **options):
        write_manifest(table, str(tmp_path / name), **options)
        return read_manifest(str(tmp_path / name)).digest

    table = many_rows(root, tmp_path)
    first = digest(table, "a.parquet")
    assert digest(table, "b.parquet", rows_per_group=10) == first
    moved = table.replace_schema_metadata(
        dict(table.schema.metadata) | {b"staa.root": b"s3://elsewhere"}
    )
    assert digest(moved, "c.parquet") == first
    assert digest(table.slice(0, 999), "d.parquet") != first
    assert digest(table.take(list(reversed(range(1000)))), "e.parquet") != first
    assert digest(many_rows(root, tmp_path, changed=500), "f.parquet") != first


def turned(table):
    """The same values in each column, in another order: sizes and statistics are the same."""
    rows = table.to_pylist()
    rows[0]["label"], rows[1]["label"] = rows[1]["label"], rows[0]["label"]
    return pa.Table.from_pylist(rows, table.schema)


CHANGES = {
    "a row in front": lambda table: pa.concat_tables([table.slice(5, 1), table]),
    "rows at the end": lambda table: pa.concat_tables([table, table.slice(0, 3)]),
    "two labels exchanged": turned,
    "another root": lambda table: table.replace_schema_metadata(
        dict(table.schema.metadata) | {b"staa.root": b"s3://elsewhere"}
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("n_rows", [7, 1000])
def test_a_file_that_was_written_anew_is_refused_wherever_it_is_opened_again(
    root, tmp_path, change, n_rows
):
    url = str(tmp_path / "m.parquet")
    table = many_rows(root, tmp_path, n_rows)
    write_manifest(table, url, rows_per_group=64)
    manifest = pickle.loads(pickle.dumps(read_manifest(url)))
    write_manifest(change(table), url, rows_per_group=64)
    for read in (
        lambda: manifest.rows(0, 1),
        lambda: manifest.take(np.array([2])),
        manifest.distinct_labels,
        lambda: manifest.digest_of_first(2),
    ):
        with pytest.raises(
            ManifestChangedError, match=f"{url} was changed while the run.*--append"
        ):
            read()
    # What is put back is the same file, also if it was made anew of the same rows.
    write_manifest(table, url, rows_per_group=64)
    assert manifest.rows(0, n_rows).equals(table.replace_schema_metadata(None))


segments = st.sampled_from(["..", ".", "a", "b c", "ü", "", "..."])


@given(
    st.one_of(
        st.lists(segments, min_size=1, max_size=6).map("/".join),
        st.sampled_from(["C:\\a.mp4", "c:/a.mp4", "s3://bucket/a.mp4", "a\\..\\..\\b.mp4"]),
    )
)
def test_a_path_never_leaves_the_root(path):
    # Read from a written file, because anyone may write a Parquet file.
    table = pa.table(
        {name: [path] if name in ("video_id", "path") else [None] for name in SCHEMA.names},
        schema=SCHEMA.with_metadata(
            {"staa.manifest_version": "1", "staa.root": "memory:///x", "staa.layout": "list"}
        ),
    )
    write_manifest(table, "memory://escape.parquet")
    joined = posixpath.normpath(posixpath.join("/base/clips", path.replace("\\", "/")))
    try:
        read_manifest("memory://escape.parquet")
    except ManifestError:
        assert path.startswith("/") or not path or ".." in path or ":" in path
    else:
        assert joined == "/base/clips" or joined.startswith("/base/clips/")
        assert ":" not in path


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


def test_what_is_no_manifest_is_refused(root, tmp_path):
    url = str(tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="can't read"):
        read_manifest(url)
    text_file(tmp_path, "m.parquet", "not parquet at all")
    with pytest.raises(ManifestError, match="not a Parquet file"):
        read_manifest(url)
    pq.write_table(pa.table({"path": ["a.mp4"]}), url)
    with pytest.raises(ManifestError, match="columns are path string; expected video_id string"):
        read_manifest(url)
    table = build_manifest(layout="folders", clips=str(root))
    pq.write_table(table.replace_schema_metadata(None), url)
    with pytest.raises(ManifestError, match=r"no staa\.manifest_version"):
        read_manifest(url)
    pq.write_table(
        table.replace_schema_metadata(
            dict(table.schema.metadata) | {b"staa.manifest_version": b"99"}
        ),
        url,
    )
    with pytest.raises(ManifestError, match="version 99, expected 1"):
        read_manifest(url)
    with pytest.raises(ManifestError, match="columns are"):
        write_manifest(table.select(["path"]), url)


def test_a_damaged_manifest_is_told_as_such(root, tmp_path):
    url = str(tmp_path / "clips.parquet")
    write_manifest(build_manifest(layout="files", clips=str(root)), url)
    whole = (tmp_path / "clips.parquet").read_bytes()
    for damage in (whole[:-9] + b"\xff" + whole[-8:], whole[:4] + b"\xff" * 40 + whole[44:]):
        (tmp_path / "clips.parquet").write_bytes(damage)
        with pytest.raises(ManifestError, match="not a whole one"):
            read_manifest(url)


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


def timed(root, times):
    table = build_manifest(layout="files", clips=str(root)).slice(0, len(times))
    start, end = (pa.array(column, pa.float64()) for column in zip(*times, strict=True))
    table = table.set_column(3, SCHEMA.field("start_time"), start)
    return table.set_column(4, SCHEMA.field("end_time"), end)


def test_a_manifest_says_that_its_rows_are_segments(root, tmp_path):
    table = mark_segments(timed(root, [(0.0, 1.5), (1.5, 2.0)]))
    for name, segments in (("segments", True), ("whole", False)):
        url = str(tmp_path / f"{name}.parquet")
        write_manifest(table if segments else timed(root, [(0.0, 1.5)]), url)
        assert read_manifest(url).segments is segments


@pytest.mark.parametrize("times", [(2.0, 2.0), (None, 2.0), (0.0, None), (-1.0, 2.0), (3.0, 1.0)])
def test_times_that_are_no_segment_are_named_by_their_row(root, times):
    with pytest.raises(ManifestError, match="segments: row 1 is from"):
        mark_segments(timed(root, [(0.0, 1.0), times]))
