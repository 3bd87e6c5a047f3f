"""Which packets to decode for some frames of a clip: pure functions of what its packets say.

A plan is made if a container's times can be trusted and each of the codec's packets gives a frame.
Then a frame's place in the clip is the rank of its packet's time. Pictures that nothing refers to
are left out unless they are wanted, and so is everything before the last entry in front of a wanted
frame. Otherwise a clip is read forward. The choice depends on packets alone, never on what is
wanted, so that a clip's frames are the same however it is sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.pictures import INTRA_ONLY, Picture

TIMED_DEMUXERS = ("mov", "matroska", "flv", "ivf")
"""Containers that store a presentation time with each packet. Times in others are decoding times,
are absent for some packets, or jump."""

_IN_ORDER = INTRA_ONLY | {"vp8", "vp9", "libdav1d", "av1"}
"""Codecs whose packets come in presentation order."""
_PLANNED = _IN_ORDER | {"h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video"}
_COUNTED = INTRA_ONLY | {"mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4"}
"""Codecs for which AVI holds a frame in each packet, without times."""
_TYPED = ("mpeg4", "mpeg1video", "mpeg2video")
"""Codecs in which a picture's type tells its place among its neighbours."""
_SKIPPING = ("h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video")
"""Codecs in which a picture's own first bytes tell whether nothing refers to it. VP8 isn't among
them: encoders make hardly any such picture, and one may change what the next is decoded with."""


@dataclass(frozen=True)
class PacketTable:
    """Packets of a video stream in decoding order, without those that have no bytes.

    Attributes
    ----------
    pts, dts
        Times of presentation and of decoding in ticks of the container; None for a packet without
        one.
    durations
        In ticks; 0 or None if unknown.
    is_key, is_hidden, is_damaged
        What the container says: it is a key frame; it is decoded for what follows but not shown
        (edit lists); it is known to be incomplete.
    pictures
        What the packets' first bytes say; None for codecs that aren't read.
    """

    pts: list[int | None]
    dts: list[int | None]
    durations: list[int | None]
    is_key: list[bool]
    is_hidden: list[bool]
    is_damaged: list[bool]
    pictures: list[Picture] | None

    @property
    def n_packets(self) -> int:
        """Packets in the table."""
        return len(self.pts)


def presentation_order(
    table: PacketTable, *, demuxer: str, codec: str, reorders: bool, interlaced: bool
) -> NDArray[np.int64] | None:
    """Packet of each frame, in presentation order; None if only decoding can tell.

    Parameters
    ----------
    reorders
        Whether the codec's header says that frames are shown in another order than they are
        decoded.
    interlaced
        Whether it may hold fields; two such packets would be one frame.

    Returns
    -------
    (n_frames,) int64, or None if times are missing, occur twice, or contradict each other. That is
    so if a time is earlier than the first packet's (a picture whose references were cut off), if a
    picture isn't shown between those that it lies between, if times go back although the codec
    reorders nothing. It is also so if no time goes back although the codec may reorder, unless the
    container has other times of decoding: bare streams and AVI that were copied into MP4 have these
    in place of the times of presentation.
    """
    pictures = table.pictures
    if demuxer not in TIMED_DEMUXERS or codec not in _PLANNED or interlaced or not pictures:
        return None
    if any(picture.doubtful or picture.n_frames > 1 for picture in pictures):
        return None
    if not (pictures[0].is_entry or (codec == "hevc" and table.is_key[0])):
        return None
    shown = [
        number
        for number, picture in enumerate(pictures)
        if picture.n_frames and not table.is_hidden[number]
    ]
    times = [table.pts[number] for number in shown]
    if not shown or None in table.pts or len(set(times)) < len(times):
        return None
    pts = np.array(table.pts, np.int64)
    if pts.min() < pts[0]:
        return None
    numbers = np.array(shown, np.int64)
    if codec in _TYPED and not _agree_with_types(table):
        return None
    goes_back = bool((np.diff(pts[numbers]) < 0).any())
    may_go_back = reorders and codec not in _IN_ORDER
    if goes_back and not may_go_back:
        return None
    if may_go_back and not goes_back and not _has_both_times(table, demuxer):
        return None
    order: NDArray[np.int64] = numbers[np.argsort(pts[numbers], kind="stable")]
    return order


def _has_both_times(table: PacketTable, demuxer: str) -> bool:
    """Whether the container tells times of presentation beside those of decoding.

    Matroska has no times of decoding: there they are made from the others.
    """
    if demuxer not in ("mov", "flv"):
        return False
    return all(shown != decoded for shown, decoded in zip(table.pts, table.dts, strict=True))


def _agree_with_types(table: PacketTable) -> bool:
    """Whether each picture that lies between two others is shown between them.

    Where one of the two was lost, a decoder gives it too early or too late.
    """
    earlier = last = None
    for picture, time in zip(table.pictures or (), table.pts, strict=True):
        if not picture.n_frames or time is None:
            continue
        if picture.is_between:
            if last is None or time > last or (earlier is not None and time < earlier):
                return False
        else:
            if last is not None and time < last:
                return False
            earlier, last = last, time
    return True


def counts_by_packets(table: PacketTable, *, demuxer: str, codec: str) -> bool:
    """Whether a clip has a frame for each packet, in an order that only decoding tells.

    AVI has no presentation times. Reading forward gives the frames in order, and their number is
    known without decoding all of them. In a recording that begins amid a group of pictures it isn't
    known: decoding begins with the first key frame.
    """
    return (
        demuxer == "avi"
        and codec in _COUNTED
        and table.is_key[0]
        and not any(picture.doubtful for picture in table.pictures or ())
        and not any(table.is_hidden)
    )


def can_skip(table: PacketTable, codec: str) -> bool:
    """Whether pictures can be left out that say that nothing refers to them.

    In H.265, a picture says so only for its own temporal layer.
    """
    return codec in _SKIPPING and not any(picture.layer for picture in table.pictures or ())


def packets_to_send(
    table: PacketTable, order: NDArray[np.int64], positions: Sequence[int]
) -> list[int]:
    """Packets that the frames at ``positions`` need, in decoding order.

    For each frame these go from the last entry that is both decoded and shown before it to the
    frame itself: what is shown behind an entry refers to nothing before it.
    """
    assert table.pictures is not None
    pts = np.array(table.pts, np.int64)
    # A damaged packet may look like an entry, so the container has to say so, too.
    entries = np.array(
        [n for n, picture in enumerate(table.pictures) if picture.is_entry and table.is_key[n]],
        np.int64,
    )
    is_sent = np.zeros(table.n_packets, np.bool_)
    for number in {int(order[position]) for position in positions}:
        before = entries[: np.searchsorted(entries, number, "right")]
        before = before[pts[before] <= pts[number]]
        is_sent[(int(before[-1]) if len(before) else 0) : number + 1] = True
    sent: list[int] = np.flatnonzero(is_sent).tolist()
    return sent
