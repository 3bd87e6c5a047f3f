"""What the first bytes of a packet say about its picture, without decoding it.

A reading plan needs to know three things about each packet that no container tells reliably:
whether it gives a frame, whether decoding may begin with it, and which temporal layer it is in.
"""

from collections.abc import Callable
from typing import NamedTuple

from pipeline.clips.frame_numbers import FrameNumbers


class Picture(NamedTuple):
    """What a packet holds."""

    n_frames: int = 1
    """Frames that decoding it gives; with anything but 0 and 1 (two fields, say) no plan is
    made."""
    is_entry: bool = False
    """Whether no picture that is shown later refers to anything before this one."""
    layer: int = 0
    """Temporal layer. Pictures in higher layers may refer to this one, whatever it says of
    itself."""
    doubtful: bool = False
    """Only decoding can tell what comes of it: whether a frame, and, where a picture before it is
    missing, which frames come next."""
    is_between: bool = False
    """In MPEG-1, 2 and 4: it is shown between the two last pictures of other types."""
    is_damaged: bool = False
    """It isn't a valid packet of its codec; some decoders would silently leave it out."""


DAMAGED = Picture(is_damaged=True)


Reader = Callable[[bytes], Picture]


def picture_reader(codec: str, extradata: bytes | None) -> Reader | None:
    """Return the function that reads a codec's packets (libavcodec's name); None if none is known.

    ``extradata`` is the codec's header; in H.264 and H.265 it tells the size of unit lengths.
    """
    header = extradata or b""
    if codec == "h264":
        width = (header[4] & 3) + 1 if len(header) > 6 and header[0] == 1 else 0
        numbers = FrameNumbers(header)
        return lambda data: _h264(data, width, numbers)
    if codec == "hevc":
        # A header with unit lengths begins with version 1, or 0 in an early draft, not a start
        # code.
        prefixed = len(header) > 22 and header[:3] not in (b"\0\0\1", b"\0\0\0")
        width = (header[21] & 3) + 1 if prefixed else 0
        return lambda data: _hevc(data, width)
    return _READERS.get(codec)


INTRA_ONLY = frozenset(
    {"mjpeg", "mjpegb", "prores", "dnxhd", "rawvideo", "huffyuv", "ffvhuff", "utvideo", "magicyuv"}
    | {"cfhd", "v210", "dvvideo", "png", "jpeg2000", "jpegls"}
)
"""Codecs in which each packet is a picture by itself, by libavcodec's names."""


def _units(data: bytes, length_width: int) -> list[int] | None:
    """Positions at which units of H.264 or H.265 begin: behind a length or a start code.

    None if the lengths don't add up.
    """
    starts = []
    if length_width:
        start, end = 0, len(data)
        while start < end:
            size = int.from_bytes(data[start : start + length_width], "big")
            start += length_width
            if not 0 < size <= end - start:
                return None
            starts.append(start)
            start += size
        return starts
    start = data.find(b"\0\0\1") + 3
    while 3 <= start < len(data):
        starts.append(start)
        start = data.find(b"\0\0\1", start) + 3
    return starts or None


def _h264(data: bytes, length_width: int, numbers: FrameNumbers) -> Picture:
    """Read ITU-T H.264's unit types (table 7-1); a first macroblock of 0 begins a picture."""
    starts = _units(data, length_width)
    if starts is None:
        numbers.forget()
        return DAMAGED
    n_pictures, has_slices, is_entry = 0, False, False
    for start in starts:
        kind = data[start] & 0x1F
        if data[start] & 0x80:
            numbers.forget()
            return DAMAGED
        if kind in (1, 2, 5):
            has_slices = True
            n_pictures += data[start + 1 : start + 2] >= b"\x80"
            is_entry = is_entry or kind == 5
        elif kind not in _H264_OTHERS:
            numbers.forget()
            return DAMAGED
    is_next = numbers.is_next(data, starts)
    return Picture(max(n_pictures, int(has_slices)), is_entry, doubtful=not is_next)


_H264_OTHERS = frozenset((3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 19, 20, 21))
"""Units that don't begin a picture: later partitions, parameters, and what players skip."""


def _hevc(data: bytes, length_width: int) -> Picture:
    """Read ITU-T H.265's unit types (table 7-1) and the first layer's temporal ids."""
    starts = _units(data, length_width)
    if starts is None:
        return DAMAGED
    n_pictures, has_slices, is_entry, layer = 0, False, False, 0
    for start in starts:
        header = data[start : start + 3]
        kind = header[0] >> 1 & 0x3F
        if header[0] & 0x80 or len(header) < 2 or 10 <= kind < 16 or 22 <= kind < 32:
            return DAMAGED
        if len(header) == 3 and kind < 32 and not header[0] & 1 and not header[1] >> 3:
            has_slices = True
            n_pictures += header[2] >= 0x80
            is_entry = is_entry or kind in (19, 20)
            layer = max(layer, (header[1] & 7) - 1)
    return Picture(max(n_pictures, int(has_slices)), is_entry, layer)


def _vp8(data: bytes) -> Picture:
    """Read RFC 6386, 9.1: the lowest bit is 0 in a key frame, and bit 4 is 1 in a shown one."""
    return Picture(data[0] >> 4 & 1, not data[0] & 1)


def _vp9(data: bytes) -> Picture:
    """Read the VP9 bitstream's uncompressed header (6.2); a superframe shows its last frame."""
    profile = (data[0] >> 5 & 1) | (data[0] >> 3 & 2)
    shift = 2 if profile == 3 else 3
    shows_existing, is_inter, shown = (data[0] >> shift & 1, data[0] >> shift - 1 & 1, 0)
    shown = data[0] >> shift - 2 & 1
    is_superframe = data[-1] & 0xE0 == 0xC0
    is_key = not shows_existing and not is_inter
    return Picture(int(shows_existing or shown or is_superframe), bool(is_key and shown))


def _av1(data: bytes) -> Picture:
    """Read the AV1 bitstream's units (5.3): a sequence header and a shown key frame make an entry.

    A packet is a temporal unit, which shows one frame.
    """
    has_sequence, start = False, 0
    while start < len(data):
        kind, has_extension, has_size = data[start] >> 3 & 15, data[start] & 4, data[start] & 2
        start += 2 if has_extension else 1
        size = len(data) - start
        if has_size:
            size, start = _leb128(data, start)
        if kind in (3, 6):
            return Picture(1, has_sequence and data[start : start + 1] in _SHOWN_KEY_FRAMES)
        has_sequence = has_sequence or kind == 1
        start += size
    return Picture(1, False)


_SHOWN_KEY_FRAMES = tuple(bytes([0b00010000 | low]) for low in range(16))
"""First bytes of a frame's header: not showing an earlier frame, of type 0 (key), shown."""


def _leb128(data: bytes, start: int) -> tuple[int, int]:
    """Read a number with seven bits per byte, lowest first; return it and where it ends."""
    number = 0
    for shift in range(0, 56, 7):
        byte = data[start] if start < len(data) else 0
        number |= (byte & 0x7F) << shift
        start += 1
        if byte < 0x80:
            break
    return number, start


_SMALLEST_VOP = 12
"""Bytes; MPEG-4 pictures that are marked as not coded, which give no frame, are smaller."""


def _mpeg4(data: bytes) -> Picture:
    """Read ISO/IEC 14496-2, 6.2.5: two bits behind a VOP's start code give its type."""
    start = data.find(b"\0\0\1\xb6")
    if start < 0 or start + 4 >= len(data):
        return DAMAGED if len(data) >= _SMALLEST_VOP else Picture(doubtful=True)
    kind = data[start + 4] >> 6
    is_small = len(data) - start < _SMALLEST_VOP
    return Picture(1, kind == 0, doubtful=is_small, is_between=kind == 2)


def _mpeg12(data: bytes) -> Picture:
    """Read ISO/IEC 13818-2, 6.2.2 and 6.2.3: an I picture behind a sequence header is an entry.

    A sequence header may change the matrices of what follows.
    """
    n_pictures = data.count(b"\0\0\1\0")
    if not n_pictures:
        return Picture(0) if data.startswith(b"\0\0\1\xb7") else DAMAGED
    start = data.find(b"\0\0\1\0")
    kind = data[start + 5] >> 3 & 7 if start < len(data) - 5 else 0
    has_sequence = 0 <= data.find(b"\0\0\1\xb3") < start
    return Picture(n_pictures, kind == 1 and has_sequence, is_between=kind == 3)


_READERS: dict[str, Reader] = {
    "vp8": _vp8,
    "vp9": _vp9,
    "libdav1d": _av1,
    "av1": _av1,
    "mpeg4": _mpeg4,
    "mpeg1video": _mpeg12,
    "mpeg2video": _mpeg12,
} | dict.fromkeys(INTRA_ONLY, lambda data: Picture(1, True))
