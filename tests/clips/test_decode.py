"""Frames must be the ones asked for, and what can't be read must say why by its status."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import fsspec
import numpy as np
import pytest

from pipeline.clips.decode import ClipFrames, read_frames
from pipeline.clips.fetch import fetch_clip
from pipeline.clips.sampling import Sampling
from pipeline.status import DecodeError, Status
from tests.support.clips import (
    REAL_CLIPS,
    numbered_frames,
    pyav_frames,
    read_numbers,
    trim_mp4,
    turn_mp4,
    write_audio,
    write_mp4,
)

UNIFORM = Sampling("uniform", 8)
FRAMES = numbered_frames(120)


@pytest.fixture(scope="module")
def mp4(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_mp4(path, FRAMES, faststart=True, g="30", bf="3")


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """Gives the bytes of `write_mp4`; each file is encoded once."""
    folder = tmp_path_factory.mktemp("encoded")

    @cache
    def of(name, n_frames=None, **options):
        return write_mp4(folder / name, FRAMES[:n_frames], **options).read_bytes()

    return of


def status_of(data, sampling=UNIFORM):
    with pytest.raises(DecodeError) as caught:
        read_frames(data, sampling)
    assert "\n" not in caught.value.message
    return caught.value.status


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("b_frames.mp4", {"g": "30", "bf": "3"}),
        ("open_gop.mp4", {"g": "24", "bf": "3", "x264-params": "open-gop=1"}),
        ("one_key_frame.mkv", {"g": "250"}),
        ("no_times.avi", {"bf": "0"}),
        ("mpeg4.avi", {"codec": "mpeg4", "bf": "2"}),
        ("mpeg4.mp4", {"codec": "mpeg4", "bf": "2"}),
        ("mpeg1.mpg", {"codec": "mpeg1video"}),
        ("hevc.mp4", {"codec": "libx265", "x265-params": "log-level=none"}),
        ("vp8.webm", {"codec": "libvpx", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "1M"}),
        ("slow.mp4", {"fps": 12.0}),
        ("ntsc.mp4", {"fps": 29.97}),
    ],
)
@pytest.mark.parametrize(
    "sampling",
    [UNIFORM, Sampling("uniform", 120), Sampling("strided", 4, stride=8), Sampling("uniform", 1)],
    ids=["spread", "all", "window", "one"],
)
@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_every_frame_is_the_one_asked_for(encoded, name, options, sampling, decoder):
    clip = read_frames(encoded(name, **options), sampling, decoder=decoder)
    assert clip.n_frames == 120
    np.testing.assert_allclose(clip.frame_time, clip.frame_index / clip.fps, atol=1e-3)
    assert clip.fps == pytest.approx(options.get("fps", 30.0), rel=1e-3)
    assert read_numbers(clip.frames) == clip.frame_index.tolist()
    assert clip.frame_index.tolist() == sampling.indices(n_frames=120, fps=clip.fps).tolist()


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_variable_frame_rate_is_sampled_by_the_clock_or_by_frames(tmp_path, suffix, decoder):
    times = np.cumsum(np.random.default_rng(0).integers(8, 120, len(FRAMES)))
    path = write_mp4(tmp_path / f"clip{suffix}", FRAMES, times=times.tolist(), g="40", bf="2")
    by_clock = replace(UNIFORM, clock="time")
    clip = read_frames(path.read_bytes(), by_clock, decoder=decoder)
    assert read_numbers(clip.frames) == clip.frame_index.tolist()
    seconds = (times - times[0]) / 1000
    np.testing.assert_allclose(clip.frame_time, seconds[clip.frame_index], atol=2e-3)
    # Shown at the time that is asked for: begun before it, and the next begins behind it.
    asked = (np.arange(8) + 0.5) * seconds[-1] / 8
    assert (clip.frame_time <= asked + 0.06).all()
    assert (clip.frame_time >= asked - 0.13).all()
    clip = read_frames(path.read_bytes(), UNIFORM, decoder=decoder)
    assert clip.frame_index.tolist() == UNIFORM.indices(n_frames=120, fps=clip.fps).tolist()
    assert read_numbers(clip.frames) == clip.frame_index.tolist()


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
def test_a_segment_of_a_longer_file(tmp_path, suffix, decoder):
    if (suffix, decoder) == (".ts", "decord"):
        pytest.skip("decord is given no transport streams")
    codec = {"codec": "mpeg4"} if suffix == ".avi" else {}
    path = write_mp4(tmp_path / f"clip{suffix}", FRAMES, g="12", bf="0", **codec)
    data = path.read_bytes()
    clip = read_frames(data, UNIFORM, None, 1.5, 2.9, decoder=decoder)
    # At 30 frames/s: frames 45 to 86.
    assert clip.frame_index.tolist() == (45 + UNIFORM.indices(n_frames=42, fps=30)).tolist()
    assert read_numbers(clip.frames) == clip.frame_index.tolist()
    np.testing.assert_allclose(clip.frame_time, clip.frame_index / 30, atol=1e-3)
    whole = read_frames(data, UNIFORM, None, None, 99.0, decoder=decoder)
    assert whole.frame_index.tolist() == UNIFORM.indices(n_frames=120, fps=30).tolist()
    with pytest.raises(DecodeError, match=r"segment from 3\.9 s to its end has 3 frames") as caught:
        read_frames(data, UNIFORM, None, 3.9, None, decoder=decoder)
    assert caught.value.status is Status.TOO_SHORT


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("n_hidden", [5, 17, 29])
def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path, mp4, n_hidden, decoder):
    path = trim_mp4(mp4, tmp_path / "trimmed.mp4", n_hidden)
    clip = read_frames(path.read_bytes(), UNIFORM, decoder=decoder)
    assert clip.n_frames == len(pyav_frames(path)) == 120 - n_hidden
    assert read_numbers(clip.frames) == (clip.frame_index + n_hidden).tolist()


def test_frames_are_turned_as_the_file_says(tmp_path):
    path = turn_mp4(write_mp4(tmp_path / "turned.mp4", FRAMES[:8]))
    clip = read_frames(path.read_bytes(), UNIFORM)
    assert clip.frames.shape == (8, 160, 96, 3)
    assert read_numbers(np.rot90(clip.frames, axes=(1, 2))) == list(range(8))


@pytest.mark.parametrize("path", REAL_CLIPS)
def test_real_clips_equal_pyavs_frames(path):
    expected = pyav_frames(path)
    n_samples = min(16, len(expected))
    clip = read_frames(path.read_bytes(), Sampling("uniform", n_samples))
    assert clip.n_frames == len(expected)
    for index, frame in zip(clip.frame_index.tolist(), clip.frames, strict=True):
        near = range(max(index - 3, 0), min(index + 4, len(expected)))
        distance = {i: np.abs(expected[i].astype(int) - frame).mean() for i in near}
        # Another FFmpeg may round YUV to RGB otherwise, by a grey level or two.
        assert distance[index] < 2
        assert distance[index] == min(distance.values())


@pytest.mark.parametrize("percent", [10, 50, 90, 99])
@pytest.mark.parametrize("name", ["first.mp4", "last.mp4", "clip.mkv", "clip.webm", "clip.avi"])
def test_a_file_cut_short_is_never_ok(encoded, name, percent):
    suffix = Path(name).suffix
    codec = {".webm": "libvpx", ".avi": "mpeg4"}.get(suffix, "libx264")
    data = encoded(name, 40, codec=codec, faststart=name == "first.mp4")
    cut = data[: len(data) * percent // 100]
    if suffix == ".avi" and cut.find(b"movi") < 0:
        # Cut inside the header, which looks like nothing at all.
        assert status_of(cut) is Status.UNREADABLE
    elif suffix == ".avi" and cut.find(b"idx1") >= 0:
        assert read_numbers(read_frames(cut, UNIFORM).frames) == [2, 7, 12, 17, 22, 27, 32, 37]
    else:
        assert status_of(cut) is Status.TRUNCATED


@pytest.mark.parametrize("path", REAL_CLIPS)
def test_real_clips_declare_what_they_have_and_half_of_one_is_truncated(path):
    data = path.read_bytes()
    assert status_of(data[: len(data) // 2], Sampling("uniform", 1)) is Status.TRUNCATED


def test_damage_in_the_middle_is_truncated(mp4):
    data = bytearray(mp4.read_bytes())
    start = data.index(b"mdat") + 8
    middle = start + (len(data) - start) // 3
    data[middle : middle + 400] = bytes(400)
    assert status_of(bytes(data)) is Status.TRUNCATED


def test_rubbish_behind_a_whole_file_does_no_harm(mp4):
    clip = read_frames(mp4.read_bytes() + b"\xff\xff\xff\xffrubbish and more of it", UNIFORM)
    assert read_numbers(clip.frames) == clip.frame_index.tolist()


def test_no_bytes_is_empty():
    assert status_of(b"") is Status.EMPTY


@pytest.mark.parametrize(
    "data",
    [b"not a video\n" * 100, b"\x00", b"\x1a\x45\xdf\xa3", b"RIFF", bytes(range(256)) * 20],
    ids=["text", "a byte", "start of mkv", "start of avi", "bytes"],
)
def test_what_is_no_video_is_unreadable(data):
    assert status_of(data) is Status.UNREADABLE


def test_sound_alone_is_unreadable(tmp_path):
    assert status_of(write_audio(tmp_path / "sound.mp4").read_bytes()) is Status.UNREADABLE


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_a_transport_stream_is_read_and_refused_by_name_with_decord(tmp_path, codec):
    path = write_mp4(tmp_path / "clip.ts", FRAMES[:40], codec=codec, g="12", bf="2")
    clip = read_frames(path.read_bytes(), UNIFORM)
    assert read_numbers(clip.frames) == clip.frame_index.tolist() == [2, 7, 12, 17, 22, 27, 32, 37]
    with pytest.raises(DecodeError, match="transport stream") as caught:
        read_frames(path.read_bytes(), UNIFORM, decoder="decord")
    assert caught.value.status is Status.UNREADABLE


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (96, 160), (90, 96), (50, 62)])
def test_padding_of_rows_is_no_picture(tmp_path, size, turned):
    height, width = size
    path = write_mp4(tmp_path / "clip.mp4", numbered_frames(8, height=height, width=width))
    expected = pyav_frames(turn_mp4(path) if turned else path)
    frames = read_frames(path.read_bytes(), UNIFORM).frames
    assert frames.shape == expected.shape
    assert np.abs(expected.astype(int) - frames).mean() < 2


def test_one_frame(tmp_path):
    data = write_mp4(tmp_path / "one.mp4", FRAMES[:1]).read_bytes()
    assert status_of(data) is Status.TOO_SHORT
    assert read_frames(data, Sampling("uniform", 1)).frame_index.tolist() == [0]


def test_messages_are_the_same_every_time(mp4):
    data = mp4.read_bytes().replace(b"avc1", b"xxxx")
    messages = set()
    for _ in range(2):
        with pytest.raises(DecodeError) as caught:
            read_frames(data, UNIFORM)
        messages.add(caught.value.message)
    assert len(messages) == 1
    assert caught.value.status is Status.UNREADABLE


@pytest.mark.parametrize("name", ["clip.mp4", "wrong.txt", "a b/ü ['1'] #?%20.mp4", "a::b.mp4"])
def test_a_clip_is_loaded_by_its_path(tmp_path, mp4, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(mp4.read_bytes())
    for root in (str(tmp_path), f"file://{tmp_path}/"):
        assert read_frames(fetch_clip(root, name), UNIFORM).n_frames == 120


def test_a_clip_is_loaded_from_another_filesystem(mp4):
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/decode/a/clip.mp4", mp4.read_bytes())
    assert read_frames(fetch_clip("memory://decode", "a/clip.mp4"), UNIFORM).frames.shape == (
        8,
        96,
        160,
        3,
    )
    with pytest.raises(DecodeError) as caught:
        read_frames(fetch_clip("memory://decode", "b/clip.mp4"), UNIFORM)
    assert caught.value.status is Status.MISSING


def test_what_is_no_file_has_a_status(tmp_path, mp4):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    expected = {
        "absent.mp4": Status.MISSING,
        "file/below.mp4": Status.MISSING,
        "file": Status.EMPTY,
        "folder": Status.UNREADABLE,
        "loop": Status.UNREADABLE,
        "n" * 300: Status.UNREADABLE,
        "nul\0.mp4": Status.UNREADABLE,
    }
    (tmp_path / "loop").symlink_to("loop")
    for path, status in expected.items():
        with pytest.raises(DecodeError) as caught:
            read_frames(fetch_clip(str(tmp_path), path), UNIFORM)
        assert caught.value.status is status


def test_shapes_are_checked_and_shown():
    frames, index = np.zeros((2, 4, 4, 3), np.uint8), np.arange(2)
    times = index / 30
    assert "frames=(2, 4, 4, 3)" in repr(ClipFrames(frames, index, times, 30.0, 2))
    with pytest.raises(ValueError, match=r"\(4, 4, 3\)"):
        ClipFrames(frames[0], index, times, 30.0, 2)
    with pytest.raises(ValueError, match=r"frame_index is \(3,\)"):
        ClipFrames(frames, np.arange(3), times, 30.0, 2)
    with pytest.raises(ValueError, match=r"frame_time is \(3,\)"):
        ClipFrames(frames, index, np.zeros(3), 30.0, 2)
