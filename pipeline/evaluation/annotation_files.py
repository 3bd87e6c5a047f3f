"""Annotation files read so that they can do no harm: nothing is unpickled or fills the memory.

Whatever is wrong is raised as one of the usual errors, which `pipeline.evaluation.annotations`
tells on one line.
"""

import gzip
import io
import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST_BYTES = 4 * 2**30
"""Most bytes in a compressed file: several times the largest annotations that are published."""
MOST_VALUES = 2**30
"""Most values of a compressed array of masks: minutes of video at 640x480."""


def unpacked(content: bytes, *, most_bytes: int = MOST_BYTES) -> bytes:
    """Decompress gzip.

    Raises
    ------
    ValueError
        If it holds more than ``most_bytes``.
    """
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        # Some more than is there, and not as much as there might be.
        parts, n_bytes = [], 0
        while part := file.read(2**24):
            parts.append(part)
            n_bytes += len(part)
            if n_bytes > most_bytes:
                raise ValueError(f"it holds more than {most_bytes} bytes")
    return b"".join(parts)


def matlab_array(content: bytes, name: str, *, most_values: int = MOST_VALUES) -> NDArray[Any]:
    """Read an array of numbers out of a ``.mat`` of version 4 to 7.

    Raises
    ------
    ValueError
        If it isn't of finite numbers, or has more than ``most_values``.

    Whatever SciPy raises for what is no such file is raised, too.
    """
    from scipy.io import loadmat, whosmat

    file = io.BytesIO(content)
    shapes = {found: shape for found, shape, _ in whosmat(file)}
    if math.prod(shapes.get(name, ())) > most_values:
        raise ValueError(f"{name} is {shapes[name]}: more than any clip has")
    file.seek(0)
    values = loadmat(file, variable_names=[name])[name]
    # SciPy has a type of its own for sparse arrays.
    if not isinstance(values, np.ndarray):
        raise ValueError(f"{name} is a {type(values).__name__}, expected an array of numbers")
    # Text, records, and complex numbers aren't masks.
    if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        raise ValueError(f"{name} is of {values.dtype}, expected finite numbers")
    return values


def numpy_masks(content: bytes) -> NDArray[np.bool_]:
    """Read masks out of an ``.npy``: where its whole numbers aren't 0.

    Raises
    ------
    ValueError
        If it is of anything else: of fractions, those near 0 would count as marked, too.
    """
    values = np.load(io.BytesIO(content), allow_pickle=False)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biu":
        found = getattr(values, "dtype", "an archive")
        raise ValueError(f"expected an array of bool or whole numbers, got {found}")
    return np.asarray(values != 0)


def check_masks(stack: NDArray[np.bool_]) -> None:
    """Refuse what isn't (frames, height, width) of at least one frame; a ValueError says so."""
    if stack.ndim != 3 or not stack.size:
        raise ValueError(f"expected (frames, height, width), got {stack.shape}")


def picture(content: bytes) -> NDArray[np.bool_]:
    """Read a picture as a mask: where a colour, or an object's number, isn't 0."""
    opened = Image.open(io.BytesIO(content))
    pixels = np.asarray(opened)
    # The colours of a picture with an alpha channel say where something is.
    n_colours = len(opened.getbands()) - ("A" in opened.getbands())
    colours = pixels[..., :n_colours] if pixels.ndim == 3 else pixels[..., None]
    return np.asarray(colours.any(axis=-1))


_FRAME_DIGITS = 4
"""Digits of a number behind a point, from which on it counts frames."""


def check_numbered(paths: Sequence[str]) -> None:
    """Refuse pictures of which some are left out, if numbers in their names count them.

    Only numbers that differ from name to name count, and only where nothing else differs; several
    that do, as a frame's number that stands there twice, have to be the same ones. Parts of a
    second, as in ``t0.04``, count no frames; a number of four digits or more behind a point does.

    Raises
    ------
    ValueError
        Names the first two between which some are.
    """
    names = [path.rsplit("/", 1)[-1] for path in paths]
    parts = [re.split(r"(\d+)", name) for name in names]
    if len({tuple(name[::2]) for name in parts}) > 1:
        return
    places = [*zip(*([int(number) for number in name[1::2]] for name in parts), strict=True)]
    # Where no number differs, names do by zeros in front: the same frame twice.
    counting = [place for place in places if len(set(place)) > 1] or places[-1:]
    if len(set(counting)) != 1:
        return
    at = 2 * places.index(counting[0]) + 1
    if any(at > 1 and name[at - 1] == "." and len(name[at]) < _FRAME_DIGITS for name in parts):
        return
    for one, other in pairwise(counting[0]):
        if other != one + 1:
            raise ValueError(f"expected a mask for each frame, got {other} behind {one}")


def natural(path: str) -> tuple[Any, ...]:
    """Sort key of a path in which numbers count as numbers."""
    name = path.rsplit("/", 1)[-1]
    return tuple(
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    )
