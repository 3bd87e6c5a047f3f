"""Numbers that describe each clip's attribution: pure functions on arrays for a block of clips.

All scores lie in [0, 1], so that histograms with fixed bins fit them. A clip's numbers depend on
that clip alone, to the last bit: sums run along rows, and matrix products add whole multiples of
one power of two, which is exact in float64 in any order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.attribution.baselines import center_gaussian

Float64Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]

_CLIPS_AT_ONCE = 512
"""Clips whose maps, summed over time, fit into a core's cache, at 14 x 14."""
_STEPS_AT_ONCE = 512
"""Time steps of clips whose maps, with what is made of them, fit there."""

_QUANTUM = 2.0**-32
"""Maps are rounded to whole multiples of this: an error of about 1e-8 in a patch whose share is 1
%."""

SCORES = {
    "entropy": "H(A) divided by its maximum: 0 for one patch of one time step, 1 for uniform",
    "spatial_entropy": "entropy of the spatial map (the sum of A over time) divided by its maximum",
    "temporal_entropy": "entropy of T divided by its maximum",
    "gini": "Gini coefficient of the spatial map: 0 for uniform, near 1 for one patch",
    "top5_mass": "share of the spatial map in its largest 5 % of patches",
    "top10_mass": "share of the spatial map in its largest 10 % of patches",
    "top25_mass": "share of the spatial map in its largest 25 % of patches",
    "temporal_gini": "Gini coefficient of T divided by its maximum",
    "peak_mass": "largest value of T",
    "center_y": "centre of mass of the spatial map: 0 at the top, 1 at the bottom",
    "center_x": "centre of mass of the spatial map: 0 at the left, 1 at the right",
    "center_time": "centre of mass of T: 0 at the start, 1 at the end",
    "spread": "root mean square distance from the centre of mass, divided by its maximum",
    "temporal_spread": "standard deviation of time under T, divided by its maximum",
    "border_mass": "share of the spatial map in the frame's outer ring",
    "top_left_mass": "share of the spatial map in the upper left corner, 1/4 of each side",
    "top_right_mass": "share of the spatial map in the upper right corner, 1/4 of each side",
    "bottom_left_mass": "share of the spatial map in the lower left corner, 1/4 of each side",
    "bottom_right_mass": "share of the spatial map in the lower right corner, 1/4 of each side",
    "center_mass": "share of the spatial map in the middle half of each side",
    "first_frame_mass": "value of T at the first time step",
    "last_frame_mass": "value of T at the last time step",
    "movement": "mean total variation distance between the maps of neighbouring time steps",
    "stillness": "mean under T of each time step's cosine with the spatial map: 1 if all are alike",
    "center_agreement": "Bhattacharyya coefficient of the spatial map and a centred Gaussian",
}
"""What each score of an attribution says, by its name."""

PEAKS = {
    "peak_time": "time step with the largest T, from 0",
    "peak_y": "row of patches of the spatial map's peak, from 0",
    "peak_x": "column of patches of the spatial map's peak, from 0",
}
"""Positions of the largest value, integers; -1 where there is no attribution."""


@dataclass(frozen=True)
class MapScores:
    """What `map_scores` gives for a block of clips."""

    scores: dict[str, Float64Array]
    """(clips,) each, by the names in `SCORES`; NaN for a clip without an attribution."""
    peaks: dict[str, NDArray[np.int32]]
    """(clips,) each, by the names in `PEAKS`."""
    spatial_map: Float64Array
    """(clips, y * x): sum of A over time, in whole multiples of 2^-32."""
    temporal: Float64Array
    """(clips, time): T."""


def map_scores(spatial: NDArray[Any], temporal: NDArray[Any]) -> MapScores:
    """Score each clip of a block.

    Parameters
    ----------
    spatial
        (clips, time, y, x) float, S: sums to 1 over (y, x) within rounding. NaN if a clip has no
        attribution. What isn't of half precision, as stores have it, is rounded to it.
    temporal
        (clips, time) float, T: sums to 1. A = S * T.

    Returns
    -------
    MapScores; with one patch or one time step, entropies and Gini coefficients are 0
    """
    n_clips, n_times, height, width = spatial.shape
    scores = {name: np.empty(n_clips) for name in SCORES}
    peaks = {name: np.empty(n_clips, np.int32) for name in PEAKS}
    spatial_map = np.empty((n_clips, height * width))
    when = temporal.astype(np.float64)
    flat = spatial.reshape(n_clips, n_times, height * width)
    for part in _parts(n_clips, _CLIPS_AT_ONCE):
        bits, whole = _bits(flat[part])
        whole &= np.isfinite(when[part]).all(axis=1)
        shares = when[part]
        if not whole.all():
            shares = np.where(whole[:, None], shares, 1 / n_times)
        moments = _moments(bits, shares)
        described = {
            **_of_time(shares),
            **_of_map(moments.spatial_map, height, width),
            "entropy": moments.entropy,
            "movement": moments.movement,
            "stillness": moments.stillness,
        }
        where = moments.spatial_map.argmax(axis=1)
        at = {"peak_time": shares.argmax(axis=1), "peak_y": where // width, "peak_x": where % width}
        spatial_map[part] = moments.spatial_map
        for name in SCORES:
            scores[name][part] = described[name]
        for name in PEAKS:
            peaks[name][part] = at[name]
        if not whole.all():
            lost = np.flatnonzero(~whole) + part.start
            spatial_map[lost] = np.nan
            for name in SCORES:
                scores[name][lost] = np.nan
            for name in PEAKS:
                peaks[name][lost] = -1
    return MapScores(scores, peaks, spatial_map, when)


def gini(shares: Float64Array) -> Float64Array:
    """Gini coefficient of each row (..., n) of shares that sum to 1: (...) from 0 to (n - 1) / n.

    G = sum_i (2 i - n - 1) v_i / n with v ascending and i from 1 (Damgaard & Weiner 2000).
    """
    coefficient: Float64Array = (np.sort(shares, axis=-1) * _ranks(shares.shape[-1])).sum(axis=-1)
    return np.maximum(coefficient, 0)


def _ranks(n: int) -> Float64Array:
    ranks: Float64Array = (2 * np.arange(1, n + 1) - n - 1) / n
    return ranks


def agreement(maps: NDArray[np.floating], others: NDArray[np.floating]) -> Float64Array:
    """Bhattacharyya coefficient of distributions, sum sqrt(p q): (..., n) to (...) in [0, 1].

    It is 1 for equal distributions, 0 if they share no patch, and defined for uniform ones, too.
    """
    product = np.asarray(maps * others, np.float64)
    np.maximum(product, 0, out=product)
    np.sqrt(product, out=product)
    coefficient: Float64Array = product.sum(axis=-1)
    return np.minimum(coefficient, 1)


@dataclass(frozen=True)
class _Moments:
    spatial_map: Float64Array
    entropy: Float64Array
    movement: Float64Array
    stillness: Float64Array


def _parts(n_clips: int, at_once: int) -> Iterator[slice]:
    for start in range(0, n_clips, at_once):
        yield slice(start, min(start + at_once, n_clips))


_NOT_FINITE = 0x7C00
"""From these bits of half precision on: infinity, NaN, and values with a sign."""
_MINUS_ZERO = 0x8000


@lru_cache(maxsize=1)
def _share_logs() -> Float32Array:
    """Share times its logarithm, by the share's bits in half precision: (0x7C00,)."""
    shares = np.arange(_NOT_FINITE, dtype=np.uint16).view(np.float16).astype(np.float64)
    logs = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
    table: Float32Array = (shares * logs).astype(np.float32)
    return table


def _bits(spatial: NDArray[Any]) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Bits of a block in half precision, and whether each clip has an attribution.

    A clip without one gets a uniform one.
    """
    half = np.ascontiguousarray(spatial, dtype=np.float16)
    bits = half.view(np.uint16)
    whole: NDArray[np.bool_] = bits.reshape(len(bits), -1).max(axis=1) < _NOT_FINITE
    if not whole.all():
        # A minus before a zero is no reason to lose a clip.
        bits = np.where(bits == _MINUS_ZERO, np.uint16(0), bits)
        whole = bits.reshape(len(bits), -1).max(axis=1) < _NOT_FINITE
        bits[~whole] = np.float16(1 / bits.shape[-1]).view(np.uint16)
    return bits, whole


def _as_float32(bits: NDArray[np.uint16], into: NDArray[np.uint32]) -> Float32Array:
    """Convert half precision, which NumPy does value by value, slowly.

    The bits are moved into those of single precision; then only the exponent's bias is missing, a
    multiplication by 2^112, which is exact even for subnormals.
    """
    np.left_shift(bits, 13, out=into, dtype=np.uint32)
    values = into.view(np.float32)
    values *= np.float32(2.0**112)
    return values


def _moments(bits: NDArray[np.uint16], when: Float64Array) -> _Moments:
    """Scores that need each time step's map: (clips, time, patches) and (clips, time)."""
    n_clips, n_times, n_patches = bits.shape
    mean = np.empty((n_clips, n_patches), np.float32)
    per_frame, logs, squares, product = np.empty((4, n_clips, n_times), np.float32)
    common = np.empty((n_clips, n_times - 1), np.float32)
    weights = when.astype(np.float32)
    at_once = max(1, _STEPS_AT_ONCE // n_times)
    # Memory that is asked for at each step would have to be cleared by the system each time.
    buffer = np.empty((at_once, n_times, n_patches), np.uint32)
    other = np.empty(buffer.shape, np.float32)
    # einsum adds row by row in single precision, in a quarter of the time that `sum` takes.
    for part in _parts(n_clips, at_once):
        of_part = bits[part]
        values = _as_float32(of_part, buffer[: len(of_part)])
        # A look-up takes half the time of logarithms and their product.
        share_logs = np.take(_share_logs(), of_part, mode="clip", out=other[: len(of_part)])
        np.einsum("ntp->nt", values, out=per_frame[part])
        np.einsum("ntp->nt", share_logs, out=logs[part])
        np.einsum("nt,ntp->np", weights[part], values, out=mean[part])
        np.einsum("ntp,ntp->nt", values, values, out=squares[part])
        np.einsum("np,ntp->nt", mean[part], values, out=product[part])
        smaller = share_logs[:, 1:]
        np.minimum(values[:, 1:], values[:, :-1], out=smaller)
        np.einsum("ntp->nt", smaller, out=common[part])
    frames = per_frame.astype(np.float64)
    total = (when * frames).sum(axis=-1)
    inner = when * (frames * np.log(np.maximum(when, 1e-300)) + logs)
    nats = np.log(total) - inner.sum(axis=-1) / total
    size = n_times * n_patches
    entropy = np.clip(nats / np.log(size), 0, 1) if size > 1 else np.zeros(n_clips)
    # |a - b| is a + b less twice the smaller of the two.
    apart = frames[:, 1:] + frames[:, :-1] - 2 * common.astype(np.float64)
    movement = np.clip(apart.sum(axis=-1) / (2 * max(n_times - 1, 1)), 0, 1)
    length = np.einsum("np,np->n", mean, mean).astype(np.float64)
    cosine = product / np.sqrt(np.maximum(squares * length[:, None], 1e-30))
    stillness = np.clip((when * cosine).sum(axis=-1) / when.sum(axis=-1), 0, 1)
    where = np.rint(mean.astype(np.float64) / _QUANTUM) * _QUANTUM
    return _Moments(where, entropy, movement, stillness)


def _entropy(shares: Float32Array) -> Float64Array:
    """Entropy of rows divided by its maximum, (clips, n) to (clips,); 0 if n is 1.

    Single precision resolves it to 1e-6.
    """
    n = shares.shape[-1]
    if n == 1:
        return np.zeros(len(shares))
    logarithm = np.maximum(shares, np.float32(1e-30))
    np.log(logarithm, out=logarithm)
    logs = np.einsum("np,np->n", shares, logarithm).astype(np.float64)
    entropy: Float64Array = np.clip(-logs / np.log(n), 0, 1)
    return entropy


def _of_time(when: Float64Array) -> dict[str, Float64Array]:
    n_times = when.shape[1]
    total = when.sum(axis=-1)
    shares = when / total[:, None]
    position = (np.arange(n_times) + 0.5) / n_times
    center = (shares * position).sum(axis=-1)
    variance = (shares * position**2).sum(axis=-1) - center**2
    most = (n_times - 1) / n_times
    return {
        "temporal_entropy": _entropy(shares.astype(np.float32)),
        "temporal_gini": gini(shares) / (most or 1),
        "peak_mass": shares.max(axis=-1),
        "center_time": center,
        # The highest: half on the first time step, half on the last.
        "temporal_spread": np.sqrt(np.maximum(variance, 0)) / (most / 2 or 1),
        "first_frame_mass": shares[:, 0],
        "last_frame_mass": shares[:, -1],
    }


@dataclass(frozen=True)
class _Regions:
    """Weights of patches by region: whole numbers, (patches, columns)."""

    weights: Float64Array
    names: tuple[str, ...]
    gaussian: Float32Array
    """(patches,) square root of a centred Gaussian for one frame."""


def border_width(side: int) -> int:
    """Width of a frame's outer ring, in patches, for a side of ``side`` patches."""
    return max(1, round(side / 14))


@lru_cache(maxsize=8)
def _regions(height: int, width: int) -> _Regions:
    y, x = np.mgrid[:height, :width]
    rows, columns = border_width(height), border_width(width)
    inner = (y >= rows) & (y < height - rows) & (x >= columns) & (x < width - columns)
    top, left = y < -(-height // 4), x < -(-width // 4)
    bottom, right = y >= height + (-height // 4), x >= width + (-width // 4)
    center_y = np.abs(2 * y + 1 - height) <= height / 2
    center_x = np.abs(2 * x + 1 - width) <= width / 2
    columns_by_name = {
        "total": np.ones((height, width)),
        "y": 2 * y + 1,
        "x": 2 * x + 1,
        "yy": (2 * y + 1) ** 2,
        "xx": (2 * x + 1) ** 2,
        "border_mass": ~inner,
        "top_left_mass": top & left,
        "top_right_mass": top & right,
        "bottom_left_mass": bottom & left,
        "bottom_right_mass": bottom & right,
        "center_mass": center_y & center_x,
    }
    weights = np.stack([c.ravel().astype(np.float64) for c in columns_by_name.values()], axis=1)
    gaussian = np.sqrt(center_gaussian(1, height, width)[0].ravel()).astype(np.float32)
    return _Regions(weights, tuple(columns_by_name), gaussian)


def _of_map(where: Float64Array, height: int, width: int) -> dict[str, Float64Array]:
    regions = _regions(height, width)
    # Sums are exact, so the same in any order: see the module's docstring.
    of = dict(zip(regions.names, (where @ regions.weights).T, strict=True))
    total = of["total"]
    center_y, center_x = of["y"] / total, of["x"] / total
    variance_y = (of["yy"] / total - center_y**2) / (2 * height) ** 2
    variance_x = (of["xx"] / total - center_x**2) / (2 * width) ** 2
    longest = 0.5 * np.hypot((height - 1) / height, (width - 1) / width) or 1.0
    n = height * width
    shares = (where / total[:, None]).astype(np.float32)
    ordered = np.sort(shares, axis=-1)
    masses = {
        f"top{percent}_mass": np.einsum("np->n", ordered[:, n - max(1, round(n * percent / 100)) :])
        for percent in (5, 10, 25)
    }
    ranks = _ranks(n).astype(np.float32)
    agreement_with_gaussian = np.einsum("np,p->n", np.sqrt(shares), regions.gaussian)
    named = [name for name in regions.names if name.endswith("_mass")]
    described = {
        "spatial_entropy": _entropy(shares),
        "gini": np.maximum(np.einsum("np,p->n", ordered, ranks), 0),
        **masses,
        "center_y": center_y / (2 * height),
        "center_x": center_x / (2 * width),
        "spread": np.sqrt(np.maximum(variance_y + variance_x, 0)) / longest,
        **{name: of[name] / total for name in named},
        "center_agreement": agreement_with_gaussian,
    }
    return {name: np.minimum(values, 1).astype(np.float64) for name, values in described.items()}
