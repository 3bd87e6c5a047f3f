"""Joined transport streams are whole; what lost packets isn't, wherever they were lost."""

import numpy as np
import pytest

from pipeline.clips.decode import read_frames
from pipeline.clips.recording import open_recording
from pipeline.clips.sampling import Sampling
from pipeline.clips.transport_joins import with_joins_mended
from pipeline.status import DecodeError, Status
from tests.support.clips import write_mp4
from tests.support.recordings import forward_frames, noisy_frames, write_remuxed

KINDS = {
    "h264": {"g": "12", "bf": "2"},
    "hevc": {"codec": "libx265", "x265-params": "log-level=none:keyint=12"},
    "mpeg2": {"codec": "mpeg2video", "g": "12", "bf": "2"},
}
FRAMES = noisy_frames(36)
ALL = Sampling("uniform", len(FRAMES))
PACKET = 188


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("streams")


def stream(folder, kind, first, last, **options):
    path = folder / f"{kind} {first} {last} {len(options)}.ts"
    if not path.exists():
        whole = write_mp4(folder / f"whole{path.name}", FRAMES[first:last], 25.0, **KINDS[kind])
        write_remuxed(whole, path, **options)
    return path.read_bytes()


@pytest.mark.parametrize("options", [{}, {"mpegts_m2ts_mode": "1"}], ids=["ts", "m2ts"])
@pytest.mark.parametrize("kind", KINDS)
def test_joined_streams_have_the_frames_of_all(folder, kind, options):
    parts = [stream(folder, kind, first, first + 12, **options) for first in (0, 12, 24)]
    frames = read_frames(b"".join(parts), ALL).frames
    expected = [frame for part in parts for frame in forward_frames(part)[0]]
    assert np.array_equal(frames, expected)


@pytest.mark.parametrize("place", ["amid", "in front of the tables"])
@pytest.mark.parametrize("kind", KINDS)
def test_where_packets_were_lost_a_frame_is_named(folder, kind, place):
    data = stream(folder, kind, 0, 36)
    packets = [data[at : at + PACKET] for at in range(0, len(data), PACKET)]
    tables = [n for n, packet in enumerate(packets) if packet[1] & 0x5F == 0x40 and not packet[2]]
    # Video's are all between two tables but these two.
    video = [n for n in range(tables[1], tables[2]) if packets[n][1:3] != packets[tables[1]][1:3]]
    lost = video[len(video) // 2] if place == "amid" else tables[2] - 1
    if place != "amid":
        # The service's name may stand in front of the tables.
        lost = max(n for n in range(lost + 1) if packets[n][1] & 0x1F == 1)
    del packets[lost]
    with pytest.raises(DecodeError, match=r"frame \d+ of \d+ can't be decoded") as caught:
        read_frames(b"".join(packets), Sampling("uniform", 30))
    assert caught.value.status is Status.TRUNCATED


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_by_itself_is_not_changed(folder, kind):
    data = stream(folder, kind, 0, 36)
    assert with_joins_mended(data, PACKET, 0) is data
    cut = data[PACKET * 40 + 7 :]
    assert with_joins_mended(cut, PACKET, PACKET - 7) is cut
    assert with_joins_mended(data[:PACKET], PACKET, 0) == data[:PACKET]


def test_a_joined_stream_that_lost_packets_is_damaged_there(folder):
    first, second = (stream(folder, "h264", start, start + 12) for start in (0, 12))
    middle = len(second) // PACKET // 2 * PACKET
    lossy = second[:middle] + second[middle + PACKET :]
    with pytest.raises(DecodeError, match="frame"):
        read_frames(first + lossy, Sampling("uniform", 24))
    timeline = open_recording(first + second, "pyav").timeline
    assert timeline.n_frames == 24
    np.testing.assert_allclose(timeline.seconds(np.arange(24)), np.arange(24) / 25)
