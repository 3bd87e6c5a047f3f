"""Which packets are decoded for some frames of a clip: pure functions of what its packets say.

A plan is made where a container's times can be trusted, for codecs whose packets give a frame each.
Then a frame's place in the clip is the rank of its packet's time, pictures that nothing refers to
are left out unless they are wanted, and so is all before the last entry in front of a wanted frame.
Elsewhere a clip is read forward. The choice follows from packets alone, never from what is wanted,
so that a clip's frames are the same however it is sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.pictures import INTRA_ONLY, Picture

TIMED_DEMUXERS = ("mov", "matroska", "flv", "ivf")
"""Containers that store a presentation time with each packet. Those of others are of decoding, are
left out for some packets, or jump."""

_IN_ORDER = INTRA_ONLY | {"vp8", "vp9", "libdav1d", "av1"}
"""Codecs whose packets come in the order in which they are shown."""
_PLANNED = _IN_ORDER | {"h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video"}
_COUNTED = INTRA_ONLY | {"mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4"}
"""Codecs of which AVI holds a frame in each packet, without times."""
_SKIPPING = ("h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video", "vp8")
"""Codecs that tell a picture that nothing refers to from its own first bytes."""


@dataclass(frozen=True)
class PacketTable:
    """Packets of a video stream in the order of decoding, those without bytes left out.

    Attributes
    ----------
    pts
        Presentation times in ticks of the container, None where a packet has none.
    durations
        In ticks; 0 or None where not told.
    is_key, is_hidden, is_damaged
        What the container says: a key frame; decoded for what follows and not shown (edit lists);
        known to be incomplete.
    pictures
        What the packets' first bytes say; None of codecs that aren't read.
    """

    pts: list[int | None]
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
    """Packet of each frame, in presentation order; None where that takes decoding to know.

    Parameters
    ----------
    reorders
        Whether the codec's header says that frames are shown in another order than decoded.
    interlaced
        Whether it may hold fields, of which two packets would be one frame.

    Returns
    -------
    (n_frames,) int64, or None where times are missing, double, or contradict each other: an earlier
    time than the first packet's belongs to a picture whose references were cut off; and times that
    go back, where the codec reorders nothing.
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
    if (codec in _IN_ORDER or not reorders) and (np.diff(pts[numbers]) < 0).any():
        return None
    order: NDArray[np.int64] = numbers[np.argsort(pts[numbers], kind="stable")]
    return order


def counts_by_packets(table: PacketTable, *, demuxer: str, codec: str) -> bool:
    """Whether a clip has a frame for each packet, though their order isn't known before decoding.

    AVI has no presentation times. Reading forward gives the frames in order, and to know how many
    there are takes no decoding of all of them.
    """
    return (
        demuxer == "avi"
        and codec in _COUNTED
        and not any(picture.doubtful for picture in table.pictures or ())
        and not any(table.is_hidden)
    )


def can_skip(table: PacketTable, codec: str) -> bool:
    """Whether pictures that say that nothing refers to them can be left out.

    In H.265 a picture says so for its own temporal layer alone.
    """
    return codec in _SKIPPING and not any(picture.layer for picture in table.pictures or ())


def packets_to_send(
    table: PacketTable, order: NDArray[np.int64], positions: Sequence[int]
) -> list[int]:
    """Packets that the frames at ``positions`` take, in the order of decoding.

    From the last entry before a frame, both decoded and shown before it, to the frame itself: what
    is shown behind an entry refers to nothing before it.
    """
    assert table.pictures is not None
    pts = np.array(table.pts, np.int64)
    # A damaged packet may look like one: the container has to say so, too.
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
