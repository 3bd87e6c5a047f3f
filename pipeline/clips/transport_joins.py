"""Transport streams that were put behind one another, such as the segments of a broadcast.

Each packet has a counter (ISO/IEC 13818-1, 2.4.3.3), and where it jumps, packets were lost: the
demuxer takes the picture before for damaged. Where streams were joined the counters jump too, and
nothing is lost. There, what comes before is complete, the tables come first, and all that follows
begins anew.
"""

import numpy as np
from numpy.typing import NDArray

_SYNC = 0x47
_TABLES = 0
"""Stream of the table of all programs, with which a recording begins."""
_PADDING = 0x1FFF
"""Stream of packets without content, which aren't counted."""
_HEAD_BYTES = 6
"""A packet's header, and the length and the flags of its adaptation field."""
_FIELD_BYTES = {0x10: 6, 0x08: 6, 0x04: 1}
"""Bytes of an adaptation field's other contents, by their flags (2.4.3.5): two clocks, and the
place of a splice."""


def with_joins_mended(data: bytes, packet_size: int, start: int) -> bytes:
    """Have the counters go on where streams were joined; all else stays as it is.

    Parameters
    ----------
    packet_size, start
        Bytes in a packet, and where the first begins. A stream whose packets don't lie side by side
        to its end isn't changed.
    """
    n_packets = (len(data) - start) // packet_size
    if n_packets < 2:
        return data
    packets = np.frombuffer(data, np.uint8, n_packets * packet_size, start)
    heads = packets.reshape(n_packets, packet_size)[:, :_HEAD_BYTES]
    if (heads[:, 0] != _SYNC).any():
        return data
    streams = (heads[:, 1] & 0x1F).astype(np.int64) << 8 | heads[:, 2]
    joins, jumps = _joins(streams, heads)
    if not len(joins):
        return data
    mended = bytearray(data)
    told = np.frombuffer(mended, np.uint8, n_packets * packet_size, start)
    counters = told.reshape(n_packets, packet_size)[:, 3]
    for stream, jump in jumps.items():
        (places,) = np.nonzero(streams == stream)
        passed = np.concatenate([[0], np.cumsum(jump)])[np.searchsorted(joins, places, "right")]
        counters[places] = counters[places] & 0xF0 | (counters[places] - passed) % 16
    return bytes(mended)


def _joins(
    streams: NDArray[np.int64], heads: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], dict[int, NDArray[np.int64]]]:
    """Find where streams were joined: the packets, and by how much each stream's counter jumps.

    The counters of tables jump, too: a loss in front of them lets theirs go on.
    """
    begins, is_filled = heads[:, 1] & 0x40 > 0, heads[:, 3] & 0x10 > 0
    counters = (heads[:, 3] & 0xF).astype(np.int64)
    ends = _ends_a_unit(heads)
    (starts,) = np.nonzero((streams == _TABLES) & begins & is_filled)
    all_begin, tables_jump = np.ones(len(starts), np.bool_), np.zeros(len(starts), np.bool_)
    jumps = {}
    for stream in np.unique(streams[is_filled & (streams != _PADDING)]).tolist():
        (places,) = np.nonzero((streams == stream) & is_filled)
        behind = np.searchsorted(places, starts, "left")
        is_on_both_sides = (behind > 0) & (behind < len(places))
        before = places[np.maximum(behind - 1, 0)]
        after = places[np.minimum(behind, len(places) - 1)]
        jump = (counters[after] - counters[before] - 1) % 16 * is_on_both_sides
        jumps[stream] = jump
        # Tables fill their packets without an adaptation field.
        is_table = not ends[places].any()
        tables_jump |= is_table & (jump > 0)
        all_begin &= (begins[after] & (ends[before] | is_table)) | ~is_on_both_sides
    is_join = all_begin & tables_jump
    return starts[is_join], {stream: jump[is_join] for stream, jump in jumps.items()}


def _ends_a_unit(heads: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether a packet's adaptation field is longer than its content: the unit ended before."""
    length, flags = heads[:, 4].astype(np.int64), heads[:, 5]
    needed = np.ones(len(heads), np.int64)
    for flag, n_bytes in _FIELD_BYTES.items():
        needed += n_bytes * (flags & flag > 0)
    is_longer = (length > needed) & (flags & 0x03 == 0)
    is_end: NDArray[np.bool_] = (heads[:, 3] & 0x20 > 0) & ((length == 0) | is_longer)
    return is_end
