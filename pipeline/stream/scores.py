"""What is watched of each window: a few numbers of its map, by the names that a run's have."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.attribution.focus import joint_attribution
from pipeline.attribution.measures import normalised_entropy

SCORES = (
    *("entropy", "center_y", "center_x", "center_time", "border_mass", "center_mass"),
    *("top_left_mass", "top_right_mass", "bottom_left_mass", "bottom_right_mass"),
)
"""Names and meanings are those of the columns of a run's `scores.parquet`."""


def window_scores(
    spatial: NDArray[np.floating], temporal: NDArray[np.floating]
) -> tuple[dict[str, float], NDArray[np.float64]]:
    """Score a window's map: how spread out it is, and where and when its weight lies.

    Parameters
    ----------
    spatial
        (time, y, x), S: sums to 1 over (y, x).
    temporal
        (time,), T: sums to 1.

    Returns
    -------
    Values in [0, 1] by the names in `SCORES`, and A summed over time: (y, x), summing to 1; NaN for
    a map that isn't finite
    """
    n_times, height, width = spatial.shape
    if not (np.isfinite(spatial).all() and np.isfinite(temporal).all()):
        return dict.fromkeys(SCORES, float("nan")), np.full((height, width), np.nan)
    joint = joint_attribution(spatial, temporal)
    where = joint.sum(axis=0, dtype=np.float64)
    where /= where.sum()
    when = np.asarray(temporal, np.float64) / np.sum(temporal, dtype=np.float64)
    regions = _regions(height, width)
    scores = {
        "entropy": float(normalised_entropy(joint)) if joint.size > 1 else 0.0,
        "center_y": float(where.sum(axis=1) @ (np.arange(height) + 0.5)) / height,
        "center_x": float(where.sum(axis=0) @ (np.arange(width) + 0.5)) / width,
        "center_time": float(when @ (np.arange(n_times) + 0.5)) / n_times,
        **{name: float(where[region].sum()) for name, region in regions.items()},
    }
    return scores, where


@lru_cache(maxsize=8)
def _regions(height: int, width: int) -> dict[str, NDArray[np.bool_]]:
    """Patches of the outer ring, of the middle half, and of the corners, a quarter of each side."""
    y, x = np.mgrid[:height, :width]
    rows, columns = (max(1, round(side / 14)) for side in (height, width))
    inner = (y >= rows) & (y < height - rows) & (x >= columns) & (x < width - columns)
    in_middle = (abs(2 * y + 1 - height) <= height / 2) & (abs(2 * x + 1 - width) <= width / 2)
    top, left = y < -(-height // 4), x < -(-width // 4)
    bottom, right = y >= height + (-height // 4), x >= width + (-width // 4)
    return {
        "border_mass": ~inner,
        "center_mass": in_middle,
        "top_left_mass": top & left,
        "top_right_mass": top & right,
        "bottom_left_mass": bottom & left,
        "bottom_right_mass": bottom & right,
    }
