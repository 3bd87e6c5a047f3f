"""Pictures from real clips as backgrounds: another style, for held-out scenes only."""

from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import ConfigError

_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi")
_N_FRAMES = 32
"""The middle one of this many first frames is taken, as clips can be long."""
_CONTRAST = 0.6
"""Contrast of pictures is reduced by this factor, so that what is painted on them can be seen."""


def find_textures(folder: str) -> tuple[str, ...]:
    """Clips in a local folder that can be decoded, in order.

    Raises
    ------
    ConfigError
        If the folder has no such clip.
    """
    found = [path for path in sorted(Path(folder).glob("*")) if path.suffix in _SUFFIXES]
    textures = tuple(str(path) for path in found if _middle_frame(str(path)) is not None)
    if not textures:
        raise ConfigError(
            f"textures: {folder} has no clip that can be decoded ({', '.join(_SUFFIXES)})"
        )
    return textures


@lru_cache(maxsize=4)
def texture(path: str, height: int, width: int) -> NDArray[np.float32]:
    """Middle frame of a clip's start, cropped to fill: float32 (height, width, 3), grey levels.

    Raises
    ------
    ConfigError
        If the clip can't be decoded.
    """
    frame = _middle_frame(path)
    if frame is None:
        raise ConfigError(f"textures: {path} can't be decoded")
    scale = max(height / frame.height, width / frame.width)
    size = max(width, round(frame.width * scale)), max(height, round(frame.height * scale))
    resized = frame.resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    pixels = np.asarray(resized.crop((left, top, left + width, top + height)), np.float32)
    return _CONTRAST * (pixels - 128) + 128


@lru_cache(maxsize=64)
def _middle_frame(path: str) -> Image.Image | None:
    import av  # from the extra `evaluation`

    try:
        with av.open(path) as container:
            frames = list(islice(container.decode(video=0), _N_FRAMES))
            # PyAV gives the method no types.
            picture: Image.Image = frames[len(frames) // 2].to_image()  # type: ignore[no-untyped-call]
    except (OSError, av.FFmpegError, IndexError):
        return None
    return picture
