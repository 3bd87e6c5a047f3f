"""A recording whose frames can be had at positions: what both decoders offer, and opening one."""

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.containers import damaged_at, demuxer_of, lacking_bytes
from pipeline.clips.timeline import Timeline
from pipeline.status import DecodeError, Status

DecoderName = Literal["pyav", "decord"]


class Recording(Protocol):
    """A recording that was opened."""

    timeline: Timeline
    """Times of its frames, as many as there are."""

    def frames_at(self, positions: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Decode the frames at some positions, in increasing order: (height, width, 3) uint8, RGB.

        Turned upright as the file's rotation says.

        Raises
        ------
        DecodeError
            ``TRUNCATED``, naming the frame that can't be decoded: one that is wanted, or that a
            wanted one may refer to.
        ContradictionError
            When the frames that come aren't those that the packets promised, and `count` is needed.
        """

    def count(self) -> None:
        """Decode everything, to learn which frames there are; from now on, read forward."""


def open_recording(data: bytes, decoder: DecoderName) -> Recording:
    """Open a video file.

    Its container is known by its first bytes, and what is none of a recording is never handed on.

    Raises
    ------
    DecodeError
        ``EMPTY``, for no bytes; ``UNREADABLE``, when this is not a video that the decoder can open;
        ``TRUNCATED``, when the file declares more bytes than there are, or frames are lost in it.
    """
    if not data:
        raise DecodeError(Status.EMPTY, "the file has no bytes")
    demuxer = demuxer_of(data)
    if demuxer is None:
        raise DecodeError(Status.UNREADABLE, "its first bytes are those of no known recording")
    if lacking := lacking_bytes(data, demuxer):
        raise DecodeError(
            Status.TRUNCATED, f"the file has {len(data)} bytes and declares {lacking} more"
        )
    if (damage := damaged_at(data, demuxer)) is not None:
        raise DecodeError(
            Status.TRUNCATED, f"the file is damaged at byte {damage}: frames are lost"
        )
    # Each is loaded where it is used: a child needs one of them.
    if decoder == "decord":
        from pipeline.clips.decord_recording import DecordRecording

        return DecordRecording(data, demuxer)
    from pipeline.clips.libav_recording import LibavRecording

    return LibavRecording(data, demuxer)
