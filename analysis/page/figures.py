"""Pictures of attributions: class maps, temporal profiles, and clips with what the model looked at.

All are drawn on Matplotlib's own canvas, without pyplot and its global state, and share one unit:
*times uniform*, the attribution over what each patch or frame would get were attention even. So 1
means the same in every picture, whatever the patch grid, and pictures that get the same ``top`` can
be held against each other. The colours are perceptually uniform and safe for colour-blind readers.
"""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

COLORMAP = "inferno"
"""Perceptually uniform, and its bright end stands out from most videos."""

_INK, _MUTED, _ACCENT = "#24292f", "#57606a", "#0b62a4"
_TIMES = "\N{MULTIPLICATION SIGN}"
_DPI = 120
_FRAMES_PER_ROW = 8
_GAP = 0.06
"""Gap between two frames, as a share of a frame's width."""

Floats = NDArray[np.floating]
Pixels = NDArray[np.uint8]


def times_uniform(distribution: Floats) -> Floats:
    """Scale a distribution so that 1 is what every value would be were it uniform: same shape."""
    result: Floats = distribution * distribution.size
    return result


def spatial_map_figure(spatial_map: Floats, *, top: float, title: str = "") -> Figure:
    """Draw where attention goes, patch by patch.

    Parameters
    ----------
    spatial_map
        (y, x), sums to 1.
    top
        Brightest value of the colour scale, in times uniform.
    """
    figure = Figure(figsize=(3.6, 3.1), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(times_uniform(spatial_map), cmap=COLORMAP, vmin=0, vmax=top)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    _colorbar(figure, image, axes, top)
    _title(axes, title)
    return figure


def temporal_profile_figure(
    profile: Floats, deviation: Floats | None = None, *, top: float, title: str = ""
) -> Figure:
    """Draw when attention is paid, with a band of one standard deviation over clips.

    Parameters
    ----------
    profile
        (time,), sums to 1.
    deviation
        (time,), in the profile's unit; None for no band.
    top
        Upper end of the axis, in times uniform.
    """
    figure = Figure(figsize=(4.6, 3.1), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    steps, values = np.arange(1, profile.size + 1), times_uniform(profile)
    if deviation is not None:
        spread = times_uniform(deviation)
        lower, upper = np.maximum(values - spread, 0), values + spread
        axes.fill_between(steps, lower, upper, color=_ACCENT, alpha=0.2, lw=0, label="± 1 std")
    axes.plot(steps, values, color=_ACCENT, marker="o", ms=4, lw=1.8, label="mean")
    axes.axhline(1, color=_MUTED, ls="--", lw=1, label="uniform")
    axes.set_ylim(0, top)
    axes.set_xlim(0.7, profile.size + 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("time step", color=_MUTED, fontsize=9)
    axes.set_ylabel(f"{_TIMES} uniform", color=_MUTED, fontsize=9)
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="upper right", labelcolor=_INK)
    _plain(axes)
    _title(axes, title)
    return figure


def clip_figure(
    frames: Pixels,
    attribution: Floats,
    *,
    frame_index: NDArray[np.integer],
    frame_time: NDArray[np.floating] | None = None,
    title: str = "",
) -> Figure:
    """Draw a clip's frames under their attribution, with each frame's share of it as a bar below.

    Parameters
    ----------
    frames
        (time, height, width, 3) uint8, one per time step, as the model saw them.
    attribution
        (time, y, x), sums to 1; its grid covers the frame.
    frame_index
        (time,), the frames' numbers in the clip.
    frame_time
        (time,), when they are shown, s; None or NaN where that isn't known.

    Raises
    ------
    ValueError
        When the three aren't of the same number of time steps.
    """
    n_times = len(frames)
    if not n_times == len(attribution) == len(frame_index):
        raise ValueError(
            f"time steps: {n_times} frames, {len(attribution)} attributions and "
            f"{len(frame_index)} frame indices, expected the same number"
        )
    times = np.full(n_times, np.nan) if frame_time is None else frame_time
    labels = [
        f"frame {index}" if np.isnan(time_s) else f"{time_s:.2f} s"
        for index, time_s in zip(frame_index, times, strict=True)
    ]
    n_rows = -(-n_times // _FRAMES_PER_ROW)
    n_columns = -(-n_times // n_rows)
    overlaid, shares = overlay(frames, attribution), times_uniform(attribution.sum(axis=(1, 2)))
    height, width = frames.shape[1:3]
    strip_width = n_columns * (1 + _GAP) - _GAP
    strip_height = 9.0 / strip_width * height / width
    size = (10.0, 0.3 + n_rows * (strip_height + 0.75))
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    grid = figure.subplots(2 * n_rows, 1, height_ratios=[strip_height, 0.5] * n_rows, squeeze=False)
    for row in range(n_rows):
        steps = slice(row * n_columns, min((row + 1) * n_columns, n_times))
        strip, bars = grid[2 * row, 0], grid[2 * row + 1, 0]
        _draw_frames(strip, overlaid[steps])
        _draw_shares(bars, shares[steps], labels[steps], max(1.0, shares.max()))
        strip.set_xlim(0, strip_width)
        bars.set_xlim(0, strip_width)
    top = float(times_uniform(attribution).max())
    scale = ScalarMappable(Normalize(0, top), COLORMAP)
    _colorbar(figure, scale, list(grid[:, 0]), top)
    _title(grid[0, 0], title)
    return figure


def overlay(frames: Pixels, attribution: Floats) -> Pixels:
    """Lay an attribution over its frames, one scale for the whole clip.

    Colour and opacity both follow the value, so that a frame shows through where the model hardly
    looked at it.

    Parameters
    ----------
    frames
        (time, height, width, 3) uint8.
    attribution
        (time, y, x), non-negative; its grid covers the frame.

    Returns
    -------
    (time, height, width, 3) uint8
    """
    height, width = frames.shape[1:3]
    top = attribution.max()
    scaled = (attribution / top if top > 0 else attribution).astype(np.float32)
    colormap = matplotlib.colormaps[COLORMAP]
    blended = np.empty_like(frames)
    for step, patches in enumerate(scaled):
        upsampled = Image.fromarray(patches).resize((width, height), Image.Resampling.BILINEAR)
        value = np.asarray(upsampled)
        opacity = 0.85 * np.sqrt(value)[..., None]
        color = 255 * colormap(value)[..., :3]
        blended[step] = (frames[step] * (1 - opacity) + color * opacity).round()
    return blended


def thumbnail(spatial_map: Floats, *, top: float) -> Pixels:
    """Colour a map with a pixel per patch, for a page to enlarge: (y, x, 3) uint8."""
    value = times_uniform(spatial_map) / top
    pixels: Pixels = matplotlib.colormaps[COLORMAP](value, bytes=True)[..., :3]
    return pixels


def figure_png(figure: Figure) -> bytes:
    """Draw a figure into a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


def pixels_png(pixels: Pixels) -> bytes:
    """Write pixels (height, width, 3) into a PNG file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()


def _draw_frames(axes: Axes, frames: Pixels) -> None:
    height, width = frames.shape[1:3]
    for column, frame in enumerate(frames):
        left = column * (1 + _GAP)
        axes.imshow(frame, extent=(left, left + 1, 0, height / width), interpolation="antialiased")
    axes.set_ylim(0, height / width)
    axes.axis("off")


def _draw_shares(axes: Axes, shares: Floats, labels: Sequence[str], top: float) -> None:
    centres = np.arange(len(shares)) * (1 + _GAP) + 0.5
    axes.bar(centres, shares, width=1, color=_ACCENT, alpha=0.85)
    axes.axhline(1, color=_MUTED, ls="--", lw=1)
    for centre, share in zip(centres, shares, strict=True):
        # Above the line at 1, which would strike it through.
        height, text = max(share, 1.03), f"{share:.1f}{_TIMES}"
        axes.text(centre, height, text, ha="center", va="bottom", fontsize=7, color=_INK)
    axes.set_ylim(0, 1.35 * top)
    axes.set_yticks([])
    axes.set_xticks(centres, labels)
    _plain(axes)
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)


def _colorbar(figure: Figure, image: ScalarMappable, axes: Axes | list[Axes], top: float) -> None:
    bar = figure.colorbar(image, ax=axes, pad=0.02, fraction=0.05, aspect=25)
    bar.outline.set_visible(False)
    bar.ax.axhline(1, color="white", lw=1.5)
    bar.ax.axhline(1, color="black", lw=1.5, ls=(0, (2, 2)))
    bar.set_ticks([1, top], labels=[f"1{_TIMES} (uniform)", f"{top:.1f}{_TIMES}"])
    bar.ax.tick_params(labelsize=8, colors=_MUTED, length=2)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#d0d7de")
    axes.tick_params(labelsize=8, colors=_MUTED)


def _title(axes: Axes, title: str) -> None:
    # A dollar sign in a class name is not a formula.
    axes.set_title(title, loc="left", fontsize=10, color=_INK, parse_math=False)
