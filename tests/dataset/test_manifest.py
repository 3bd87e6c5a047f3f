"""A manifest as it is read: rows on demand, a digest of the values, and refusal of what changed."""

import pickle
import posixpath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import (
    METADATA_KEYS,
    SCHEMA,
    mark_segments,
    read_manifest,
    write_manifest,
)
from pipeline.errors import ManifestChangedError, ManifestError
from tests.dataset.text_files import text_file
from tests.support.object_storage import BUCKET, OF_ANY_OBJECT
from tests.test_text import SECRET


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


def test_what_is_no_manifest_is_refused(root, tmp_path):
    url = str(tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="can't read"):
        read_manifest(url)
    text_file(tmp_path, "m.parquet", "not parquet at all")
    with pytest.raises(ManifestError, match="not a Parquet file"):
        read_manifest(url)
    pq.write_table(pa.table({"path": ["a.mp4"]}), url)
    with pytest.raises(ManifestError, match="has no column video_id; its columns are path"):
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
    with pytest.raises(ManifestError, match="has no column video_id"):
        write_manifest(table.select(["path"]), url)


def test_a_damaged_manifest_is_told_as_such(root, tmp_path):
    url = str(tmp_path / "clips.parquet")
    write_manifest(build_manifest(layout="files", clips=str(root)), url)
    whole = (tmp_path / "clips.parquet").read_bytes()
    for damage in (whole[:-9] + b"\xff" + whole[-8:], whole[:4] + b"\xff" * 40 + whole[44:]):
        (tmp_path / "clips.parquet").write_bytes(damage)
        with pytest.raises(ManifestError, match="not a whole one"):
            read_manifest(url)


@pytest.mark.parametrize("fault", OF_ANY_OBJECT)
def test_a_manifest_survives_every_fault(s3, fault):
    url = f"s3://{BUCKET}/storage/{fault.replace(' ', '-')}.parquet"
    metadata = dict(zip(METADATA_KEYS, ("1", "s3://clips", "files"), strict=True))
    rows = [{"video_id": str(row), "path": f"{row}.mp4"} for row in range(100)]
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata))
    s3.plan = lambda method, path, nth: fault if nth < 1 else None
    write_manifest(table, url, rows_per_group=10)
    s3.reset(s3.plan)
    manifest = read_manifest(url)
    assert manifest.rows(20, 45)["path"].to_pylist() == [f"{row}.mp4" for row in range(20, 45)]
    assert s3.faults[fault] > 0


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


@pytest.mark.parametrize("key", ["root", "path"])
def test_a_manifest_that_holds_credentials_is_refused_and_they_are_not_told(tmp_path, key):
    signed = f"clip.mp4?X-Amz-Signature={SECRET}"
    root = f"https://me:{SECRET}@host.example" if key == "root" else "https://host.example"
    metadata = dict(zip(METADATA_KEYS, ("1", root, "files"), strict=True))
    path = signed if key == "path" else "clip.mp4"
    table = pa.Table.from_pylist(
        [{"video_id": "a", "path": path}], schema=SCHEMA.with_metadata(metadata)
    )
    url = str(tmp_path / "manifest.parquet")
    write_manifest(table, url)
    with pytest.raises(ManifestError, match="credentials or a signature") as caught:
        read_manifest(url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("n_rows", [1, 63, 64, 65, 300])
def test_the_digest_of_the_first_rows_is_that_of_a_manifest_of_them(root, tmp_path, n_rows):
    table = many_rows(root, tmp_path)
    whole, part = str(tmp_path / "whole.parquet"), str(tmp_path / "part.parquet")
    write_manifest(table, whole, rows_per_group=64)
    write_manifest(table.slice(0, n_rows), part, rows_per_group=50)
    assert read_manifest(whole).digest_of_first(n_rows) == read_manifest(part).digest
