"""A batch of manifest rows becomes a batch of frames, and no clip's failure reaches another's."""

import subprocess
import sys

import fsspec
import numpy as np
import pytest

from pipeline.clips.loader import ClipLoader
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import View, Views
from pipeline.status import Status
from tests.support.clips import numbered_frames, read_numbers, write_mp4
from tests.support.stand_ins import DECODE as STAND_IN

HEIGHT, WIDTH = 96, 160
CLASSES = {"juggling": 0, "waving": 3}
SAMPLING = Sampling("uniform", 4)
WHOLE = Preprocessing(shortest_edge=HEIGHT, crop=(HEIGHT, WIDTH))
"""Leaves the frames of these clips as they are, so that their numbers can be read."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Folder of clips: three good ones of other lengths, and one for each way to fail."""
    folder = tmp_path_factory.mktemp("clips")
    for name, n_frames in {"a": 40, "b": 23, "sub/c": 4, "short": 3}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_mp4(folder / f"{name}.mp4", numbered_frames(n_frames))
    write_mp4(folder / "small.mp4", numbered_frames(8, height=64, width=120))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("not a video")
    (folder / "cut.mp4").write_bytes((folder / "a.mp4").read_bytes()[:-500])
    (folder / "folder.mp4").mkdir()
    return folder


FAILURES = {
    "absent.mp4": Status.MISSING,
    "empty.mp4": Status.EMPTY,
    "text.mp4": Status.UNREADABLE,
    "folder.mp4": Status.UNREADABLE,
    "cut.mp4": Status.TRUNCATED,
    "short.mp4": Status.TOO_SHORT,
}


def loader_of(root, preprocessing=WHOLE, **changes):
    given = {
        "root": str(root),
        "views": Views((View(SAMPLING, preprocessing),)),
        "input_size": preprocessing.crop,
        "class_of_label": CLASSES,
    }
    return ClipLoader(**given | changes)


def rows_of(*paths, labels=None):
    """Rows as Ray gives them: columns of NumPy, read-only, strings as objects."""
    n_clips = len(paths)
    rows = {
        "row": np.arange(100, 100 + n_clips),
        "video_id": np.array([path.removesuffix(".mp4") for path in paths], object),
        "path": np.array(paths, object),
        "label": np.array(labels or ["waving"] * n_clips, object),
        "start_time": np.array([None if i % 2 else 2.0 * i for i in range(n_clips)], object),
        "end_time": np.zeros(n_clips),
        "split": np.full(n_clips, "val", object),
    }
    for column in rows.values():
        column.flags.writeable = False
    return rows


def test_columns_have_the_rows_order_and_the_promised_types(clips):
    columns = loader_of(clips)(rows_of("b.mp4", "a.mp4", "sub/c.mp4"))
    expected = {
        "row": (np.int64, (3,)),
        "video_id": (object, (3,)),
        "start_time": (np.float64, (3,)),
        "label": (np.int32, (3,)),
        "frames": (np.uint8, (3, 4, HEIGHT, WIDTH, 3)),
        "frame_index": (np.int32, (3, 4)),
        "frame_time": (np.float64, (3, 4)),
        "clip_digest": (np.uint8, (3, 16)),
        "status": (np.uint8, (3,)),
        "message": (object, (3,)),
    }
    assert {name: (column.dtype, column.shape) for name, column in columns.items()} == expected
    assert columns["row"].tolist() == [100, 101, 102]
    assert columns["video_id"].tolist() == ["b", "a", "sub/c"]
    assert columns["status"].tolist() == [Status.OK] * 3
    assert columns["message"].tolist() == [""] * 3
    np.testing.assert_array_equal(columns["start_time"], [0, np.nan, 4])


def test_each_clip_has_its_own_frames_at_the_indices_that_are_told(clips):
    columns = loader_of(clips)(rows_of("b.mp4", "a.mp4", "sub/c.mp4"))
    for n_frames, frames, index in zip(
        (23, 40, 4), columns["frames"], columns["frame_index"], strict=True
    ):
        assert read_numbers(frames) == index.tolist()
        assert index.tolist() == SAMPLING.indices(n_frames=n_frames, fps=30).tolist()


def test_clips_of_any_size_come_in_the_models_size(clips):
    preprocessing = Preprocessing(shortest_edge=40, crop=(32, 32))
    columns = loader_of(clips, preprocessing)(rows_of("small.mp4", "a.mp4"))
    assert columns["frames"].shape == (2, 4, 32, 32, 3)
    whole = loader_of(clips)(rows_of("a.mp4"))["frames"][0]
    assert np.array_equal(columns["frames"][1], preprocessing.resize_and_crop(whole))


def test_labels_become_classes_and_a_missing_one_is_minus_1(clips):
    rows = rows_of("a.mp4", "b.mp4", "absent.mp4", "a.mp4", labels=["waving", None, "juggling", ""])
    columns = loader_of(clips, class_of_label=CLASSES | {"": 4})(rows)
    assert columns["label"].tolist() == [3, -1, 0, 4]


@pytest.mark.parametrize(("path", "status"), FAILURES.items(), ids=FAILURES)
def test_a_clip_that_fails_stays_a_row_with_zeros_and_a_reason(clips, path, status):
    columns = loader_of(clips)(rows_of("a.mp4", path, "b.mp4"))
    assert columns["status"].tolist() == [Status.OK, status, Status.OK]
    assert columns["row"].tolist() == [100, 101, 102]
    assert not columns["frames"][1].any()
    assert (columns["frame_index"][1] == -1).all()
    assert columns["message"][1]
    assert "\n" not in columns["message"][1]
    assert columns["message"][[0, 2]].tolist() == ["", ""]


def test_a_file_that_its_decoder_could_not_hold_is_a_failed_row(clips, tmp_path):
    (tmp_path / "a.mp4").write_bytes((clips / "a.mp4").read_bytes())
    with (tmp_path / "huge.mp4").open("wb") as file:
        file.truncate(1 << 43)
    loader = loader_of(tmp_path)
    columns = loader(rows_of("a.mp4", "huge.mp4", "a.mp4"))
    assert columns["status"].tolist() == [Status.OK, Status.CRASHED, Status.OK]
    assert columns["message"][1] == (
        "the file has 8796093022208 bytes, more than decode_memory, 4000000000 bytes"
    )


def test_a_clip_does_not_depend_on_what_becomes_of_its_neighbours(clips):
    good = loader_of(clips)(rows_of("b.mp4", "a.mp4", "b.mp4"))
    mixed = loader_of(clips)(rows_of("cut.mp4", "a.mp4", "absent.mp4"))
    for name, column in good.items():
        if name != "video_id":
            assert np.array_equal(column[1], mixed[name][1], equal_nan=name == "start_time"), name


def test_a_batch_in_which_every_clip_fails_is_a_batch(clips):
    columns = loader_of(clips)(rows_of(*FAILURES))
    assert columns["status"].tolist() == list(FAILURES.values())
    assert not columns["frames"].any()


def test_the_rows_are_left_alone_and_twice_gives_the_same(clips):
    rows = rows_of("a.mp4", "cut.mp4")
    before = {name: column.tolist() for name, column in rows.items()}
    first, second = (loader_of(clips)(rows) for _ in range(2))
    assert {name: column.tolist() for name, column in rows.items()} == before
    assert "frames" not in rows
    for name, column in first.items():
        np.testing.assert_array_equal(column, second[name])


def test_clips_are_read_from_any_filesystem(clips):
    memory = fsspec.filesystem("memory")
    memory.pipe("/loader/sub/c.mp4", (clips / "sub" / "c.mp4").read_bytes())
    columns = loader_of("memory://loader")(rows_of("sub/c.mp4", "absent.mp4"))
    assert columns["status"].tolist() == [Status.OK, Status.MISSING]
    local = loader_of(clips)(rows_of("sub/c.mp4"))
    assert np.array_equal(columns["frames"][0], local["frames"][0])


def test_processes_that_load_and_write_do_without_torch():
    # It takes seconds to load and hundreds of MB, in each of them.
    execution = [f"pipeline.execution.{name}" for name in ("source", "sink", "backpressure")]
    stages = ", ".join(["pipeline.clips.loader", *execution])
    command = f"import sys, {stages}; assert not {{'torch', 'transformers'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", command], check=True)


def test_segments_of_a_file_are_rows_of_their_own(clips):
    rows = rows_of("a.mp4", "a.mp4", "b.mp4", "a.mp4")
    rows = rows | {
        "start_time": np.array([0.0, 0.5, 0.0, 1.2]),
        "end_time": np.array([0.5, 1.3, np.nan, 1.25]),
    }
    columns = loader_of(clips, segments=True)(rows)
    assert columns["status"].tolist() == [Status.OK, Status.OK, Status.OK, Status.TOO_SHORT]
    assert "segment from 1.2 s to 1.25 s has 2 frames" in columns["message"][3]
    # 30 frames/s, and 23 frames in the other file.
    expected = [
        SAMPLING.indices(n_frames=15, fps=30),
        SAMPLING.indices(n_frames=24, fps=30) + 15,
        SAMPLING.indices(n_frames=23, fps=30),
    ]
    for clip, index in enumerate(expected):
        assert columns["frame_index"][clip].tolist() == index.tolist()
        assert read_numbers(columns["frames"][clip]) == index.tolist()
        np.testing.assert_allclose(columns["frame_time"][clip], index / 30, atol=1e-3)
    assert np.isnan(columns["frame_time"][3]).all()
    np.testing.assert_array_equal(columns["start_time"], rows["start_time"])


def test_segments_that_take_too_long_together_are_read_one_by_one(clips, tmp_path):
    (tmp_path / "long.mp4").write_bytes(b"STAND-IN hang-beyond 1")
    rows = rows_of("long.mp4", "long.mp4", "long.mp4") | {
        "start_time": np.array([0.0, 1.0, 2.0]),
        "end_time": np.array([1.0, 2.0, 3.0]),
    }
    load = loader_of(tmp_path, segments=True, decode=STAND_IN, decode_timeout_s=0.3)
    assert load(rows)["status"].tolist() == [Status.OK] * 3
    (tmp_path / "long.mp4").write_bytes(b"STAND-IN hang")
    assert load(rows)["status"].tolist() == [Status.TIMEOUT] * 3


def test_without_segments_times_of_the_manifest_cut_nothing(clips):
    rows = rows_of("a.mp4") | {"start_time": np.array([0.5]), "end_time": np.array([0.9])}
    columns = loader_of(clips)(rows)
    assert columns["frame_index"][0].tolist() == SAMPLING.indices(n_frames=40, fps=30).tolist()


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_either_decoder_gives_the_frames(clips, decoder):
    columns = loader_of(clips, decoder=decoder)(rows_of("b.mp4", "a.mp4"))
    for frames, index in zip(columns["frames"], columns["frame_index"], strict=True):
        assert read_numbers(frames) == index.tolist()


def test_a_file_is_known_by_its_digest(clips, tmp_path):
    (tmp_path / "other.mp4").write_bytes((clips / "a.mp4").read_bytes())
    columns = loader_of(clips)(rows_of("a.mp4", "b.mp4", "absent.mp4", "text.mp4"))
    first, second, absent, unreadable = columns["clip_digest"]
    copied = loader_of(tmp_path)(rows_of("other.mp4"))["clip_digest"][0]
    assert first.tolist() == copied.tolist() != second.tolist()
    assert not absent.any()
    assert unreadable.any()
