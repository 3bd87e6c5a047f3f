"""What a decoder's child says of a file's header, without decoding a frame."""

import numpy as np
import pytest

from pipeline.clips.decode import Reading
from pipeline.clips.header import read_header
from pipeline.clips.sampling import Sampling
from pipeline.status import DecodeError, Status
from tests.support.clips import numbered_frames, write_audio, write_mp4

READING = Reading(Sampling(kind="uniform", n_samples=1))


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_a_header_tells_the_number_of_frames_and_the_last_ones_time(tmp_path, decoder):
    data = write_mp4(tmp_path / "a.mp4", numbered_frames(37), fps=25).read_bytes()
    one, other = read_header(data, [READING, READING], decoder)
    for found in (one, other):
        assert found.n_frames == 37
        assert found.frame_index.tolist() == [36]
        assert found.frame_time[0] == pytest.approx(36 / 25)
        assert found.fps == pytest.approx(25)
        assert found.frames.shape == (1, 1, 1, 3)


def test_a_header_is_right_although_every_frame_is_damaged(tmp_path):
    """Frames aren't decoded: only decoding tells that they can't be."""
    path = write_mp4(tmp_path / "a.mp4", numbered_frames(20), faststart=True)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = np.random.default_rng(0).bytes(len(data) - start)
    (found,) = read_header(bytes(data), [READING])
    assert found.n_frames == 20


def test_what_cannot_be_opened_is_told_for_each_reading(tmp_path):
    audio = write_audio(tmp_path / "sound.m4a").read_bytes()
    for data in (b"ffconcat version 1.0\nfile other.mp4\n", audio, b"\x00" * 500):
        found = read_header(data, [READING, READING])
        assert len(found) == 2
        assert all(isinstance(failure, DecodeError) for failure in found)
        assert {failure.status for failure in found} == {Status.UNREADABLE}
