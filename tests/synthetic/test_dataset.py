"""Datasets on disk: real video files in Kinetics' layouts, and ground truth that is the scenes'."""

import csv
import os
import subprocess
import sys

import av
import numpy as np
import pytest
import zarr

from jobs.cli import run_job
from jobs.synthesize import synthesize
from pipeline.clips.decode import read_frames
from pipeline.clips.sampling import Sampling
from pipeline.dataset.layouts import build_manifest
from pipeline.errors import ConfigError
from pipeline.synthetic.config import SynthesizeConfig
from pipeline.synthetic.dataset import write_dataset
from pipeline.synthetic.rendering import actor_mask, render_frame
from pipeline.synthetic.scenes import ACTIONS
from tests.support.clips import pyav_frames

N_CLIPS = 12
LABELS = [ACTIONS[index % len(ACTIONS)].replace("_", " ") for index in range(N_CLIPS)]


def small(out, **changes):
    sizes = {"width": 96, "height": 64, "fps": 8, "min_duration_s": 1, "max_duration_s": 2}
    return SynthesizeConfig(
        **{"out": str(out), "n_clips": N_CLIPS, "n_workers": 1, **sizes, **changes}
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Folder of a small dataset, and its clips."""
    folder = tmp_path_factory.mktemp("dataset")
    return folder, list(write_dataset(small(folder)))


@pytest.fixture(scope="module")
def kinetics_clip(tmp_path_factory):
    """A clip of the default size."""
    config = SynthesizeConfig(
        out=str(tmp_path_factory.mktemp("large")), n_clips=1, max_duration_s=4.5, n_workers=1
    )
    return next(write_dataset(config))


def psnr(frames, expected):
    """Peak signal-to-noise ratio, in dB."""
    error = np.mean((frames.astype(float) - expected) ** 2)
    return 10 * np.log10(255**2 / error)


def test_a_clip_is_h264_of_kinetics_size_rate_and_length(kinetics_clip):
    with av.open(kinetics_clip.path) as container:
        (stream,) = container.streams
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height, stream.pix_fmt) == (340, 256, "yuv420p")
        assert stream.average_rate == 30
        assert 4 <= float(stream.duration * stream.time_base) <= 4.5
        assert stream.frames == kinetics_clip.scene.n_frames


def test_the_default_lengths_are_those_of_kinetics_clips():
    config = SynthesizeConfig(out="unwritten")
    assert (config.min_duration_s, config.max_duration_s) == (4, 10)


def test_a_runs_decoder_sees_the_frames_that_were_rendered(kinetics_clip):
    scene = kinetics_clip.scene
    clip = read_frames(kinetics_clip.path.read_bytes(), Sampling("uniform", 6))
    assert clip.n_frames == scene.n_frames
    for index, frame in zip(clip.frame_index.tolist(), clip.frames, strict=True):
        assert psnr(frame, render_frame(scene, index)) > 30


def test_every_frame_of_a_file_is_the_rendered_one(dataset):
    _, clips = dataset
    for clip in clips:
        decoded = pyav_frames(clip.path)
        assert len(decoded) == clip.scene.n_frames
        for index, frame in enumerate(decoded):
            ratios = [
                psnr(frame, render_frame(clip.scene, near))
                for near in range(max(index - 1, 0), min(index + 2, len(decoded)))
            ]
            assert ratios[min(index, 1)] == max(ratios)
            assert ratios[min(index, 1)] > 25


def test_the_annotations_have_kinetics_columns_and_name_the_files(dataset):
    folder, clips = dataset
    with (folder / "annotations.csv").open(newline="") as stream:
        reader = csv.DictReader(stream)
        rows = list(reader)
    assert reader.fieldnames == ["label", "youtube_id", "time_start", "time_end", "split"]
    assert [row["label"] for row in rows] == LABELS
    assert len({row["youtube_id"] for row in rows}) == N_CLIPS
    for row, clip in zip(rows, clips, strict=True):
        start, end = int(row["time_start"]), int(row["time_end"])
        assert clip.path.name == f"{row['youtube_id']}_{start:06d}_{end:06d}.mp4"
        assert clip.path.parent == folder / "clips" / "val"
        assert (end - start, row["split"]) == (10, "val")


@pytest.mark.parametrize("layout", ["flat", "class_folders"])
def test_the_manifest_of_the_annotations_finds_every_clip(tmp_path, layout):
    clips = list(write_dataset(small(tmp_path, layout=layout, split="train")))
    table = build_manifest(
        layout="kinetics",
        clips=str(tmp_path / "clips"),
        annotations=str(tmp_path / "annotations.csv"),
        split="train",
    )
    assert table["label"].to_pylist() == LABELS
    assert [tmp_path / "clips" / path for path in table["path"].to_pylist()] == [
        clip.path for clip in clips
    ]


def test_the_manifest_of_class_folders_has_the_same_labels(tmp_path):
    clips = list(write_dataset(small(tmp_path, layout="class_folders")))
    table = build_manifest(layout="folders", clips=str(tmp_path / "clips" / "val"))
    labels = dict(zip(table["path"].to_pylist(), table["label"].to_pylist(), strict=True))
    for clip, label in zip(clips, LABELS, strict=True):
        assert labels.pop(clip.path.relative_to(tmp_path / "clips" / "val").as_posix()) == label
    assert not labels


def test_the_ground_truth_is_the_scenes(dataset):
    folder, clips = dataset
    truth = zarr.open_group(folder / "ground_truth.zarr", mode="r")
    assert truth["mask"].metadata.dimension_names == ("clip", "frame", "y", "x")
    masks = truth["mask"][:]
    for row, clip in enumerate(clips):
        scene = clip.scene
        assert truth["video_id"][row] == clip.video_id
        assert truth["action"][row] == scene.action == ACTIONS[row % len(ACTIONS)]
        assert truth["n_frames"][row] == scene.n_frames
        assert truth["fps"][row] == 8
        assert tuple(truth["window"][row]) == scene.window
        for frame in range(scene.n_frames):
            assert np.array_equal(masks[row, frame], actor_mask(scene, frame))
        assert not masks[row, scene.n_frames :].any()
    assert masks.shape == (N_CLIPS, max(clip.scene.n_frames for clip in clips), 64, 96)


def assert_same_dataset(folder, other):
    name = "annotations.csv"
    assert (other / name).read_bytes() == (folder / name).read_bytes()
    paths = sorted((folder / "clips").rglob("*.mp4"))
    assert len(paths) == N_CLIPS
    for path in paths:
        assert np.array_equal(pyav_frames(path), pyav_frames(other / path.relative_to(folder)))
    name = "ground_truth.zarr"
    truth, again = (zarr.open_group(path / name, mode="r") for path in (folder, other))
    for array in truth.array_keys():
        assert truth[array][:].tolist() == again[array][:].tolist()


@pytest.mark.parametrize("n_workers", [1, 3])
def test_the_same_configuration_writes_the_same_again(dataset, tmp_path, n_workers):
    list(write_dataset(small(tmp_path, n_workers=n_workers)))
    assert_same_dataset(dataset[0], tmp_path)


@pytest.mark.parametrize("byte", [85, 170])
def test_what_memory_held_before_does_not_show_in_the_frames(dataset, tmp_path, byte):
    config = small(tmp_path).model_dump(exclude_defaults=True)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in config.items()]
    # glibc fills what a process allocates; an encoder that reads before it writes then differs.
    subprocess.run(
        [sys.executable, "-m", "jobs.synthesize", *flags],
        env=os.environ | {"MALLOC_PERTURB_": str(byte)},
        check=True,
        capture_output=True,
    )
    assert_same_dataset(dataset[0], tmp_path)


def test_another_seed_writes_other_clips_under_other_ids(dataset, tmp_path):
    _, clips = dataset
    ids = {clip.video_id for clip in clips}
    for seed in (1, 1000):
        others = list(write_dataset(small(tmp_path / str(seed), seed=seed, n_clips=2)))
        assert ids.isdisjoint(clip.video_id for clip in others)
        frames = [pyav_frames(clip.path)[0] for clip in (clips[0], others[0])]
        assert not np.array_equal(*frames)


def test_a_folder_can_be_written_again_but_not_with_another_dataset(tmp_path):
    first = list(write_dataset(small(tmp_path, n_clips=3)))
    assert list(write_dataset(small(tmp_path, n_clips=3))) == first
    annotations = (tmp_path / "annotations.csv").read_text()
    for changes in ({"n_clips": 2}, {"n_clips": 3, "seed": 1}, {"n_clips": 3, "split": "train"}):
        with pytest.raises(ConfigError, match=r"out: .* clips of another dataset"):
            write_dataset(small(tmp_path, **changes))
    assert (tmp_path / "annotations.csv").read_text() == annotations


BAD_ARGUMENTS = {
    "odd width": ({"width": 97}, "width: .*multiple of 2"),
    "odd height": ({"height": 65}, "height: .*multiple of 2"),
    "tiny": ({"height": 32}, "height: .*greater than or equal to 64"),
    "upright": ({"width": 64, "height": 96}, "width: 64 is below height=96"),
    "shortest above longest": ({"max-duration-s": 1.5, "min-duration-s": 2}, "min_duration_s: 2"),
    "shortest above the default": ({"max-duration-s": 10, "min-duration-s": 12}, "min_duration_s"),
    "endless": ({"max-duration-s": "inf"}, "max_duration_s: .*finite"),
    "no length": ({"min-duration-s": "nan"}, "min_duration_s: "),
    "no clips": ({"n-clips": 0}, "n_clips: "),
    "split that is a path": ({"split": "../val"}, "split: "),
    "split without a name": ({"split": ""}, "split: "),
    "unknown layout": ({"layout": "nested"}, "layout: .*'flat'"),
}


def refused(capsys, **flags):
    argv = [f"--{name}={value}" for name, value in flags.items()]
    assert run_job(SynthesizeConfig, synthesize, verb="synthesize", argv=argv) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.count("\n") == 1
    return stderr


@pytest.mark.parametrize(("flags", "reason"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_a_bad_argument_is_one_line_and_nothing_is_written(capsys, tmp_path, flags, reason):
    out = tmp_path / "dataset"
    message = refused(capsys, out=out, **{"n-clips": 1, "fps": 4} | flags)
    with pytest.raises(ConfigError, match=reason):
        raise ConfigError(message)
    assert not out.exists()


@pytest.mark.parametrize(
    "blocked", [".", "clips", "clips/val", "annotations.csv", "ground_truth.zarr"]
)
def test_a_folder_that_can_not_be_written_is_one_line(capsys, tmp_path, blocked):
    target = tmp_path / "dataset" / blocked
    target.parent.mkdir(parents=True, exist_ok=True)
    if blocked == "annotations.csv":
        target.mkdir()
    else:
        target.write_text("a file")
    message = refused(capsys, out=tmp_path / "dataset", **{"n-clips": 1})
    assert message.startswith(f"synthesize: error: out: can't write {tmp_path / 'dataset'}")
    assert "None" not in message
