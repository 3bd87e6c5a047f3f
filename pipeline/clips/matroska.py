"""The structure of Matroska and WebM files (RFC 8794, RFC 9559), checked for damage.

libavformat's demuxer skips damage up to the next cluster without a word about the frames in
between: a file that has lost most of its frames looks like a short one.
"""

from collections.abc import Iterator
from typing import NamedTuple

_HEADER, _SEGMENT, _TRACKS, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1654AE6B, 0x1F43B675
_SEGMENT_PARTS = frozenset(
    (0x114D9B74, 0x1549A966, _TRACKS, _CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367)
)
"""Elements directly in a segment; they end a cluster of unknown size."""
_TRACK, _TRACK_NUMBER = 0xAE, 0xD7
_BLOCK_GROUP, _BLOCK, _SIMPLE_BLOCK = 0xA0, 0xA1, 0xA3


class Element(NamedTuple):
    """An element's id, its start, and its content: from ``inside`` to ``end``, if that is known."""

    identifier: int
    start: int
    inside: int
    end: int | None


class _BrokenError(Exception):
    """The structure breaks at this byte."""


def ends(data: bytes) -> Iterator[int]:
    """Yield the ends of a file's header and segment; what lies behind them players ignore."""
    start = 0
    while (element := _element(data, start)) is not None and element.end is not None:
        if element.identifier not in (_HEADER, _SEGMENT):
            return
        start = element.end
        yield start


def damaged_at(data: bytes) -> int | None:
    """Byte at which the structure breaks; None if it is whole.

    In a whole file, elements fill their parent, and blocks belong to tracks that exist. If the
    recorder left sizes unknown, a cluster ends where the next begins, and the last may be cut
    short.
    """
    header = _element(data, 0)
    segment = _element(data, header.end) if header is not None and header.end else None
    if segment is None or segment.identifier != _SEGMENT:
        return None
    try:
        _check_segment(data, segment)
    except _BrokenError as error:
        return int(error.args[0])
    return None


def _check_segment(data: bytes, segment: Element) -> None:
    bound = len(data) if segment.end is None else min(segment.end, len(data))
    tracks: set[int] = set()
    start = segment.inside
    while start < bound:
        element = _element(data, start)
        if element is None or (element.end or 0) > bound:
            if segment.end is None:
                return
            raise _BrokenError(start)
        if element.identifier == _TRACKS and element.end is not None:
            tracks = _track_numbers(data, element)
        if element.identifier == _CLUSTER:
            start = _check_cluster(data, element, bound, tracks)
        elif element.end is None:
            raise _BrokenError(start)
        else:
            start = element.end


def _check_cluster(data: bytes, cluster: Element, bound: int, tracks: set[int]) -> int:
    """Check a cluster's elements and return where it ends."""
    end = bound if cluster.end is None else cluster.end
    start = cluster.inside
    while start < end:
        child = _element(data, start)
        if cluster.end is None and child is not None and child.identifier in _SEGMENT_PARTS:
            return start
        if child is None or child.end is None or child.end > end:
            if cluster.end is None and (child is None or child.end is not None):
                return bound
            raise _BrokenError(start)
        for block in _blocks(data, child):
            number = _number(data, block.inside)
            if number is None or (tracks and number[0] not in tracks):
                raise _BrokenError(start)
        start = child.end
    return start


def _blocks(data: bytes, child: Element) -> Iterator[Element]:
    if child.identifier == _SIMPLE_BLOCK:
        yield child
    elif child.identifier == _BLOCK_GROUP:
        yield from (part for part in _children(data, child) if part.identifier == _BLOCK)


def _track_numbers(data: bytes, tracks: Element) -> set[int]:
    return {
        int.from_bytes(data[part.inside : part.end], "big")
        for track in _children(data, tracks)
        if track.identifier == _TRACK
        for part in _children(data, track)
        if part.identifier == _TRACK_NUMBER
    }


def _children(data: bytes, parent: Element) -> Iterator[Element]:
    start, end = parent.inside, parent.end or 0
    while start < end:
        child = _element(data, start)
        if child is None or child.end is None or child.end > end:
            raise _BrokenError(start)
        yield child
        start = child.end


def _element(data: bytes, start: int) -> Element | None:
    """Read an element's head (RFC 8794, 4 to 6); None if there is none."""
    if start >= len(data):
        return None
    id_width = 9 - data[start].bit_length()
    if id_width > 4 or (number := _number(data, start + id_width)) is None:
        return None
    size, width = number
    inside = start + id_width + width
    is_told = size != (1 << 7 * width) - 1
    return Element(
        int.from_bytes(data[start : start + id_width], "big"),
        start,
        inside,
        inside + size if is_told else None,
    )


def _number(data: bytes, start: int) -> tuple[int, int] | None:
    """Read a number of variable width; return it (all ones if unknown) and its width."""
    if start >= len(data):
        return None
    width = 9 - data[start].bit_length()
    if width > 8 or start + width > len(data):
        return None
    return int.from_bytes(data[start : start + width], "big") & (1 << 7 * width) - 1, width
