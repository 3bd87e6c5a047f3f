"""Frames as a player shows them: turned and mirrored as the file says."""

import struct
from typing import Any

import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray


def upright(frame: Any, reformatter: VideoReformatter) -> NDArray[np.uint8]:
    """Convert a frame to RGB, as ``frame.to_ndarray(format="rgb24")`` does; turn and mirror it."""
    rgb: Any = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
    a, b, c, d = _display_matrix(frame)
    # To the nearest quarter turn.
    is_sideways = abs(b) + abs(c) > abs(a) + abs(d)
    if is_sideways:
        a, d, rgb = c, b, rgb.transpose(1, 0, 2)
    upright: NDArray[np.uint8] = rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(upright)


def _display_matrix(frame: Any, side_data_of: Any = SideDataContainer) -> tuple[int, int, int, int]:
    """How a frame is to be shown: its pixel (x, y) at (a x + c y, b x + d y), up to a shift.

    ISO/IEC 14496-12, 6.2.2, in units of 2**-16. ``frame.rotation`` can't tell a mirrored picture
    from a turned one, and has no meaning for a matrix of zeros.

    ``frame.side_data`` isn't used: the frame would keep it, and it the frame, until Python looks
    for such cycles. The frame's buffer would go back to the decoder at that moment; and where a
    damaged picture isn't decoded everywhere, one sees what its buffer held before.
    """
    try:
        found = side_data_of(frame).get(SideData.DISPLAYMATRIX)
    except ValueError:
        # Beside data of a kind that PyAV has no name for.
        turns = round(frame.rotation / 90) % 4
        return ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))[turns]
    if found is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(found))
    return a, b, c, d
