"""A clip's frames as one small picture, which the page plays under the attribution."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_BYTES = 96_000
"""Bytes of a clip's picture at most."""
_SIDE = 224
"""Longer side of a frame at most, pixels."""
_QUALITIES = (72, 55, 40, 25, 12)
_LARGEST = 16_000
"""Pixels of a side that WebP can hold, a little less."""


def frame_strip(frames: NDArray[np.uint8]) -> tuple[bytes, int, int]:
    """Lay frames side by side in a WebP picture of `MAX_BYTES` at most.

    Frames get smaller, and their quality lower, until it is that small.

    Parameters
    ----------
    frames
        (time, height, width, 3) uint8, one for each time step.

    Returns
    -------
    The picture, and the width and height of a frame in it
    """
    n, height, width, _ = frames.shape
    side = min(_SIDE, max(height, width), _LARGEST // n)
    while True:
        scale = side / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        strip = np.concatenate([_resized(frame, size) for frame in frames], axis=1)
        image = Image.fromarray(strip)
        for quality in _QUALITIES:
            written = io.BytesIO()
            image.save(written, format="webp", quality=quality, method=2)
            if written.tell() <= MAX_BYTES:
                return written.getvalue(), *size
        side = max(1, side * 3 // 4)


def _resized(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if frame.shape[:2] == size[::-1]:
        return frame
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))
