"""Pictures' numbers in H.264 tell whether one that others may refer to is missing."""

import random

import av
import pytest

from pipeline.clips.frame_numbers import FrameNumbers
from pipeline.clips.pictures import picture_reader
from tests.support.clips import write_mp4
from tests.support.mutations import seed_of_the_day
from tests.support.recordings import noisy_frames, write_remuxed

STREAMS = {
    "b_pyramid": {"g": "20", "bf": "5", "x264-params": "b-pyramid=normal:ref=4"},
    "no_b_frames": {"g": "50", "bf": "0"},
    "baseline": {"profile": "baseline", "g": "30"},
    "scaling_lists": {"g": "20", "bf": "2", "x264-params": "cqm=jvt"},
    "own_scaling_lists": {"g": "20", "x264-params": "cqm4=" + ",".join(map(str, range(16, 32)))},
    "colours_in_full": {"g": "20", "bf": "2", "pix_fmt": "yuv444p", "x264-params": "cqm=jvt"},
    "grey": {"g": "20", "bf": "2", "pix_fmt": "gray"},
    "ten_bits": {"g": "20", "bf": "2", "pix_fmt": "yuv420p10le"},
    "slices": {"g": "20", "bf": "2", "x264-params": "slices=3:repeat-headers=1"},
    "many_numbers": {"g": "250", "bf": "0", "x264-params": "keyint=250"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("streams")


def write(folder, name, suffix):
    path = folder / f"{name}{suffix}"
    if not path.exists():
        write_mp4(path, noisy_frames(), 25.0, **STREAMS[name])
    return path


def read(path):
    """Packets, and what is said of each."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        reader = picture_reader("h264", stream.codec_context.extradata)
        packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
        return packets, [reader(packet) for packet in packets]


def is_referred(packet):
    """Whether others may refer to a picture: bits 5 and 6 of its slices' first byte, in MP4."""
    start = 0
    while packet[start + 4] & 0x1F not in (1, 5):
        start += 4 + int.from_bytes(packet[start : start + 4], "big")
    return bool(packet[start + 4] & 0x60)


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".h264"])
@pytest.mark.parametrize("name", STREAMS)
def test_in_a_whole_stream_each_picture_is_the_next(folder, name, suffix):
    _, pictures = read(write(folder, name, suffix))
    assert len(pictures) == 60
    assert not any(picture.doubtful or picture.is_damaged for picture in pictures)


@pytest.mark.parametrize("name", STREAMS)
def test_a_missing_picture_shows_if_others_may_refer_to_it(folder, tmp_path, name):
    whole = write(folder, name, ".mp4")
    packets, pictures = read(whole)
    for lost in (n for n in range(6, 54, 5) if not pictures[n + 1].is_entry):
        path = write_remuxed(whole, tmp_path / "a.mp4", change=lambda n, _, k=lost: n != k)
        doubtful = [picture.doubtful for picture in read(path)[1]]
        assert any(doubtful) == is_referred(packets[lost]), lost
        assert not any(doubtful[:lost])


def test_whatever_the_bytes_are_they_are_read():
    draw = random.Random(seed_of_the_day())
    for _ in range(2000):
        data = draw.choice([b"", b"\1", b"\0\0\1\x67", b"\x67"]) + draw.randbytes(
            draw.randrange(90)
        )
        numbers = FrameNumbers(data)
        if data:
            numbers.is_next(data, [draw.randrange(len(data))])
