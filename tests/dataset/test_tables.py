"""Tables of other programs: as manifests, and as what manifests are made of."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.columns import SCHEMA
from pipeline.dataset.layouts import build_manifest, read_dataset
from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.dataset.row_groups import pieces
from pipeline.dataset.tables import AtOnce
from pipeline.errors import ManifestError

ROWS = {
    "video_id": ["a", "b", "c"],
    "path": ["x/a.mp4", "b.mp4", "c.mp4"],
    "label": ["0", "1", None],
    "start_time": [1.0, None, 3.0],
    "end_time": [11.0, None, 13.0],
    "split": [None, None, None],
}


@pytest.fixture
def clips(tmp_path):
    (tmp_path / "clips" / "x").mkdir(parents=True)
    for path in ROWS["path"]:
        (tmp_path / "clips" / path).touch()
    return tmp_path / "clips"


@pytest.fixture
def url(clips):
    """A manifest as this package writes it."""
    metadata = {"staa.manifest_version": "1", "staa.root": f"file://{clips}", "staa.layout": "list"}
    table = pa.table(ROWS, schema=SCHEMA.with_metadata(metadata))
    write_manifest(table, str(clips / "clips.parquet"))
    return str(clips / "clips.parquet")


def large_strings(table):
    return table.cast(
        pa.schema(
            [
                field.with_type(pa.large_string()) if field.type == pa.string() else field
                for field in table.schema
            ],
            metadata=table.schema.metadata,
        )
    )


def dictionaries(table):
    for place, field in enumerate(table.schema):
        if field.type == pa.string():
            table = table.set_column(place, field.name, table[field.name].dictionary_encode())
    return table


OTHERS = {
    "large strings": large_strings,
    "dictionaries": dictionaries,
    "views": lambda table: table.set_column(1, "path", table["path"].cast(pa.string_view())),
    "another order": lambda table: table.select(list(reversed(table.column_names))),
    "more columns": lambda table: table.append_column("fps", pa.array([25, 30, 24])),
    "no empty columns": lambda table: table.drop_columns(["split"]),
    "columns of null": lambda table: table.set_column(5, "split", pa.nulls(3)),
    "whole numbers": lambda table: table.set_column(2, "label", pa.array([0, 1, None])),
    "numbers with NaN": lambda table: table.set_column(2, "label", pa.array([0.0, 1.0, math.nan])),
    "NaN": lambda table: table.set_column(3, "start_time", pa.array([1.0, math.nan, 3.0])),
    "single precision": lambda table: table.set_column(
        4, "end_time", pa.array([11.0, None, 13.0], pa.float32())
    ),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_a_manifest_of_another_writer_is_the_same_manifest(clips, url, change):
    expected = read_manifest(url)
    pq.write_table(change(pq.read_table(url)), str(clips / "other.parquet"))
    other = read_manifest(str(clips / "other.parquet"))
    assert other.digest == expected.digest
    assert other.root == expected.root
    assert other.rows(0, 3).equals(expected.rows(0, 3))
    assert other.take(np.array([0, 2])).equals(expected.take(np.array([0, 2])))
    assert other.distinct_labels() == expected.distinct_labels()
    with pq.ParquetFile(clips / "other.parquet") as parquet:
        by_row = [piece for _, piece in pieces(parquet, "other", range(3), at_once=1)]
    assert len(by_row) == 3
    assert pa.concat_tables(by_row).equals(expected.rows(0, 3))


def test_a_manifest_that_went_through_pandas_lies_beside_its_clips_or_is_refused(
    clips, url, tmp_path
):
    frame = pd.read_parquet(url)
    frame.to_parquet(clips / "pandas.parquet")
    manifest = read_manifest(str(clips / "pandas.parquet"))
    assert (manifest.root, manifest.digest) == (f"file://{clips}", read_manifest(url).digest)
    frame.to_parquet(tmp_path / "away.parquet")
    with pytest.raises(ManifestError, match=r"no staa.*root.*--layout table takes this"):
        read_manifest(str(tmp_path / "away.parquet"))
    table = build_manifest(
        layout="table", clips=str(clips), annotations=str(tmp_path / "away.parquet")
    )
    assert table.select(SCHEMA.names).to_pydict() == ROWS


WRONG = {
    "no path": (lambda table: table.drop_columns(["path"]), "has no column path; its columns are"),
    "bytes": (
        lambda table: table.set_column(1, "path", pa.array([b"a", b"b", b"c"])),
        "column path is of type binary, expected text",
    ),
    "text for times": (
        lambda table: table.set_column(3, "start_time", pa.array(["1", "2", "3"])),
        "column start_time is of type string, expected numbers of seconds",
    ),
    "no path in a row": (
        lambda table: pa.table(
            table.to_pydict() | {"path": ["a", None, "c"]}
        ).replace_schema_metadata(table.schema.metadata),
        "path of row 1 is null, expected text",
    ),
    "halves of labels": (
        lambda table: table.set_column(2, "label", pa.array([0.0, 1.5, None])),
        "label 1.5 in row 1: expected text or a whole number",
    ),
    "twice": (
        lambda table: table.append_column("label", pa.array(["0", "1", "2"])),
        "column label is there twice",
    ),
    "a list": (
        lambda table: table.set_column(2, "label", pa.array([["0"], ["1"], []])),
        "column label is of type list<.*>, expected text",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_the_difference_that_counts_is_told(url, change, message):
    pq.write_table(change(pq.read_table(url)), url)
    with pytest.raises(ManifestError, match=message):
        read_manifest(url)


def made_of(clips, path, **options):
    return build_manifest(layout="table", clips=str(clips), annotations=str(path), **options)


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_lines_of_a_csv_may_end_otherwise(clips, tmp_path, end):
    path = tmp_path / "table.csv"
    path.write_bytes(end.join(["path,label", "b.mp4,cat", "c.mp4,007", ""]).encode())
    assert made_of(clips, path).select(["path", "label"]).to_pylist() == [
        {"path": "b.mp4", "label": "cat"},
        {"path": "c.mp4", "label": "007"},
    ]


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_a_csv_is_a_manifest(clips, tmp_path, separator):
    lines = ["clip_path,class,fold,id", '"x/a.mp4",cat,1,007', f"{clips}/b.mp4,dog,2,"]
    path = tmp_path / "table.csv"
    path.write_text("\ufeff" + "\n".join(line.replace(",", separator) for line in lines) + "\n")
    table = made_of(clips, path)
    assert table.to_pydict() == {
        "video_id": ["a", "b"],
        "path": ["x/a.mp4", "b.mp4"],
        "label": ["cat", "dog"],
        "start_time": [None, None],
        "end_time": [None, None],
        "split": [None, None],
        "fold": ["1", "2"],
        "id": ["007", None],
    }


SPACED = {
    "behind the commas": "path, label, start_time, end_time, split, video_id, fold\n"
    "b.mp4, cat, 1.5, 2, val, v1, x\n",
    "on both sides": "path , Label ,start_time , end_time ,split , video_id,fold\n"
    " b.mp4 ,\tcat , 1.5 , 2 , val , v1 ,x\n",
    "around quotes": '"path" , "LABEL", "start_time", "end_time", "split", "video_id", "fold"\n'
    '"b.mp4" , "cat", "1.5", "2", "val", "v1", "x"\n',
}


@pytest.mark.parametrize("text", SPACED.values(), ids=SPACED)
def test_spaces_around_names_and_values_of_a_csv_are_no_part_of_them(clips, tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text)
    (row,) = made_of(clips, path, split="val").to_pylist()
    assert row.pop("fold").strip() == "x"
    assert row == {
        "video_id": "v1",
        "path": "b.mp4",
        "label": "cat",
        "start_time": 1.5,
        "end_time": 2.0,
        "split": "val",
    }
    assert made_of(clips, path, columns={"label": " fold"})["label"].to_pylist() == ["x"]


def test_spaces_are_trimmed_in_text_of_any_kind(clips, tmp_path):
    table = pa.table({"path": [" b.mp4", "c.mp4"], " label": [" cat ", "  "]})
    for name, change in OTHERS.items():
        if name in ("large strings", "dictionaries"):
            pq.write_table(change(table), tmp_path / "table.parquet")
            made = made_of(clips, tmp_path / "table.parquet")
            assert made["label"].to_pylist() == ["cat", None], name
            assert made["path"].to_pylist() == ["b.mp4", "c.mp4"], name


def test_a_files_name_may_have_spaces_around_it(clips, tmp_path):
    for name in ("b.mp4 ", " both.mp4", "both.mp4", "gap .mp4"):
        (clips / name).touch()
    path = tmp_path / "table.csv"
    path.write_text("label,path\ncat,b.mp4 \ncat, both.mp4\ncat, gap .mp4\ncat, gone.mp4\n")
    table = made_of(clips, path)
    assert table["path"].to_pylist() == ["b.mp4 ", " both.mp4", "gap .mp4", "gone.mp4"]
    # Also where the path begins otherwise than the root, as long as the space is there.
    path.write_text(f"label, path\ncat, {clips}/c.mp4\n")
    assert made_of(clips, path)["path"].to_pylist() == ["c.mp4"]


def test_what_is_quoted_and_empty_is_absent(clips, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('"path","label","start_time","split"\n"b.mp4","","",""\n"c.mp4","x","1","a"\n')
    first = made_of(clips, path).to_pylist()[0]
    assert [first[name] for name in ("label", "start_time", "split")] == [None] * 3


def test_names_that_differ_by_spaces_alone_stay_apart(clips, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("path,label, label\nb.mp4,cat,dog\n")
    assert made_of(clips, path).to_pylist()[0]["label"] == "cat"


def test_columns_of_other_names_are_named(clips, tmp_path):
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"v": ["b.mp4"], "label": [3], "kind": ["dog"], "t": [1]}), path)
    table = made_of(clips, path, columns={"path": "v", "label": "kind", "start_time": "t"})
    assert table.to_pylist() == [
        {
            "video_id": "b",
            "path": "b.mp4",
            "label": "dog",
            "start_time": 1.0,
            "end_time": None,
            "split": None,
            "label_of_table": 3,
        }
    ]
    write_manifest(table, str(tmp_path / "m.parquet"))
    assert read_manifest(str(tmp_path / "m.parquet")).rows(0, 1)["label"].to_pylist() == ["dog"]
    assert made_of(clips, path, columns={"path": "v", "label": ""})["label"].null_count == 1


def test_a_split_of_a_table_is_chosen(clips, tmp_path):
    (tmp_path / "t.csv").write_text("path,split\na.mp4,train\nb.mp4,test\n")
    assert made_of(clips, tmp_path / "t.csv", split="test")["path"].to_pylist() == ["b.mp4"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_pieces_of_a_table_are_the_table(clips, tmp_path, suffix):
    """Also where a piece has no label, a number alone, or words of its own."""
    columns = {
        "path": ["x/a.mp4", f"{clips}/b.mp4", "c.mp4", "d.mp4"],
        "label": ["3", "1", None, "2"],
        "split": ["train", "val", "val", None],
        "note": ["one", "two\nlines", None, "four"],
        "start_time": ["1", None, "2.5", "4"],
    }
    file = tmp_path / f"table.{suffix}"
    if suffix == "csv":
        pd.DataFrame(columns).to_csv(file, index=False)
    else:
        table = pa.table(columns)
        notes = table["note"].dictionary_encode()
        pq.write_table(table.set_column(3, "note", notes), file)
    # A block holds the longest row, which has the folder's name, and one more.
    small = AtOnce(rows=1, csv_bytes=len(str(clips)) + 60)
    given = {"layout": "table", "clips": str(clips), "annotations": str(file), "labels_from": 1}
    whole = build_manifest(**given)
    assert whole["label"].to_pylist() == ["2", "0", None, "1"]
    in_pieces = list(read_dataset(**given, at_once=small).pieces)
    assert len(in_pieces) > 1
    assert pa.concat_tables(in_pieces).equals(whole)
    of_split = read_dataset(**given, split="val", at_once=small).pieces
    assert pa.concat_tables(of_split).equals(build_manifest(**given, split="val"))
    for name, rows in (("whole", whole), ("pieces", in_pieces)):
        write_manifest(rows, str(tmp_path / name))
    assert pq.read_table(tmp_path / "pieces").equals(pq.read_table(tmp_path / "whole"))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": [*"abcd", None]}, "column path is null in some rows"),
        ({"path": [*"abcd", "../e"]}, "expected a path below the root"),
        ({"start_time": ["1", "2", "3", "4", "x"]}, "start_time is no number of seconds"),
        ({"label": ["1", "2", "3", "4", "x"]}, "labels_from is 1, expected none: label 'x'"),
        ({"label": ["1", "2", "3", "4", "0"]}, "the lowest label is 0: expected labels from 1"),
        ({"label": ["9" * 5000] * 5}, "labels_from is 1, expected none: label '9999"),
    ],
)
def test_what_is_wrong_in_the_last_piece_is_told_and_nothing_is_written(
    clips, tmp_path, suffix, change, message
):
    frame = pd.DataFrame({"path": [*"abcde"], "label": [*"12345"]} | change)
    file, out = tmp_path / f"table.{suffix}", tmp_path / "m.parquet"
    frame.to_csv(file, index=False) if suffix == "csv" else frame.to_parquet(file)
    dataset = read_dataset(
        layout="table",
        clips=str(clips),
        annotations=str(file),
        labels_from=1,
        at_once=AtOnce(rows=1, csv_bytes=max(40, 20 + frame["label"].str.len().max())),
    )
    out.write_bytes(b"earlier")
    with pytest.raises(ManifestError, match=message):
        write_manifest(dataset.pieces, str(out))
    assert out.read_bytes() == b"earlier"
    assert {path.name for path in tmp_path.iterdir()} == {"clips", file.name, out.name}


NO_TABLES = {
    "no path": ("name,label\na,b\n", {}, "has no column that is known for paths; its columns are"),
    "two paths": ("video,filename\na,b\n", {}, "video and filename may be the path; expected"),
    "two labels": ("path,class,category\na,b,c\n", {}, "class and category may be the label"),
    "no such column": ("path\na\n", {"path": "p"}, "has no column 'p'"),
    "no such name": ("path\na\n", {"colour": "p"}, "'colour' is no column of a manifest"),
    "no path in a row": ("path,label\na,b\n,c\n", {}, "column path is null in some rows"),
    "ragged": ("path,label\na.mp4\n", {}, "no CSV with a header: .*Expected 2 columns"),
    "empty": ("", {}, "no CSV with a header"),
    "twice": ("path,path\na,b\n", {}, "column 'path' is there twice"),
    "times": ("path,start_time\na,soon\n", {}, "start_time is no number of seconds"),
    "outside": ("path\n../a.mp4\n", {}, "expected a path below the root"),
    "no header": ("YoYo/a.avi,3\nYoYo/b.avi,4\n", {}, "its columns are YoYo/a.avi, 3; expected"),
}


@pytest.mark.parametrize(("text", "columns", "message"), NO_TABLES.values(), ids=NO_TABLES)
def test_what_is_no_table_of_clips_is_told(clips, tmp_path, text, columns, message):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ManifestError, match=message) as caught:
        made_of(clips, tmp_path / "table.csv", columns=columns)
    assert "\n" not in str(caught.value)


MEASURED = """
import re, sys
import pyarrow.parquet as pq
from pipeline.dataset.layouts import Census, read_dataset
from pipeline.dataset.manifest import write_manifest
from pipeline.dataset.row_groups import pieces
from pipeline.dataset.tables import AtOnce

def make(table, clips, out):
    at_once = AtOnce(rows=1 << 13, csv_bytes=1 << 20)
    dataset = read_dataset(
        layout="table", clips=clips, annotations=table, labels_from=1, at_once=at_once
    )
    census = Census(dataset)
    write_manifest(census.counted(dataset.pieces), out)
    return census.found.n_rows

def read(manifest):
    # With a buffer, as manifests are opened.
    parquet = pq.ParquetFile(manifest, buffer_size=1 << 20)
    everything = range(parquet.metadata.num_rows)
    return sum(piece.num_rows for _, piece in pieces(parquet, "m", everything, at_once=1 << 13))

def peak_kb():
    # Not the resource usage, which starts with that of whoever has started this process.
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

action, small, large, *others = sys.argv[1:]
# A small one first: for the first time, libraries load more of themselves.
globals()[action](small, *others)
before = peak_kb()
n_rows = globals()[action](large, *others)
print(peak_kb() - before, n_rows)
"""
N_LARGE = 1 << 18


def growth(action, small, large, *others):
    """Bytes by which memory grows as a large file is read, and the rows that are found in it."""
    measured = subprocess.run(
        [sys.executable, "-c", MEASURED, action, *map(str, (small, large, *others))],
        check=True,
        capture_output=True,
        text=True,
    )
    print(measured.stdout)
    grown_kb, n_rows = map(int, measured.stdout.split())
    return grown_kb * 1024, n_rows


def large_table(n_rows):
    """Paths of 400 bytes, so that all of them take far more than a piece does."""
    numbers = pc.utf8_lpad(pc.cast(pa.array(range(n_rows)), pa.string()), 390, padding="0")
    paths = pc.binary_join_element_wise(numbers, ".mp4", "")
    return pa.table({"path": paths, "label": pa.array([1, 2] * (n_rows // 2))})


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs Linux's /proc"
)


@needs_proc
@pytest.mark.parametrize("suffix", [pytest.param("csv", marks=pytest.mark.slow), "parquet"])
def test_a_manifest_of_a_large_table_is_made_in_bounded_memory(clips, tmp_path, suffix):
    table = large_table(N_LARGE)
    files = [tmp_path / f"small.{suffix}", tmp_path / f"large.{suffix}"]
    for file, rows in zip(files, (table.slice(0, 10), table), strict=True):
        if suffix == "csv":
            pa.csv.write_csv(rows, str(file))
        else:
            pq.write_table(rows, file, row_group_size=N_LARGE, use_dictionary=False)
    out = tmp_path / "m.parquet"
    grown, n_rows = growth("make", *files, clips, out)
    assert n_rows == pq.read_metadata(out).num_rows == N_LARGE
    # The manifest is twice as large as the table, as it has each clip's id, too.
    assert grown < table.nbytes


@needs_proc
def test_a_large_row_group_is_read_in_bounded_memory(clips):
    table = large_table(N_LARGE)
    metadata = {"staa.manifest_version": "1", "staa.root": f"file://{clips}", "staa.layout": "x"}
    table = table.append_column("video_id", table["path"]).replace_schema_metadata(metadata)
    files = [clips / "small.parquet", clips / "large.parquet"]
    for file, rows in zip(files, (table.slice(0, 10), table), strict=True):
        pq.write_table(rows, file, row_group_size=N_LARGE, use_dictionary=False)
    assert pq.ParquetFile(files[1]).num_row_groups == 1
    grown, n_rows = growth("read", *files)
    assert n_rows == N_LARGE
    assert grown < table.nbytes / 2
