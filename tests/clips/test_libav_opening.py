"""A recording is opened by a named demuxer, from the bytes that are given alone."""

import av
import pytest

from pipeline.clips.libav_opening import demuxed, open_stream, reason_of
from pipeline.status import DecodeError, Status
from tests.support.clips import numbered_frames, write_audio, write_mp4


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    folder = tmp_path_factory.mktemp("opening")
    return write_mp4(folder / "a.mp4", numbered_frames(12)).read_bytes()


def test_packets_are_those_of_the_file_that_have_bytes(recording):
    container, stream = open_stream(recording, "mov")
    with container:
        packets = list(demuxed(container, stream))
    assert len(packets) == 12
    assert all(packet.size for packet in packets)


def test_another_demuxer_than_the_named_one_is_not_tried(recording):
    with pytest.raises(DecodeError, match="can't be opened") as caught:
        open_stream(recording, "avi")
    assert caught.value.status is Status.UNREADABLE


def test_sound_alone_is_no_video(tmp_path):
    data = write_audio(tmp_path / "sound.m4a").read_bytes()
    with pytest.raises(DecodeError, match="there is no video in the file"):
        open_stream(data, "mov")


def test_pictures_of_too_many_pixels_are_refused_before_one_is_decoded(recording):
    with pytest.raises(DecodeError) as caught:
        open_stream(recording, "mov", max_pixels=160 * 96 - 1)
    assert caught.value.status is Status.UNREADABLE
    open_stream(recording, "mov", max_pixels=160 * 96)


def test_a_playlist_of_a_demuxer_that_opens_files_opens_none(tmp_path, recording):
    """Even if such a demuxer were named by mistake."""
    (tmp_path / "other.mp4").write_bytes(recording)
    text = f"ffconcat version 1.0\nfile '{tmp_path}/other.mp4'\n".encode()
    with pytest.raises(DecodeError, match="can't be opened"):
        open_stream(text, "concat")


def test_a_reason_is_libavs_own_without_names():
    assert reason_of(av.error.InvalidDataError(1, "Invalid data", "some/file")) == "Invalid data"
    assert reason_of(ValueError("a path")) == "ValueError"
