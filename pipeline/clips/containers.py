"""What a container's own bytes say: which one it is, and whether its end is there."""

from collections.abc import Iterator


def _is_transport_stream(data: bytes) -> bool:
    """Whether packets of 188 bytes begin with the sync byte (ISO/IEC 13818-1, 2.4.3.2).

    decord finds no frame times in their index, and gives other frames than are asked for.
    """
    return len(data) >= 3 * 188 and data[0] == data[188] == data[376] == 0x47


def _lacking_bytes(data: bytes) -> int:
    """Bytes that an MP4, AVI or Matroska file declares beyond its end; 0 for a whole file.

    Other containers declare no size, and so do streams of these that were never finished.
    """
    if data[:4] == b"RIFF":
        ends = _riff_ends(data)
    elif data[:4] == b"\x1a\x45\xdf\xa3":
        ends = _matroska_ends(data)
    else:
        ends = _mp4_ends(data)
    return max(max(ends, default=0) - len(data), 0)


def _mp4_ends(data: bytes) -> Iterator[int]:
    """Yield the ends of an MP4's boxes (ISO/IEC 14496-12, 4.2) of frames and of their index."""
    start = 0
    while start + 8 <= len(data):
        size, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        if size == 1:
            size = int.from_bytes(data[start + 8 : start + 16], "big")
        if size < 8:
            return
        # Other kinds may be rubbish behind the last box, which players don't mind.
        if kind in (b"ftyp", b"moov", b"moof", b"mdat"):
            yield start + size
        start += size


def _riff_ends(data: bytes) -> Iterator[int]:
    """Yield the end of an AVI's list of frames; the index behind it can be done without."""
    start = 12
    while start + 12 <= len(data):
        size = int.from_bytes(data[start + 4 : start + 8], "little")
        if data[start : start + 4] == b"LIST" and data[start + 8 : start + 12] == b"movi":
            yield start + 8 + size
        start += 8 + size + size % 2


def _matroska_ends(data: bytes) -> Iterator[int]:
    """Yield the ends of a Matroska or WebM file's header and segment (RFC 8794, 4 to 6)."""
    start = 0
    while start + 12 <= len(data):
        size_start = start + 4  # the header's and the segment's ids are of 4 bytes
        width = 9 - data[size_start].bit_length()
        unknown = (1 << 7 * width) - 1
        field = int.from_bytes(data[size_start : size_start + width], "big")
        size = field & unknown
        if width > 8 or size == unknown:
            return
        start = size_start + width + size
        yield start
