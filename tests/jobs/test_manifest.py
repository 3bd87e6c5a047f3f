"""`jobs.manifest` and `jobs.synthesize`: what they write and print, and targets they refuse."""

import csv

import pytest

from jobs.cli import run_job
from jobs.manifest import ManifestConfig, manifest
from jobs.synthesize import SynthesizeConfig, synthesize
from pipeline.manifest import read_manifest

SMALL = ("--n-clips=3", "--width=64", "--height=64", "--fps=4", "--n-workers=1")
SHORT = ("--min-duration-s=1", "--max-duration-s=1")


def list_clips(capsys, *argv):
    """Exit code, stdout and stderr of jobs.manifest."""
    exit_code = run_job(ManifestConfig, manifest, verb="manifest", argv=argv)
    return exit_code, *capsys.readouterr()


def write_clips(capsys, *argv):
    """Exit code, stdout and stderr of jobs.synthesize."""
    exit_code = run_job(SynthesizeConfig, synthesize, verb="synthesize", argv=argv)
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
