"""What lies below a folder: clips in sorted order, other files counted, hidden ones passed over."""

import errno
import os
import posixpath

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.listing import Coverage, Listing, list_folder
from pipeline.errors import ManifestError
from tests.support.recordings import KINDS

RECORDERS = ("camcorder.MTS", "disc.m2ts", "dvd.VOB", "tape.dv", "camera.h264", "phone.3g2")


@pytest.fixture
def folder(tmp_path):
    for name in ("b/2.mp4", "b/1.MKV", "a/2.webm", "notes.txt", "b/noise.wav", "none"):
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in ("b/._1.mkv", ".cache/3.mp4"):
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "clips"


def test_clips_are_sorted_and_the_rest_is_counted(folder):
    listing = list_folder(str(folder), "folders")
    assert listing.root == f"file://{folder}"
    assert listing.paths == ("a/2.webm", "b/1.MKV", "b/2.mp4")
    assert listing.others == ("b/noise.wav", "none", "notes.txt")
    assert listing.n_hidden == 2
    assert listing.passed_over() == {".wav": 1, "none": 1, ".txt": 1}


def test_every_kind_of_recording_that_is_decoded_is_a_clip(tmp_path):
    # GIF is a preview and Ogg is sound more often than a clip.
    names = sorted({*KINDS, *RECORDERS} - {"gif.gif", "theora_like.ogg"})
    for name in names:
        (tmp_path / name).touch()
    assert list(list_folder(str(tmp_path), "files").paths) == names


def test_a_name_means_the_clip_and_not_the_recording_beside_it(tmp_path):
    for name in ("a.dv", "a.MP4", "a.ts", "b.h264", "c/a.avi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    by_stem = list_folder(str(tmp_path), "files").by_stem
    assert by_stem == {"a": "a.MP4", "b": "b.h264"}


def test_a_name_without_its_folder_means_the_first_in_order(folder):
    listing = list_folder(str(folder), "files")
    assert listing.by_stem == {"2": "a/2.webm", "1": "b/1.MKV"}
    assert listing.by_name["2.mp4"] == "b/2.mp4"
    assert listing.holds("b/../b/2.mp4")
    assert listing.holds("notes.txt")
    assert not listing.holds("2.mp4")


@pytest.mark.parametrize("start", ["{folder}/", "file://{folder}/"])
def test_an_absolute_path_is_brought_below_the_root(folder, start):
    listing = list_folder(str(folder), "files")
    assert listing.below_root(start.format(folder=folder) + "b/2.mp4") == "b/2.mp4"
    assert listing.below_root("/elsewhere/b/2.mp4") == "/elsewhere/b/2.mp4"
    assert listing.below_root("b/2.mp4") == "b/2.mp4"


PATHS = (
    *("x.mp4", "/a/b/x.mp4", "file:///a/b/y/é.mp4", "/a/b//z.mp4", "./x.mp4", "t.txt"),
    *("q.mp4", "/a/bc/x.mp4", "y/../x.mp4", "", "/a/b/"),
)


@settings(deadline=None)
@given(st.lists(st.sampled_from(PATHS), min_size=1, max_size=9), st.integers(0, 9))
def test_a_column_is_what_its_paths_are_one_by_one(paths, cut):
    prefixes = ("file:///a/b/", "/a/b/")
    listing = Listing("file:///a/b", ("x.mp4", "y/é.mp4", "z.mp4"), ("t.txt",), prefixes=prefixes)
    column = pa.chunked_array([paths[:cut], paths[cut:]], pa.string())
    below = listing.all_below_root(column)
    assert below.to_pylist() == [listing.below_root(path) for path in paths]
    coverage = Coverage(listing)
    for piece in (column[:cut], column[cut:]):
        coverage.update(piece)
    missing = [path for path in paths if not listing.holds(path)]
    assert (coverage.n_rows, coverage.n_missing) == (len(paths), len(missing))
    assert coverage.missing == missing[: Coverage.N_NAMED]
    assert coverage.n_unused == len(set(listing.paths) - {posixpath.normpath(p) for p in paths})


def test_a_glob_and_one_file_are_listed_below_their_folder(folder):
    listing = list_folder(f"{folder}/b/*.mp4", "files")
    assert (listing.root, listing.paths) == (f"file://{folder}/b", ("2.mp4",))
    # Asked for by name, whatever its suffix is.
    assert list_folder(f"{folder}/none", "files").paths == ("none",)


def test_where_nothing_is_it_says_so(folder):
    with pytest.raises(ManifestError, match="expected a folder, glob or file"):
        list_folder(f"{folder}/absent", "files")
    with pytest.raises(ManifestError, match="is not a folder"):
        list_folder(f"{folder}/none", "folders")


def test_folders_that_may_not_be_read_are_told(folder, monkeypatch):
    (folder / "link").symlink_to(folder / "b")
    (folder / "loop").symlink_to(folder)
    scandir = os.scandir

    def refusing(path):
        if str(path) in refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    # The tests may be run by root, who may read everything.
    monkeypatch.setattr("os.scandir", refusing)
    refused = {f"{folder}/b"}
    listing = list_folder(str(folder), "files")
    assert (listing.paths, listing.closed) == (("a/2.webm",), ("b",))
    assert listing.others == ("link", "loop", "none", "notes.txt")
    refused.add(f"{folder}/a")
    with pytest.raises(
        ManifestError, match=r"no clip in .*, where 2 folders may not be read \(a, "
    ):
        build_manifest(layout="files", clips=str(folder))
    refused.add(str(folder))
    with pytest.raises(ManifestError, match=r"can't list .*: Permission denied"):
        list_folder(str(folder), "files")
