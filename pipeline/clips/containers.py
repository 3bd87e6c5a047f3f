"""What a container's own bytes say: which format it is, and whether its end is there.

The demuxer is chosen here, by name, and FFmpeg never guesses. It has some 350 demuxers and gives
whatever looks like text to those for playlists, session descriptions and lists of files, which then
open what these name. The demuxers below read only the bytes that they are given.
"""

from collections.abc import Iterator

from pipeline.clips import matroska

_BOXES = (b"ftyp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"sidx")
"""Kinds of box with which an MP4 or QuickTime file may begin."""

_SIGNATURES = {
    "matroska": (b"\x1a\x45\xdf\xa3",),
    "flv": (b"FLV\x01",),
    "asf": (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c",),
    "ogg": (b"OggS",),
    "mpeg": (b"\x00\x00\x01\xba",),
    "mpegvideo": (b"\x00\x00\x01\xb3",),
    "m4v": (b"\x00\x00\x01\xb0", b"\x00\x00\x01\xb5", b"\x00\x00\x01\x00", b"\x00\x00\x01\x20"),
    "mxf": (b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02",),
    "ivf": (b"DKIF",),
    "obu": (b"\x12\x00\x0a",),
    "gif": (b"GIF87a", b"GIF89a"),
    "yuv4mpegpipe": (b"YUV4MPEG2 ",),
    "rm": (b".RMF\x00",),
    "dv": (b"\x1f\x07\x00\x3f", b"\x1f\x07\x00\xbf"),
}
"""First bytes of a file, by the name of its demuxer in libavformat."""

_TS_PACKETS = (188, 192, 204)
"""Bytes in a transport stream's packet: plain, with a time code (camcorders), with parity."""
_TS_SYNCS = 5
"""A transport stream is recognised by this many packets in a row; fewer if the file ends
earlier."""


_MOST_ZEROS = 64
"""Bytes in which a bare stream has to begin: zeros may stand in front."""


def demuxer_of(data: bytes) -> str | None:
    """Name libavformat's demuxer for a recording from its first bytes; None for anything else."""
    if data[4:8] in _BOXES:
        return "mov"
    if data[:4] == b"RIFF" and data[8:12] in (b"AVI ", b"AVIX", b"AVI\x19", b"AMV "):
        return "avi"
    for demuxer, signatures in _SIGNATURES.items():
        if data.startswith(signatures):
            return demuxer
    if transport_packets(data):
        return "mpegts"
    return _elementary_stream(data)


def transport_packets(data: bytes) -> tuple[int, int] | None:
    """Size of a transport stream's packets, and where the first that is whole begins; else None.

    Packets begin with the sync byte (ISO/IEC 13818-1, 2.4.3.2).
    """
    for size in _TS_PACKETS:
        for start in range(size):
            syncs = data[start : start + size * _TS_SYNCS : size]
            if len(syncs) >= 3 and set(syncs) == {0x47}:
                return size, start
    return None


def _elementary_stream(data: bytes) -> str | None:
    """Return ``h264`` or ``hevc`` for a bare stream (their annex B), by its first unit.

    First units are delimiters, parameter sets and supplemental information. In H.265 their two-byte
    header with layer 0 and temporal layer 0 can't be a header of these kinds in H.264.
    """
    begin = data[:_MOST_ZEROS]
    n_zeros = len(begin) - len(begin.lstrip(b"\x00"))
    start = n_zeros + 1
    if n_zeros < 2 or len(data) < start + 2 or data[n_zeros] != 1:
        return None
    first, second = data[start], data[start + 1]
    if first >> 1 in (32, 33, 34, 35, 39) and first & 1 == 0 and second == 1:
        return "hevc"
    return "h264" if first & 0x80 == 0 and first & 0x1F in (6, 7, 9) else None


def lacking_bytes(data: bytes, demuxer: str) -> int:
    """Count the bytes that an MP4, AVI or Matroska file declares beyond its end; 0 if it is whole.

    Other containers declare no size, nor do these if they were streamed and never finished.
    """
    ends = {"avi": _riff_ends, "matroska": matroska.ends, "mov": _mp4_ends}.get(demuxer)
    return max(max(ends(data), default=0) - len(data), 0) if ends else 0


def _mp4_ends(data: bytes) -> Iterator[int]:
    """Yield the ends of an MP4's boxes (ISO/IEC 14496-12, 4.2) for frames and for their index."""
    start = 0
    while start + 8 <= len(data):
        size, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        if size == 1:
            size = int.from_bytes(data[start + 8 : start + 16], "big")
        if size < 8:
            return
        # Other kinds may be rubbish behind the last box, which players ignore.
        if kind in (b"ftyp", b"moov", b"moof", b"mdat"):
            yield start + size
        start += size


_UNKNOWN_RIFF_SIZE = 0xFFFFFFFF
"""In a file that was written to a pipe, whose recorder couldn't go back."""


def _riff_ends(data: bytes) -> Iterator[int]:
    """Yield the end of an AVI's list of frames; the index behind it isn't needed."""
    start = 12
    while start + 12 <= len(data):
        size = int.from_bytes(data[start + 4 : start + 8], "little")
        if size == _UNKNOWN_RIFF_SIZE:
            return
        if data[start : start + 4] == b"LIST" and data[start + 8 : start + 12] == b"movi":
            yield start + 8 + size
        start += 8 + size + size % 2


def damaged_at(data: bytes, demuxer: str) -> int | None:
    """Byte at which the demuxer would silently lose frames; None if it loses none."""
    return matroska.damaged_at(data) if demuxer == "matroska" else None
