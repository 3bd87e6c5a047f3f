"""A recording that gives frames at positions: the interface of both decoders, and opening one."""

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.containers import (
    damaged_at,
    demuxer_of,
    lacking_bytes,
    transport_packets,
)
from pipeline.clips.timeline import Timeline
from pipeline.clips.transport_joins import with_joins_mended
from pipeline.status import DecodeError, Status

DecoderName = Literal["pyav", "decord"]


class Recording(Protocol):
    """An opened recording."""

    timeline: Timeline
    """Times of all its frames."""

    def frames_at(self, positions: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Decode the frames at some positions, in increasing order: (height, width, 3) uint8, RGB.

        Frames are turned upright, as the file's rotation says.

        Raises
        ------
        DecodeError
            ``TRUNCATED``, naming the frame that can't be decoded: a wanted one, or one that a
            wanted frame may refer to.
        ContradictionError
            If the frames that come aren't those that the packets promised; call `count` then.
        """

    def count(self) -> None:
        """Decode everything to learn which frames there are; from now on, read forward."""


def open_recording(data: bytes, decoder: DecoderName) -> Recording:
    """Open a video file.

    The container is recognised by its first bytes; anything that isn't a recording is never passed
    on.

    Raises
    ------
    DecodeError
        ``EMPTY``, for no bytes; ``UNREADABLE``, if this is not a video that the decoder can open;
        ``TRUNCATED``, if the file declares more bytes than it has, or has lost frames.
    """
    if not data:
        raise DecodeError(Status.EMPTY, "the file has no bytes")
    demuxer = demuxer_of(data)
    if demuxer is None:
        raise DecodeError(
            Status.UNREADABLE, "its first bytes don't belong to any known kind of recording"
        )
    if lacking := lacking_bytes(data, demuxer):
        raise DecodeError(
            Status.TRUNCATED, f"the file has {len(data)} bytes and declares {lacking} more"
        )
    if (damage := damaged_at(data, demuxer)) is not None:
        raise DecodeError(
            Status.TRUNCATED, f"the file is damaged at byte {damage}: frames are lost"
        )
    # Load only the decoder that is used: a child needs just one.
    if decoder == "decord":
        from pipeline.clips.decord_recording import DecordRecording

        return DecordRecording(data, demuxer)
    from pipeline.clips.libav_recording import LibavRecording

    if demuxer == "mpegts" and (packets := transport_packets(data)) is not None:
        data = with_joins_mended(data, *packets)
    return LibavRecording(data, demuxer)
