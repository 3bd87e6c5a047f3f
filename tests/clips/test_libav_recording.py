"""Whatever is sampled of a recording, its frames are those of reading it forward.

The reference is PyAV reading every frame of the file, without plans, numbers or options.
"""

import gc
import os
import random
import re
import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.clips.containers import demuxer_of
from pipeline.clips.decode import ClipFrames, Reading, read_frames, read_views
from pipeline.clips.libav_recording import LibavRecording
from pipeline.clips.sampling import Sampling
from pipeline.status import DecodeError, Status
from tests.support.clips import REAL_CLIPS, turn_mp4, write_mp4
from tests.support.recordings import (
    DAMAGE,
    KINDS,
    N_FRAMES,
    damaged,
    forward_frames,
    noisy_frames,
    packets_of,
    set_edits,
    write_fragmented,
    write_kind,
    write_remuxed,
)

SEED = datetime.now(UTC).date().toordinal()
"""Another one on each day (UTC)."""
FPS = 25.0
FRAMES = noisy_frames()
CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("recordings")


@pytest.fixture
def seed(request):
    print("seed", SEED)
    return random.Random(f"{SEED} {request.node.name}")


def open_libav(data, **limits):
    return LibavRecording(data, demuxer_of(data), **limits)


def assert_reads_as_forward(data, seed, **limits):
    expected, times = forward_frames(data)
    recording = open_libav(data, **limits)
    timeline = recording.timeline
    assert timeline.n_frames == len(expected)
    for size in {1, 2, 5, min(8, len(expected)), len(expected)}:
        positions = sorted(seed.sample(range(len(expected)), min(size, len(expected))))
        for position, frame in zip(positions, recording.frames_at(positions), strict=True):
            assert np.array_equal(frame, expected[position]), (position, positions)
    return timeline, times


@pytest.mark.parametrize("name", KINDS)
def test_frames_at_any_positions_are_those_of_reading_forward(folder, name, seed):
    timeline, _ = assert_reads_as_forward(write_kind(folder, name).read_bytes(), seed)
    assert timeline.n_frames == N_FRAMES
    assert timeline.is_constant
    seconds = timeline.seconds(np.arange(N_FRAMES))
    # GIF counts in 1/100 s, FLV and Matroska in 1/1000.
    np.testing.assert_allclose(seconds, np.arange(N_FRAMES) / timeline.fps, atol=0.011)


@pytest.mark.parametrize("path", REAL_CLIPS)
def test_real_clips_are_read_as_forward(path, seed):
    expected, _ = forward_frames(path.read_bytes())
    positions = sorted(seed.sample(range(len(expected)), min(8, len(expected))))
    recording = open_libav(path.read_bytes())
    assert recording.timeline.n_frames == len(expected)
    for position, frame in zip(positions, recording.frames_at(positions), strict=True):
        assert np.array_equal(frame, expected[position]), position


EDITS = {
    "start hidden": [(7, 53)],
    "end hidden": [(0, 59)],
    "half hidden": [(0, 30)],
    "both hidden": [(5, 31)],
    "middle cut out": [(0, 20), (40, 20)],
    "middle cut out beside key frames": [(0, 23), (31, 17)],
    "a part twice": [(0, 20), (0, 20)],
}
"""Parts that are shown, each from a frame on for a number of frames."""


@pytest.mark.parametrize("b_frames", ["0", "3"])
@pytest.mark.parametrize("shown", EDITS.values(), ids=EDITS)
def test_after_an_edit_list_there_is_what_a_player_shows(tmp_path, shown, b_frames, seed):
    path = write_mp4(tmp_path / "clip.mp4", FRAMES, FPS, g="15", bf=b_frames)
    whole, _ = forward_frames(path.read_bytes())
    set_edits(path, *((start / FPS, n / FPS) for start, n in shown))
    timeline, _ = assert_reads_as_forward(path.read_bytes(), seed)
    numbers = [number for start, n in shown for number in range(start, start + n)]
    assert timeline.n_frames == len(numbers)
    frames = open_libav(path.read_bytes()).frames_at(range(len(numbers)))
    for number, frame in zip(numbers, frames, strict=True):
        assert np.array_equal(frame, whole[number]), number


def test_a_fragmented_file(tmp_path, seed):
    data = write_fragmented(tmp_path / "clip.mp4").read_bytes()
    assert assert_reads_as_forward(data, seed)[0].n_frames == N_FRAMES


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_a_recording_without_a_duration(tmp_path, suffix, seed):
    codec = {"codec": "libvpx"} if suffix == ".webm" else {"g": "20"}
    whole = write_mp4(tmp_path / f"whole{suffix}", FRAMES, FPS, **codec)
    live = write_remuxed(whole, tmp_path / f"live{suffix}", live="1")
    with av.open(str(live)) as container:
        assert container.duration is None
    assert assert_reads_as_forward(live.read_bytes(), seed)[0].n_frames == N_FRAMES


def test_a_camcorders_transport_stream(tmp_path, seed):
    source = write_mp4(tmp_path / "clip.ts", FRAMES, FPS, g="12", bf="2")
    path = write_remuxed(source, tmp_path / "clip.m2ts", format="mpegts", mpegts_m2ts_mode="1")
    data = path.read_bytes()
    assert data[4] == data[4 + 192] == 0x47
    assert assert_reads_as_forward(data, seed)[0].n_frames == N_FRAMES


@pytest.mark.parametrize("name", ["h264.ts", "hevc.ts", "mpeg2.ts"])
def test_a_transport_stream_that_was_cut_out_of_a_longer_one(folder, name, seed):
    data = write_kind(folder, name).read_bytes()
    middle = len(data) // 3 // 188 * 188
    assert_reads_as_forward(data[middle:], seed)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_an_open_group_of_pictures_at_the_start(tmp_path, codec, suffix, seed):
    options = {
        "libx264": {"g": "12", "bf": "3", "x264-params": "open-gop=1"},
        "libx265": {"x265-params": "log-level=none:keyint=15:open-gop=1:bframes=4"},
    }[codec]
    whole = write_mp4(tmp_path / "whole.mkv", FRAMES, FPS, codec=codec, **options)
    with av.open(str(whole)) as container:
        packets = [p for p in container.demux(container.streams.video[0]) if p.size]
        second = [number for number, p in enumerate(packets) if p.is_keyframe][1]
    for start in (second, second - 4):
        path = write_remuxed(
            whole, tmp_path / f"cut{start}{suffix}", change=lambda n, _, s=start: n >= s
        )
        timeline, _ = assert_reads_as_forward(path.read_bytes(), seed)
        assert 0 < timeline.n_frames < N_FRAMES


def _with_times(offsets):
    """Give packets the times of others, so far off by their number modulo 4."""

    def change(number, packet):
        packet.pts += 200 + 40 * offsets.get(number % 4, 0)

    return change


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("offsets", [{0: 2, 2: -2}, {3: -1}], ids=["unordered", "double"])
def test_times_that_are_no_order_are_not_planned_by(tmp_path, offsets, suffix, seed):
    source = write_mp4(tmp_path / "a.mkv", FRAMES, FPS, codec="mpeg4", bf="0", g="10")
    path = write_remuxed(source, tmp_path / f"b{suffix}", change=_with_times(offsets))
    recording = open_libav(path.read_bytes())
    assert recording._order is None
    assert_reads_as_forward(path.read_bytes(), seed)


@pytest.mark.parametrize("name", ["b_frames.mp4", "one_gop.mp4", "hevc.mp4", "mpeg4.mp4"])
def test_times_of_decoding_are_not_planned_by(folder, tmp_path, name, seed):
    """Bare streams have no other times, and copying them into MP4 leaves it at that."""

    def as_decoded(_, packet):
        # Negative ones would be hidden.
        packet.dts += 10 * packet.duration
        packet.pts = packet.dts

    path = write_remuxed(write_kind(folder, name), tmp_path / name, change=as_decoded)
    expected, _ = forward_frames(write_kind(folder, name).read_bytes())
    for position, frame in enumerate(expected):
        # A frame alone doesn't show that the order is another.
        assert np.array_equal(next(open_libav(path.read_bytes()).frames_at([position])), frame)
    assert_reads_as_forward(path.read_bytes(), seed)


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("no_b_frames.mov", {12, 19, 23}),
        ("one_gop.mp4", {18, 19}),
        ("one_gop.mp4", set(range(14, 22))),
        ("weighted.mp4", {6, 29}),
        ("open_gop.mkv", {13, 20, 22, 28, 41, 43, 55, 56}),
        ("pyramid_strict.flv", {31, 32}),
        ("pyramid_strict.flv", {36}),
        ("cavlc.3gp", set(range(17, 25))),
        ("h264_10_bit.mp4", {38}),
        ("mpeg4.mp4", {7}),
        ("mpeg4.mkv", {34}),
        ("mpeg1.mkv", {20, 21, 22}),
        ("mpeg2.mkv", {8, 19}),
        ("mpeg2.mp4", set(range(13, 21))),
    ],
)
def test_where_packets_were_lost_a_frame_is_the_same_alone_and_with_others(
    folder, tmp_path, name, lost
):
    """A network lost them, and the container doesn't say so. Decoders make up what they lack."""
    whole = write_kind(folder, name)
    path = write_remuxed(whole, tmp_path / name, change=lambda number, _: number not in lost)
    data = path.read_bytes()
    expected, _ = forward_frames(data)
    readings = open_libav(data).frames_at(range(len(expected)))
    for position, frame in enumerate(readings):
        assert np.array_equal(frame, expected[position]), position
        alone = next(open_libav(data).frames_at([position]))
        assert np.array_equal(alone, expected[position]), position


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".flv"])
def test_an_encoder_that_may_reorder_and_does_not_is_planned_by(tmp_path, suffix, seed):
    # Of noise x264 makes no B-frames, though its header says that it may.
    noise = np.random.default_rng(seed.getrandbits(32)).integers(0, 256, (30, 64, 64, 3), np.uint8)
    path = write_mp4(tmp_path / f"clip{suffix}", noise, FPS, bf="2", g="10")
    with av.open(str(path)) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.size]
        assert container.streams.video[0].codec_context.reorder_depth
    assert times == sorted(times)
    assert open_libav(path.read_bytes())._order is not None
    assert_reads_as_forward(path.read_bytes(), seed)


@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_a_recording_that_begins_amid_a_group_begins_with_its_first_key_frame(
    folder, tmp_path, suffix
):
    source = write_kind(folder, "mpeg4.avi")
    path = write_remuxed(source, tmp_path / f"cut{suffix}", change=lambda number, _: number >= 5)
    whole, _ = forward_frames(source.read_bytes())
    with av.open(str(source)) as container:
        packets = [packet for packet in container.demux() if packet.size]
        first = next(n for n, packet in enumerate(packets) if n >= 5 and packet.is_keyframe)
    assert open_libav(path.read_bytes()).timeline.n_frames == N_FRAMES - first
    for position in (0, 1, 20):
        frame = next(open_libav(path.read_bytes()).frames_at([position]))
        assert np.array_equal(frame, whole[first + position])


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_negative_times(tmp_path, suffix, seed):
    source = write_mp4(tmp_path / "a.mkv", FRAMES, FPS, codec="mpeg4", bf="0", g="10")

    def earlier(_, packet):
        packet.pts, packet.dts = packet.pts - 500, packet.dts - 500

    path = write_remuxed(source, tmp_path / f"b{suffix}", change=earlier)
    assert_reads_as_forward(path.read_bytes(), seed)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_times_of_a_variable_rate_are_the_containers(tmp_path, suffix, seed):
    times = np.cumsum(np.random.default_rng(SEED).integers(8, 120, N_FRAMES))
    path = write_mp4(tmp_path / f"a{suffix}", FRAMES, times=times.tolist(), g="20", bf="2")
    timeline, told = assert_reads_as_forward(path.read_bytes(), seed)
    assert not timeline.is_constant
    seconds = timeline.seconds(np.arange(N_FRAMES))
    np.testing.assert_allclose(seconds, np.array(told) - told[0], atol=1e-9)
    np.testing.assert_allclose(seconds, (times - times[0]) / 1000, atol=1e-3)


def test_turned_pictures(tmp_path, seed):
    path = turn_mp4(write_mp4(tmp_path / "a.mp4", FRAMES, FPS, bf="2"))
    assert_reads_as_forward(path.read_bytes(), seed)
    assert next(open_libav(path.read_bytes()).frames_at([0])).shape == (96, 64, 3)


def without_frames(data: bytes, left_out: set[int]) -> bytes:
    """Replace frames of an AVI file by empty chunks, as webcams do; without its index."""
    start = data.index(b"movi") + 4
    chunks, at = [], start
    while data[at : at + 4] == b"00dc":
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        chunks.append(data[at : at + 8 + size + size % 2])
        at += len(chunks[-1])
    for number in left_out:
        chunks[number] = b"00dc" + bytes(4)
    frames = b"movi" + b"".join(chunks)
    body = data[8 : start - 8] + len(frames).to_bytes(4, "little") + frames
    return b"RIFF" + len(body).to_bytes(4, "little") + body


@pytest.mark.parametrize("left_out", [{5, 6, 20}, {1, 58}])
def test_frames_that_a_webcam_left_out_have_taken_their_time(folder, left_out, seed):
    data = without_frames(write_kind(folder, "mjpeg.avi").read_bytes(), left_out)
    timeline, times = assert_reads_as_forward(data, seed)
    there = [n for n in range(N_FRAMES) if n not in left_out]
    seconds = timeline.seconds(np.arange(len(there)))
    np.testing.assert_allclose(seconds, np.array(there) / FPS, atol=1e-9)
    np.testing.assert_allclose(seconds, times, atol=1e-9)


def with_every_second_left_out(data: bytes) -> bytes:
    """Put an empty chunk behind each frame of an AVI file, as copying from MP4 does."""
    start = data.index(b"movi") + 4
    frames, at = b"movi", start
    while data[at : at + 4] == b"00dc":
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        frames += data[at : at + 8 + size + size % 2] + b"00dc" + bytes(4)
        at += 8 + size + size % 2
    body = data[8 : start - 8] + len(frames).to_bytes(4, "little") + frames
    return b"RIFF" + len(body).to_bytes(4, "little") + body


@pytest.mark.parametrize("name", ["h264.avi", "h264_b_frames.avi", "mpeg4.avi"])
def test_an_avi_file_whose_header_has_twice_the_rate_has_the_times_of_its_chunks(
    folder, name, seed
):
    data = with_every_second_left_out(write_kind(folder, name).read_bytes())
    timeline, _ = assert_reads_as_forward(data, seed)
    seconds = timeline.seconds(np.arange(N_FRAMES))
    np.testing.assert_allclose(seconds[:-1], 2 * np.arange(N_FRAMES - 1) / FPS, atol=1e-9)
    # libavformat tells the last one's time too early by a chunk.
    assert seconds[-1] == pytest.approx(2 * (N_FRAMES - 1) / FPS, abs=1.1 / FPS)
    assert timeline.clock_rate == pytest.approx(FPS / 2, rel=0.01)


def test_the_times_of_decoding_tell_a_variable_rate(tmp_path):
    times = np.cumsum(np.random.default_rng(SEED).integers(30, 120, N_FRAMES)).tolist()
    source = write_mp4(tmp_path / "a.mp4", FRAMES, times=times, g="20", bf="2")

    def as_decoded(number, packet):
        packet.pts = packet.dts = times[number] * 16

    path = write_remuxed(source, tmp_path / "b.mp4", change=as_decoded)
    timeline = open_libav(path.read_bytes()).timeline
    seconds = timeline.seconds(np.arange(N_FRAMES))
    np.testing.assert_allclose(
        np.diff(seconds) / np.diff(times), np.diff(seconds)[0] / (times[1] - times[0]), rtol=1e-3
    )


def result(outcome):
    """What is compared of an outcome: its frames' bytes, or its status and message."""
    if isinstance(outcome, DecodeError):
        return outcome.status, outcome.message
    return outcome.frame_index.tolist(), outcome.frames.tobytes()


DAMAGED_KINDS = [
    *("b_frames.mp4", "no_b_frames.mov", "pyramid.mkv", "open_gop.mp4", "interlaced.mp4"),
    *("hevc.mkv", "hevc_open_gop.mp4", "h264_b_frames.avi", "h264.ts", "mpeg2.mkv", "mpeg2.mpg"),
    *("mpeg4.mp4", "mpeg4.avi", "mjpeg.mov", "vp9.webm", "wmv2.wmv", "av1.mkv"),
]
SAMPLINGS = [
    Sampling("uniform", 8),
    Sampling("uniform", 3),
    Sampling("strided", 4, stride=4, position=0.0),
    Sampling("uniform", N_FRAMES),
]


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", DAMAGED_KINDS)
def test_what_becomes_of_a_damaged_file_is_a_function_of_its_bytes(folder, name, how, seed):
    path = write_kind(folder, name)
    places = [n for n, (start, size, _) in enumerate(packets_of(path)) if start and size > 12]
    for packet in seed.sample(places, min(3, len(places))):
        assert_reads_in_one_way(damaged(path, packet, how, seed))


def assert_reads_in_one_way(data):
    """A sampling gives the same, whatever is read with it and as often as it is read."""
    readings = [Reading(sampling) for sampling in SAMPLINGS]
    together = [result(outcome) for outcome in read_views(data, readings)]
    alone = [result(read_views(data, [reading])[0]) for reading in readings]
    pairs = [result(outcome) for outcome in read_views(data, readings[1:3])]
    assert together == alone
    assert together[1:3] == pairs


@pytest.mark.parametrize(
    ("name", "packet", "byte", "bit"),
    [
        ("mpeg2.mpg", 54, 21, 4),
        ("h264_b_frames.avi", 28, 9, 7),
        ("h264_b_frames.avi", 45, 9, 6),
        ("theora_like.ogg", 2, 39, 6),
        ("theora_like.ogg", 18, 15, 6),
        ("vp8.webm", 55, 9, 0),
    ],
)
def test_what_a_flipped_bit_leaves_undecoded_is_a_function_of_the_bytes_too(
    folder, name, packet, byte, bit
):
    """No error is seen, and in some places the picture is what its buffer held before."""
    path = write_kind(folder, name)
    data = bytearray(path.read_bytes())
    data[packets_of(path)[packet][0] + byte] ^= 1 << bit
    assert_reads_in_one_way(bytes(data))


@pytest.mark.parametrize("name", ["b_frames.mp4", "h264.ts", "mpeg2.mpg"])
def test_a_frame_goes_back_to_its_decoder_once_it_has_been_taken(folder, name):
    """Not only when Python looks for cycles, which is at no moment that the bytes decide."""

    def kept():
        return sum(isinstance(each, av.VideoFrame) for each in gc.get_objects())

    recording = open_libav(write_kind(folder, name).read_bytes())
    gc.collect()
    gc.disable()
    # What is there isn't looked through again for each frame.
    gc.freeze()
    try:
        for _ in recording.frames_at(range(N_FRAMES)):
            # The one that is taken, and what a decoder that ends has given with it.
            assert kept() < N_FRAMES // 4
    finally:
        gc.unfreeze()
        gc.enable()


@pytest.mark.parametrize("how", ["zeros", "noise"])
@pytest.mark.parametrize("name", ["b_frames.mp4", "no_b_frames.mov", "hevc.mp4", "mpeg4.avi"])
def test_the_message_names_the_damaged_frame_and_one_behind_the_last_sample_is_not_the_clips(
    folder, name, how, seed
):
    path = write_kind(folder, name)
    whole, _ = forward_frames(path.read_bytes())
    packets = packets_of(path)
    times = sorted(time or 0 for *_, time in packets)
    for packet in seed.sample(range(1, N_FRAMES), 4):
        position = packet if name.endswith("avi") else times.index(packets[packet][2])
        data = damaged(path, packet, how, seed)
        with pytest.raises(DecodeError) as caught:
            read_frames(data, Sampling("uniform", N_FRAMES))
        assert caught.value.status is Status.TRUNCATED
        named = re.match(r"frame (\d+) of 60 can't be decoded: ", caught.value.message)
        # What isn't seen in the picture itself is seen in the next that refers to it.
        assert named, caught.value.message
        assert abs(int(named[1]) - position) <= 3, (position, caught.value.message)
        # In the order of decoding, all before the packet is whole.
        before = [n for n in range(N_FRAMES) if n < position - 4]
        for frame, number in zip(open_libav(data).frames_at(before), before, strict=True):
            assert np.array_equal(frame, whole[number])


@pytest.mark.parametrize("percent", [35, 50, 65, 80])
def test_a_program_stream_that_was_cut_short_is_whole_up_to_there(tmp_path, percent):
    path = write_mp4(tmp_path / "a.mpg", FRAMES, FPS, codec="mpeg2video", g="20")
    data = path.read_bytes()
    expected, _ = forward_frames(data)
    recording = open_libav(data[: len(data) * percent // 100])
    frames = []
    with pytest.raises(DecodeError) as caught:
        frames.extend(recording.frames_at(range(recording.timeline.n_frames)))
    # `extend` keeps what came before the error.
    named = re.match(r"frame (\d+) of \d+ can't be decoded", caught.value.message)
    assert named, caught.value.message
    assert 0 < len(frames) <= int(named[1]) <= len(frames) + 3
    assert all(np.array_equal(f, expected[n]) for n, f in enumerate(frames))


def test_damage_that_no_frame_needs_is_not_the_clips(tmp_path, seed):
    path = write_mp4(tmp_path / "a.mp4", FRAMES, FPS, g="10", bf="0", sc_threshold="0")
    whole, _ = forward_frames(path.read_bytes())
    data = damaged(path, 25, "noise", seed)
    # Frames of the group before, and of the next, which begins at frame 30.
    wanted = [24, 30, 45]
    frames = list(open_libav(data).frames_at(wanted))
    assert all(np.array_equal(f, whole[n]) for f, n in zip(frames, wanted, strict=True))
    with pytest.raises(DecodeError, match="frame 25 of 60"):
        list(open_libav(data).frames_at([24, 28]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("b_frames.mp4", "bit"),
        ("open_gop.mp4", "zeros"),
        ("mpeg2.mpg", "noise"),
        ("h264.ts", "tail"),
    ],
)
def test_a_hundred_times_the_same(folder, name, how, seed):
    path = write_kind(folder, name)
    places = [n for n, (start, size, _) in enumerate(packets_of(path)) if start and size > 12]
    data = damaged(path, seed.choice(places), how, seed)
    first = result(read_views(data, [Reading(SAMPLINGS[0])])[0])
    with ExitStack() as busy:
        for number in range(1, 100):
            if number == 50:
                # From here on beside others: more than there are cores.
                for _ in range(2 * (os.cpu_count() or 1)):
                    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                    busy.callback(process.wait)
                    busy.callback(process.kill)
            assert result(read_views(data, [Reading(SAMPLINGS[0])])[0]) == first


@pytest.mark.skipif(not CASES.exists(), reason="no folder shared/cases beside the checkout")
@pytest.mark.parametrize(
    ("name", "n_frames"),
    [
        ("rot_n60_bad57.mp4", 60),
        ("edit_hides_last_1_b.mp4", 59),
        ("live.webm", 60),
        ("m2ts.m2ts", 60),
        ("vfr_5_then_60.mp4", 90),
    ],
)
def test_cases_that_went_wrong(name, n_frames):
    data = (CASES / name).read_bytes()
    clip = read_frames(data, Sampling("uniform", 8, clock="time"))
    assert clip.n_frames == n_frames
    expected, _ = forward_frames(data) if "bad" not in name else (None, None)
    if expected:
        for index, frame in zip(clip.frame_index.tolist(), clip.frames, strict=True):
            assert np.array_equal(frame, expected[index])
    else:
        for n_samples in (16, 60):
            with pytest.raises(DecodeError, match="frame 57 of 60") as caught:
                read_frames(data, Sampling("uniform", n_samples))
            assert caught.value.status is Status.TRUNCATED
    if "vfr" in name:
        # Seven seconds: eight samples lie 7/8 s apart, to the length of a frame of the slow part.
        np.testing.assert_allclose(np.diff(clip.frame_time), 7 / 8, atol=0.2)


def test_a_picture_beyond_all_bounds_is_refused_by_its_size(folder):
    data = bytearray(write_kind(folder, "vp8.webm").read_bytes())
    # Width and height behind a key frame's start code (RFC 6386, 9.1).
    place = data.index(b"\x9d\x01\x2a") + 3
    data[place : place + 4] = b"\xff\x3f\xff\x3f"
    with pytest.raises(DecodeError) as caught:
        read_frames(bytes(data), Sampling("uniform", 1))
    assert caught.value.status in (Status.UNREADABLE, Status.TRUNCATED)


def test_more_packets_than_any_clip_has_are_refused(folder):
    data = write_kind(folder, "b_frames.mp4").read_bytes()
    with pytest.raises(DecodeError, match="more than 59 packets") as caught:
        open_libav(data, max_packets=N_FRAMES - 1)
    assert caught.value.status is Status.UNREADABLE


def test_packets_that_are_not_kept_are_read_again(folder, seed):
    for name in ("b_frames.mp4", "h264.ts"):
        assert_reads_as_forward(write_kind(folder, name).read_bytes(), seed, kept_bytes=0)


def test_a_view_is_the_same_with_others_and_alone(folder):
    data = write_kind(folder, "b_frames.mp4").read_bytes()
    readings = [
        Reading(Sampling("strided", 4, stride=3, position=p), None, start, end)
        for p in (0.0, 0.5, 1.0)
        for start, end in ((None, None), (0.4, 1.7))
    ]
    together = read_views(data, readings)
    for outcome, reading in zip(together, readings, strict=True):
        assert isinstance(outcome, ClipFrames)
        assert result(outcome) == result(read_views(data, [reading])[0])


@pytest.mark.parametrize("dropped", [5, 17, 22, 33])
@pytest.mark.parametrize("name", ["open_gop.mkv", "pyramid.mkv", "b_frames.mp4"])
def test_a_slip_at_which_a_strict_decoder_stops_is_read_as_players_do(
    folder, tmp_path, name, dropped
):
    # What refers to the packet finds another in its place.
    path = write_remuxed(
        write_kind(folder, name), tmp_path / name, change=lambda n, _: n != dropped
    )
    expected, _ = forward_frames(path.read_bytes())
    assert len(expected) == N_FRAMES - 1
    recording = open_libav(path.read_bytes())
    assert recording.timeline.n_frames == N_FRAMES - 1
    for frame, wanted in zip(recording.frames_at(range(N_FRAMES - 1)), expected, strict=True):
        assert np.array_equal(frame, wanted)
