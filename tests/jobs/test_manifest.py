"""`jobs.manifest` and `jobs.synthesize`: what they write and print, and targets they refuse."""

import csv

import pyarrow.parquet as pq
import pytest

from jobs.attribute import attribute
from jobs.cli import run_job
from jobs.manifest import ManifestConfig, manifest
from jobs.synthesize import SynthesizeConfig, synthesize
from pipeline.dataset.manifest import read_manifest
from pipeline.run.config import AttributeJob
from pipeline.status import Status
from tests.support.checkpoints import CLASS_NAMES, save_timesformer
from tests.support.clips import write_mp4
from tests.support.runs import assert_same_columns, given_once, random_frames, stored_columns

SMALL = ("--n-clips=3", "--width=64", "--height=64", "--fps=4", "--n-workers=1")
SHORT = ("--min-duration-s=1", "--max-duration-s=1")


def list_clips(capsys, *argv):
    """Exit code, stdout and stderr of jobs.manifest."""
    exit_code = run_job(ManifestConfig, manifest, verb="manifest", argv=given_once(argv))
    return exit_code, *capsys.readouterr()


def write_clips(capsys, *argv):
    """Exit code, stdout and stderr of jobs.synthesize."""
    exit_code = run_job(SynthesizeConfig, synthesize, verb="synthesize", argv=given_once(argv))
    return exit_code, *capsys.readouterr()


@pytest.fixture
def clips(tmp_path):
    for name in ("waving/b.mp4", "waving/a.mp4", "juggling/c.mp4"):
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "clips"


def test_a_manifest_is_written_and_the_line_says_what_it_holds(capsys, tmp_path, clips):
    out = tmp_path / "new" / "clips.parquet"
    result = list_clips(capsys, "--layout=folders", f"--clips={clips}", f"--out={out}")
    assert result == (0, f"manifest: 3 clips, 2 labels in {out}\n", "")
    written = read_manifest(str(out))
    paths = written.rows(0, 3)["path"].to_pylist()
    assert paths == ["juggling/c.mp4", "waving/a.mp4", "waving/b.mp4"]
    assert written.distinct_labels() == [("juggling", 0), ("waving", 1)]


def test_clips_without_labels_count_none(capsys, tmp_path, clips):
    out = tmp_path / "clips.parquet"
    result = list_clips(capsys, "--layout=files", f"--clips={clips}", f"--out={out}")
    assert result == (0, f"manifest: 3 clips, 0 labels in {out}\n", "")


def test_what_is_missing_and_passed_over_is_said_and_may_be_an_error(capsys, tmp_path, clips):
    out = tmp_path / "clips.parquet"
    listing = tmp_path / "list.txt"
    listing.write_text("waving/a.mp4 0\ngone.mp4 1\n")
    argv = ("--layout=list", f"--clips={clips}", f"--annotations={listing}", f"--out={out}")
    said = "manifest: 2 rows, 1 files found, 1 missing (gone.mp4), 2 files not used\n"
    assert list_clips(capsys, *argv) == (
        0,
        f"manifest: 2 clips, 2 labels in {out}\n{said}",
        "",
    )
    assert list_clips(capsys, *argv, "--strict")[0] == 1
    listing.write_text("waving/a.mp4 0\n")
    assert list_clips(capsys, *argv, "--strict")[0] == 0
    (clips / "camera.DAV").write_bytes(b"")
    assert list_clips(capsys, *argv, "--strict")[:2] == (
        1,
        f"manifest: 1 clips, 1 labels in {out}\nmanifest: 1 rows, 1 files found, 2 files not "
        "used, 1 passed over for their suffix (.dav 1)\n",
    )


def test_headers_are_checked_into_a_table_beside_the_manifest(capsys, tmp_path):
    clips, out = tmp_path / "clips", tmp_path / "clips.parquet"
    clips.mkdir()
    write_mp4(clips / "a.mp4", random_frames(8, seed=0))
    (clips / "empty.mp4").write_bytes(b"")
    (clips / "text.mp4").write_text("no video")
    listing = tmp_path / "list.txt"
    listing.write_text("a.mp4\nempty.mp4\ngone.mp4\ntext.mp4\n")
    argv = ("--layout=list", f"--clips={clips}", f"--annotations={listing}", f"--out={out}")
    exit_code, stdout, _ = list_clips(capsys, *argv, "--check")
    table = f"{tmp_path}/clips.checked.parquet"
    assert exit_code == 0
    assert stdout.splitlines()[-1] == (
        f"manifest: 1 headers ok, 1 empty, 1 missing, 1 unreadable; see {table}"
    )
    rows = pq.read_table(table).to_pylist()
    assert [row["path"] for row in rows] == ["a.mp4", "empty.mp4", "gone.mp4", "text.mp4"]
    assert rows[0]["header"] == "header ok"
    assert rows[0]["n_frames"] == 8
    assert [row["header"].split(":")[0] for row in rows[1:]] == ["empty", "missing", "unreadable"]
    assert list_clips(capsys, *argv, "--check", "--strict")[0] == 1


def test_options_of_labels_and_columns_are_flags(capsys, tmp_path, clips):
    out = tmp_path / "clips.parquet"
    table = tmp_path / "table.csv"
    table.write_text("v,number,fold\nwaving/a.mp4,1,x\njuggling/c.mp4,2,y\n")
    argv = ("--layout=table", f"--clips={clips}", f"--annotations={table}", f"--out={out}")
    columns = "--columns=path=v,label=number"
    assert_refused(list_clips(capsys, *argv), "manifest", "in --columns path=NAME")
    assert_refused(list_clips(capsys, *argv, columns), "manifest", "expected --labels-from 1")
    assert_refused(list_clips(capsys, *argv, "--columns=path"), "manifest", "expected name=column")
    assert list_clips(capsys, *argv, columns, "--labels-from=1")[0] == 0
    assert [row["label"] for row in values(out)] == ["0", "1"]
    assert pq.read_schema(out).names[-1] == "fold"


def add_clip(clips, name):
    path = clips / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def values(url):
    manifest = read_manifest(str(url))
    return manifest.rows(0, manifest.n_rows).to_pylist()


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("layout", ["folders", "files"])
def test_new_clips_come_behind_the_rows_of_an_earlier_manifest(
    capsys, tmp_path, clips, layout, in_place
):
    old = tmp_path / "clips.parquet"
    out = old if in_place else tmp_path / "more.parquet"
    flags = (f"--layout={layout}", f"--clips={clips}")
    list_clips(capsys, *flags, f"--out={old}")
    rows, before = values(old), old.read_bytes()
    # Before, between and behind the others, in a class that was there and one that wasn't.
    for name in ("archery/z.mp4", "waving/aa.mp4", "juggling/d.mp4", "yodelling/a.mp4"):
        add_clip(clips, name)
    # What is gone keeps its row.
    (clips / "waving" / "a.mp4").unlink()
    result = list_clips(capsys, *flags, f"--append-to={old}", f"--out={out}")
    n_labels = 4 if layout == "folders" else 0
    said = "manifest: 7 rows, 6 files found, 1 missing (waving/a.mp4)\n"
    added = f"manifest: 7 clips, 4 of them new, {n_labels} labels in {out}\n"
    assert result == (0, added + said, "")
    assert values(out)[:3] == rows
    assert [row["path"] for row in values(out)[3:]] == [
        "archery/z.mp4",
        "juggling/d.mp4",
        "waving/aa.mp4",
        "yodelling/a.mp4",
    ]
    assert (old.read_bytes() == before) == (not in_place)
    # Once more adds nothing.
    again = list_clips(capsys, *flags, f"--append-to={out}", f"--out={tmp_path / 'again.parquet'}")
    assert again[1].startswith("manifest: 7 clips, 0 of them new, ")
    assert values(tmp_path / "again.parquet") == values(out)


def test_a_clip_of_kinetics_whose_file_comes_later_is_not_new(capsys, tmp_path):
    clips, annotations, out = (tmp_path / name for name in ("clips", "a.csv", "clips.parquet"))
    header = "label,youtube_id,time_start,time_end,split\n"
    annotations.write_text(header + "archery,abc,1,11,val\narchery,def,2,12,val\n")
    add_clip(clips, "abc_000001_000011.mp4")
    flags = ("--layout=kinetics", f"--clips={clips}", f"--annotations={annotations}")
    list_clips(capsys, *flags, f"--out={out}")
    rows = values(out)
    # In a subfolder; and another part of a video of which one is there.
    add_clip(clips, "val/def_000002_000012.mp4")
    annotations.write_text(annotations.read_text() + "archery,abc,5,15,val\n")
    result = list_clips(capsys, *flags, f"--append-to={out}", f"--out={out}")
    # The old row stays as it is, and where it expects a file there is none.
    missing = "2 missing (def_000002_000012.mp4, abc_000005_000015.mp4)"
    told = f"3 rows, 1 files found, {missing}, 1 files not used"
    said = f"manifest: 3 clips, 1 of them new, 1 labels in {out}\nmanifest: {told}\n"
    moved = (
        "manifest: 1 files of known clips have other paths than their rows, which stay as they are "
        "(val/def_000002_000012.mp4 for def_000002_000012.mp4): link each to the row's path, and "
        "jobs.attribute --retry-failed missing takes it in\n"
    )
    assert result == (0, said + moved, "")
    assert values(out)[:2] == rows
    assert values(out)[2]["path"] == "abc_000005_000015.mp4"


def test_a_file_that_has_moved_is_told_until_it_is_where_its_row_has_it(capsys, tmp_path):
    clips, annotations, out = (tmp_path / name for name in ("clips", "a.csv", "clips.parquet"))
    annotations.write_text("id,actions\nabc,c001 0 1\ndef,c002 0 1\n")
    add_clip(clips, "abc.mp4")
    add_clip(clips, "def.mp4")
    flags = ("--layout=charades", f"--clips={clips}", f"--annotations={annotations}")
    list_clips(capsys, *flags, f"--out={out}")
    before = out.read_bytes()
    (clips / "new").mkdir()
    (clips / "abc.mp4").rename(clips / "new" / "abc.mkv")
    _, stdout, _ = list_clips(capsys, *flags, f"--append-to={out}", f"--out={out}")
    assert "manifest: 2 clips, 0 of them new, " in stdout
    assert "1 files of known clips have other paths" in stdout
    assert "(new/abc.mkv for abc.mp4)" in stdout
    (clips / "abc.mp4").symlink_to(clips / "new" / "abc.mkv")
    _, stdout, _ = list_clips(capsys, *flags, f"--append-to={out}", f"--out={out}")
    assert "other paths" not in stdout
    assert out.read_bytes() == before


def test_a_manifest_that_nothing_is_new_for_is_left_alone(capsys, tmp_path, clips):
    out = tmp_path / "clips.parquet"
    flags = ("--layout=folders", f"--clips={clips}", f"--out={out}")
    list_clips(capsys, *flags)
    before = out.stat().st_mtime_ns, out.stat().st_ino
    result = list_clips(capsys, *flags, f"--append-to={out}")
    assert result == (0, f"manifest: 3 clips, 0 of them new, 2 labels in {out}\n", "")
    assert (out.stat().st_mtime_ns, out.stat().st_ino) == before


@pytest.mark.slow
def test_a_run_takes_in_the_clips_of_such_a_manifest(capsys, tmp_path, local_ray):
    clips = tmp_path / "clips"
    model = save_timesformer(tmp_path / "model")
    manifest_url, out = tmp_path / "clips.parquet", tmp_path / "run"
    list_flags = ("--layout=folders", f"--clips={clips}", f"--out={manifest_url}")

    def write(*names):
        for seed, name in enumerate(names):
            (clips / name).parent.mkdir(parents=True, exist_ok=True)
            write_mp4(clips / name, random_frames(8, seed=seed))

    def attribute_clips(*flags):
        sizes = ("--batch-size=2", "--rows-per-shard=4", "--n-models=1")
        argv = (f"--manifest={manifest_url}", f"--model={model}", f"--out={out}", *sizes, *flags)
        exit_code = run_job(AttributeJob, attribute, verb="attribute", argv=argv)
        return exit_code, capsys.readouterr().err

    write("waving/b.mp4", "knitting/b.mp4", "waving/c.mp4")
    assert list_clips(capsys, *list_flags)[0] == 0
    assert attribute_clips()[0] == 0
    first = stored_columns(out)
    kept = manifest_url.read_bytes()
    write("waving/a.mp4", "juggling/a.mp4")

    # Of the layout's own order the run takes nothing.
    list_clips(capsys, *list_flags)
    exit_code, stderr = attribute_clips("--append")
    assert exit_code == 2
    assert "doesn't begin with the 3 rows" in stderr

    manifest_url.write_bytes(kept)
    list_clips(capsys, *list_flags, f"--append-to={manifest_url}")
    assert attribute_clips("--append")[0] == 0
    stored = stored_columns(out)
    assert_same_columns({name: column[:3] for name, column in stored.items()}, first)
    assert (stored["status"] == Status.OK).all()
    names = [CLASS_NAMES[label] for label in stored["label"]]
    assert names == ["knitting", "waving", "waving", "juggling", "waving"]
    assert stored["video_id"].tolist() == ["b", "b", "c", "a", "a"]


def other_root(folder, old):
    (folder / "elsewhere" / "waving").mkdir(parents=True)
    (folder / "elsewhere" / "waving" / "a.mp4").write_bytes(b"")
    return (
        f"--layout=folders --clips={folder / 'elsewhere'}",
        # Of three long paths the middle one is cut.
        f"manifest {old} is of the root f",
    )


def other_layout(folder, old):
    return "--layout=files", f"manifest {old} is of the layout folders, and the clips to append"


def gone(folder, old):
    old.unlink()
    return "", f"can't read manifest {old}"


def no_manifest(folder, old):
    old.write_text("label,youtube_id\n")
    return "", f"manifest {old} is not a Parquet file"


@pytest.mark.parametrize("damage", [other_root, other_layout, gone, no_manifest])
def test_an_earlier_manifest_that_can_not_be_added_to_is_named(capsys, tmp_path, clips, damage):
    old, out = tmp_path / "old.parquet", tmp_path / "out.parquet"
    list_clips(capsys, "--layout=folders", f"--clips={clips}", f"--out={old}")
    flags, reason = damage(tmp_path, old)
    good = ("--layout=folders", f"--clips={clips}", f"--out={out}", f"--append-to={old}")
    assert_refused(list_clips(capsys, *good, *flags.split()), "manifest", reason)
    assert not out.exists()


def assert_refused(result, verb, reason):
    exit_code, stdout, stderr = result
    assert (exit_code, stdout) == (2, "")
    assert stderr.startswith(f"{verb}: error: ")
    assert stderr.count("\n") == 1
    assert reason in stderr


BAD_ARGUMENTS = {
    "unknown layout": ("--layout=imagenet", "expected one of kinetics, folders, list, files"),
    "absent clips": ("--clips={folder}/absent", "{folder}/absent is not a folder"),
    "no clip": ("--clips={folder}/empty", "no clip in {folder}/empty"),
    "missing annotations": ("--layout=kinetics", "annotations is None"),
    "absent annotations": ("--layout=list --annotations={folder}/absent.txt", "absent.txt"),
    "below a file": ("--out={folder}/file/clips.parquet", "out: can't write {folder}/file/clips"),
    "a folder": ("--out={folder}/clips", "out: can't write {folder}/clips"),
    "unknown protocol": ("--out=gopher://host/clips.parquet", "out: can't write gopher://host"),
    "unknown flag": ("--colour=red", "unrecognized arguments: --colour=red"),
}


@pytest.mark.parametrize(("flags", "reason"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_a_bad_argument_is_named_and_no_manifest_is_written(capsys, tmp_path, clips, flags, reason):
    (tmp_path / "file").write_text("notes")
    (tmp_path / "empty").mkdir()
    out = tmp_path / "clips.parquet"
    good = ("--layout=folders", f"--clips={clips}", f"--out={out}")
    result = list_clips(capsys, *good, *flags.format(folder=tmp_path).split())
    assert_refused(result, "manifest", reason.format(folder=tmp_path))
    assert not out.exists()
    assert (tmp_path / "file").read_text() == "notes"


def test_a_synthetic_dataset_is_one_that_a_manifest_can_be_made_of(capsys, tmp_path):
    folder = tmp_path / "dataset"
    exit_code, stdout, _ = write_clips(capsys, f"--out={folder}", *SMALL, *SHORT)
    assert (exit_code, stdout) == (0, f"synthesize: 3 clips, 12 frames in {folder}\n")

    annotations = folder / "annotations.csv"
    with annotations.open() as lines:
        labels = [row["label"] for row in csv.DictReader(lines)]
    out = tmp_path / "clips.parquet"
    flags = ("--layout=kinetics", f"--clips={folder / 'clips'}", f"--annotations={annotations}")
    exit_code, stdout, _ = list_clips(capsys, *flags, f"--out={out}")
    assert (exit_code, stdout) == (0, f"manifest: 3 clips, 3 labels in {out}\n")
    rows = read_manifest(str(out)).rows(0, 3).to_pylist()
    assert [row["label"] for row in rows] == labels
    assert all((folder / "clips" / row["path"]).stat().st_size for row in rows)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--out=s3://bucket/dataset",), "out: s3://bucket/dataset is a URL"),
        (("--out={folder}/file/dataset",), "out: can't write {folder}/file/dataset"),
        (("--min-duration-s=3", "--max-duration-s=2"), "min_duration_s: 3 is above"),
        (("--n-clips=0",), "n_clips: "),
        (("--width=65",), "width: "),
    ],
)
def test_a_dataset_that_can_not_be_made_is_refused(capsys, tmp_path, flags, reason):
    (tmp_path / "file").write_text("notes")
    good = (f"--out={tmp_path / 'dataset'}", *SMALL, *SHORT)
    given = [flag.format(folder=tmp_path) for flag in flags]
    result = write_clips(capsys, *good, *given)
    assert_refused(result, "synthesize", reason.format(folder=tmp_path))
    assert not (tmp_path / "dataset").exists()
