"""Whether reference pictures of H.264 are missing, told by the numbers that pictures carry.

Where a recorder or a network lost packets, H.264 often decodes without a complaint: the decoder
makes up what is missing, and what it makes up depends on the pictures that it was given before. So
such a recording can't be read in part. Recordings whose numbers may have gaps (temporal layers of
video calls) or begin anew (memory operation 5) look the same, and are read forward, too: right, and
slower.
"""

from collections.abc import Sequence

_SLICE_BYTES = 32
"""More than the first four numbers of a slice take."""
_PARAMETER_BYTES = 4096
"""More than parameters take, with all tables that they may hold."""
_LARGEST_WIDTH = 16
"""Bits of a picture's number (7.4.2.1.1)."""
_HIGH_PROFILES = frozenset((44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 144, 244))
"""Profiles whose parameters tell the format of colours (ITU-T H.264, 7.3.2.1.1)."""
_SLICES, _IDR, _SEQUENCE, _PICTURE = (1, 2, 5), 5, 7, 8


class FrameNumbers:
    """Follows ``frame_num`` (7.4.3) through the packets of a stream, in decoding order.

    Parameters
    ----------
    extradata
        The codec's header: an ``avcC`` box (ISO/IEC 14496-15, 5.3.3.1) or bare units. Parameters
        that lie among the packets are read there.
    """

    def __init__(self, extradata: bytes) -> None:
        self._widths: dict[int, tuple[int, bool]] = {}
        """Bits of the number, and whether colours are coded apart, by sequence."""
        self._sequences: dict[int, int] = {}
        """Sequence of each set of a picture's parameters."""
        self._last: int | None = None
        """Number of the last picture that others may refer to."""
        for unit in _header_units(extradata):
            self._read_parameters(unit)

    def is_next(self, data: bytes, starts: Sequence[int]) -> bool:
        """Whether a packet, whose units begin at ``starts``, follows the one before it.

        False if a picture between them is missing, and if that can't be told.
        """
        for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
            kind = data[start] & 0x1F
            if kind in (_SEQUENCE, _PICTURE):
                self._read_parameters(data[start:end])
            if kind in _SLICES:
                return self._follows(data[start : min(end, start + _SLICE_BYTES)])
        return True

    def forget(self) -> None:
        """Pass over a damaged packet, which decoding finds by itself."""
        self._last = None

    def _follows(self, unit: bytes) -> bool:
        """Read a picture's first slice (7.3.3); take its number for the last if it has one."""
        bits = _Bits(unit)
        bits.number()
        bits.number()
        sequence = self._sequences.get(bits.number())
        if sequence is None or sequence not in self._widths:
            return False
        width, has_planes = self._widths[sequence]
        if has_planes:
            bits.take(2)
        number, last = bits.take(width), self._last
        if unit[0] & 0x60:
            self._last = number
        if unit[0] & 0x1F == _IDR or last is None:
            return True
        return number == (last + 1) % (1 << width)

    def _read_parameters(self, unit: bytes) -> None:
        bits = _Bits(unit[:_PARAMETER_BYTES])
        if unit[0] & 0x1F == _PICTURE:
            picture = bits.number()
            self._sequences[picture] = bits.number()
        elif unit[0] & 0x1F == _SEQUENCE and len(unit) > 4:
            profile = bits.take(24) >> 16
            sequence, colours = bits.number(), 1
            has_planes = False
            if profile in _HIGH_PROFILES:
                colours = bits.number()
                has_planes = colours == 3 and bool(bits.take(1))
                bits.number()
                bits.number()
                bits.take(1)
                if bits.take(1):
                    for table in range(12 if colours == 3 else 8):
                        _pass_scaling_list(bits, 16 if table < 6 else 64)
            width = bits.number() + 4
            self._widths.pop(sequence, None)
            if width <= _LARGEST_WIDTH:
                self._widths[sequence] = width, has_planes


class _Bits:
    """Bits of a unit behind its first byte, read one after another; 0 behind its end."""

    def __init__(self, unit: bytes) -> None:
        # 7.4.1: a 3 behind two zeros keeps a start code from arising.
        content = unit[1:].replace(b"\0\0\3", b"\0\0")
        self._value, self._n_left = int.from_bytes(content, "big"), 8 * len(content)

    def take(self, n_bits: int) -> int:
        """Read a number of fixed width."""
        self._n_left -= n_bits
        if self._n_left < 0:
            return 0
        return self._value >> self._n_left & (1 << n_bits) - 1

    def number(self) -> int:
        """Read a number of variable width (9.1): as many zeros, and then bits behind a one."""
        rest = self._value & (1 << max(self._n_left, 0)) - 1
        n_zeros = self._n_left - rest.bit_length()
        if not rest or n_zeros > 32:
            self._n_left = 0
            return 0
        return self.take(2 * n_zeros + 1) - 1

    def signed(self) -> int:
        """Read a number with a sign (9.1.1): 0, 1, -1, 2, -2 and so on."""
        number = self.number()
        return (number + 1) // 2 if number % 2 else -(number // 2)


def _pass_scaling_list(bits: _Bits, size: int) -> None:
    """Read over one of the tables of 7.3.2.1.1.1."""
    if not bits.take(1):
        return
    value = 8
    for _ in range(size):
        value = (value + bits.signed()) % 256
        if not value:
            return


def _header_units(extradata: bytes) -> list[bytes]:
    if extradata[:1] != b"\1":
        return [unit for unit in extradata.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if unit]
    units = []
    at = 5
    for mask in (0x1F, 0xFF):
        n_units = extradata[at] & mask if at < len(extradata) else 0
        at += 1
        for _ in range(n_units):
            size = int.from_bytes(extradata[at : at + 2], "big")
            units.append(extradata[at + 2 : at + 2 + size])
            at += 2 + size
    return [unit for unit in units if unit]
