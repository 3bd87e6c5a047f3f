"""Maps as small pictures, a pixel a patch, on scales by quantiles."""

import base64
import io
from dataclasses import dataclass
from functools import lru_cache

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.floating]
Pixels = NDArray[np.uint8]

COLORMAP = "inferno"
_LEVELS = np.array([0, 2, 5, *range(10, 100, 10), 95, 98, 100]) / 100
_MORE, _LESS = (226, 88, 34), (46, 124, 214)
"""Colours of what gets more than the dataset's mean, and of what gets less."""


@dataclass(frozen=True)
class QuantileScale:
    """Values to [0, 1] by the share of all values that lie below them.

    So one class with an extreme patch takes no contrast from the others, and maps that are nearly
    uniform use the whole scale, whose legend says how little that is.
    """

    values: tuple[float, ...]
    """Ascending, without repetition."""
    levels: tuple[float, ...]
    """Level of each of them."""

    @classmethod
    def of(cls, values: Floats) -> "QuantileScale":
        """Take the quantiles of all finite values; without any, the scale of 0 to 1."""
        finite = np.asarray(values, np.float64)[np.isfinite(values)]
        if not finite.size:
            return cls((0.0, 1.0), (0.0, 1.0))
        knots, at = np.unique(np.quantile(finite, _LEVELS), return_inverse=True)
        levels = np.bincount(at, weights=_LEVELS) / np.bincount(at)
        return cls(tuple(knots.tolist()), tuple(levels.tolist()))

    def __call__(self, values: Floats) -> NDArray[np.float64]:
        """Levels of values, in [0, 1]; NaN stays NaN."""
        return np.interp(np.asarray(values, np.float64), self.values, self.levels)

    def at(self, level: float) -> float:
        """Value of a level: what a legend writes there."""
        return float(np.interp(level, self.levels, self.values))


def map_pixels(maps: Floats, scale: QuantileScale) -> Pixels:
    """Index of the colour of each patch, 0 to 255, in the map's own shape; NaN becomes 0."""
    pixels: Pixels = np.nan_to_num(255 * scale(maps)).round().astype(np.uint8)
    return pixels


def map_png(pixels: Pixels) -> bytes:
    """Write colour indices (y, x) as a PNG with the colours of `COLORMAP`."""
    image = Image.fromarray(pixels)
    image.putpalette(palette())
    return _png(image)


def difference_png(difference: Floats, scale: QuantileScale) -> bytes:
    """Draw a difference (y, x): orange for more, blue for less, the more opaque the larger.

    What isn't drawn lets the page through, so that it is neither glaring in the dark nor dull in
    the light.

    Parameters
    ----------
    scale
        Of absolute differences.
    """
    color = np.where(difference[..., None] > 0, _MORE, _LESS).astype(np.uint8)
    # Squared, so that the smaller half of all differences stays faint.
    opacity = np.nan_to_num(255 * scale(np.abs(difference)) ** 2).round().astype(np.uint8)
    return _png(Image.fromarray(np.concatenate([color, opacity[..., None]], axis=-1)))


def sprite_png(pixels: Pixels, columns: int) -> bytes:
    """Lay maps (n, y, x) of colour indices side by side in one picture, ``columns`` in a row."""
    n, height, width = pixels.shape
    rows = -(-n // columns)
    sheet = np.zeros((rows * columns, height, width), np.uint8)
    sheet[:n] = pixels
    laid = sheet.reshape(rows, columns, height, width).swapaxes(1, 2)
    return map_png(laid.reshape(rows * height, columns * width))


def data_url(png: bytes) -> str:
    """Give a PNG as text, which a page shows without a further file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


@lru_cache(maxsize=1)
def palette() -> bytes:
    """Colours of `COLORMAP` as 256 times red, green, blue."""
    colors = matplotlib.colormaps[COLORMAP](np.arange(256), bytes=True)[:, :3]
    return np.ascontiguousarray(colors, np.uint8).tobytes()


def _png(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, format="png", optimize=True)
    return written.getvalue()
