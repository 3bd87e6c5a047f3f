"""Parts of a clip replaced by something that says nothing, and what the model says then.

A part is a patch of one time step, a whole time step, or a tube: the same patch in all time steps.
What takes its place is never a method's own baseline alone: metrics are computed with several fills
(`FILLS`), since each leaves something of the clip (a blur its colours, the median frame its still
background) and shows the model something that it wasn't trained on.
"""

from collections.abc import Sequence
from copy import copy
from typing import Literal, Protocol, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.models.attributor import is_out_of_memory
from pipeline.models.geometry import Geometry

Unit = Literal["patches", "frames", "tubes"]
UNITS: tuple[Unit, ...] = get_args(Unit)

Fill = Literal["blur", "median", "mean"]
FILLS: tuple[Fill, ...] = get_args(Fill)
"""``blur``: each frame blurred; ``median``: the clip's median frame, in which what moves is gone;
``mean``: the clip's mean colour."""

BLUR_SHARE = 0.1
"""Standard deviation of the blur, as a share of the frame's shorter side."""


class Classifier(Protocol):
    """What can be explained and asked; `pipeline.models.adapter.Adapter` is one."""

    @property
    def grid(self) -> Geometry:
        """Grid of times and patches."""

    def predict(self, pixel_values: Tensor, /) -> Tensor:
        """Logits (clips, classes) of (clips, frames, 3, height, width)."""


def fill_frames(pixel_values: Tensor, fill: Fill) -> Tensor:
    """Give what takes a part's place, for every pixel.

    Parameters
    ----------
    pixel_values
        (clips, frames, 3, height, width), normalised or not.

    Returns
    -------
    Same shape and dtype
    """
    if fill == "mean":
        return pixel_values.mean(dim=(1, 3, 4), keepdim=True).expand_as(pixel_values)
    if fill == "median":
        ordered = pixel_values.sort(dim=1).values
        n = ordered.shape[1]
        middle = (ordered[:, (n - 1) // 2] + ordered[:, n // 2]) / 2
        return middle[:, None].expand_as(pixel_values)
    if fill == "blur":
        return _blurred(pixel_values, BLUR_SHARE * min(pixel_values.shape[-2:]))
    raise ValueError(f"fill: {fill!r} is not one of {', '.join(FILLS)}")


def unit_scores(attribution: NDArray[np.floating], unit: Unit) -> NDArray[np.float64]:
    """Sum an attribution over each part.

    Parameters
    ----------
    attribution
        (clips, T, P)

    Returns
    -------
    (clips, parts) float64: T * P patches, T frames, or P tubes
    """
    values: NDArray[np.float64] = np.asarray(attribution, np.float64)
    if unit == "patches":
        return values.reshape(len(values), -1)
    if unit == "frames":
        return np.asarray(values.sum(axis=2))
    if unit == "tubes":
        return np.asarray(values.sum(axis=1))
    raise ValueError(f"unit: {unit!r} is not one of {', '.join(UNITS)}")


def descending(scores: NDArray[np.floating], generator: np.random.Generator) -> NDArray[np.intp]:
    """Order of the parts, highest first; equal ones in random order.

    So that a constant map is a random order, and not the order in which patches lie.

    Parameters
    ----------
    scores
        (clips, parts)

    Returns
    -------
    (clips, parts): indices of parts
    """
    order: NDArray[np.intp] = np.lexsort((generator.random(scores.shape), -scores), axis=-1)
    return order


def where_ordered(values: NDArray[np.float64], scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Give values (..., clips), NaN for a clip whose scores have NaN: it orders no parts.

    Parameters
    ----------
    scores
        (clips, parts)
    """
    return np.where(np.isnan(scores).any(axis=1), np.nan, values)


def first_parts(
    order: NDArray[np.intp], counts: Sequence[int], unit: Unit, grid: Geometry
) -> NDArray[np.bool_]:
    """Patches of the first parts of an order.

    Parameters
    ----------
    order
        (clips, parts)
    counts
        How many parts, for each selection.

    Returns
    -------
    (selections, clips, T, P) bool
    """
    n_times, n_patches = grid.n_times, grid.height * grid.width
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(order.shape[1])[None], axis=1)
    chosen = places[None] < np.asarray(counts)[:, None, None]
    shape = (len(counts), len(order), n_times, n_patches)
    if unit == "patches":
        return chosen.reshape(shape)
    expanded = chosen[:, :, :, None] if unit == "frames" else chosen[:, :, None, :]
    return np.broadcast_to(expanded, shape)


def replace_patches(
    pixel_values: Tensor, filled: Tensor, patches: Tensor, grid: Geometry
) -> Tensor:
    """Put a fill in the place of some patches.

    Parameters
    ----------
    pixel_values, filled
        (clips, frames, 3, height, width)
    patches
        (clips, T, P) bool: those to replace; with tubelets, in all frames of a time step.
    """
    frames = patches.reshape(len(patches), grid.n_times, grid.height, grid.width)
    for axis, factor in ((1, grid.frames_per_time), (2, grid.patch_size), (3, grid.patch_size)):
        frames = frames.repeat_interleave(factor, dim=axis)
    return torch.where(frames[:, :, None], filled, pixel_values)


class Probe:
    """Asks a model about perturbed versions of a batch of clips, about each version once.

    Whoever needs the same version again (the curves' ends, a fraction that two metrics share, the
    random orders that all methods are held against) gets what is remembered. ``n_forward`` counts
    the versions that went through the model.

    Parameters
    ----------
    pixel_values
        (clips, frames, 3, height, width), normalised, on the model's device.
    batch_size
        Versions in a forward pass. Where so many don't fit into the device's memory, they are
        halved until they do, down to one; the probe asks by that many from then on.
    """

    def __init__(self, model: Classifier, pixel_values: Tensor, *, batch_size: int = 16) -> None:
        self.grid = model.grid
        self.n_clips = len(pixel_values)
        self.n_forward = 0
        self._model = model
        self._pixel_values = pixel_values
        self.batch_size = batch_size
        self._filled: dict[Fill, Tensor] = {}
        self._known: dict[tuple[int, str, bytes], NDArray[np.float64]] = {}

    def first(self, n_clips: int) -> "Probe":
        """Ask about the first clips alone; what is known of them is shared."""
        if n_clips >= self.n_clips:
            return self
        part = copy(self)
        part.n_clips, part.n_forward = n_clips, 0
        part._pixel_values, part._filled = self._pixel_values[:n_clips], {}
        return part

    def logits(self, removed: NDArray[np.bool_], fill: Fill) -> NDArray[np.float64]:
        """Logits of the clips with some patches replaced.

        Parameters
        ----------
        removed
            (versions, clips, T, P) bool

        Returns
        -------
        (versions, clips, classes) float64
        """
        expected = (self.n_clips, self.grid.n_times, self.grid.height * self.grid.width)
        if removed.shape[1:] != expected:
            raise ValueError(f"removed is {removed.shape}, expected (versions, *{expected})")
        keys = [
            [_key(clip, mask, fill) for clip, mask in enumerate(version)] for version in removed
        ]
        missing = {
            key: (version, key[0])
            for version, row in enumerate(keys)
            for key in row
            if key not in self._known
        }
        if missing:
            self._ask(missing, removed, fill)
        return np.stack([np.stack([self._known[key] for key in row]) for row in keys])

    def clean_logits(self) -> NDArray[np.float64]:
        """Logits of the clips as they are: (clips, classes) float64."""
        shape = (1, self.n_clips, self.grid.n_times, self.grid.height * self.grid.width)
        clean: NDArray[np.float64] = self.logits(np.zeros(shape, np.bool_), "mean")[0]
        return clean

    def _ask(
        self,
        missing: dict[tuple[int, str, bytes], tuple[int, int]],
        removed: NDArray[np.bool_],
        fill: Fill,
    ) -> None:
        if fill not in self._filled:
            self._filled[fill] = fill_frames(self._pixel_values, fill)
        filled, device = self._filled[fill], self._pixel_values.device
        wanted = list(missing.items())
        start = 0
        while start < len(wanted):
            part = wanted[start : start + self.batch_size]
            clips = [clip for _, (_, clip) in part]
            masks = np.stack([removed[version, clip] for _, (version, clip) in part])
            try:
                with torch.inference_mode():
                    versions = replace_patches(
                        self._pixel_values[clips],
                        filled[clips],
                        torch.from_numpy(masks).to(device),
                        self.grid,
                    )
                    logits = self._model.predict(versions).double().cpu().numpy()
            except (MemoryError, RuntimeError) as error:
                if len(part) == 1 or not is_out_of_memory(error):
                    raise
                self.batch_size = len(part) // 2
                continue
            start += len(part)
            self.n_forward += len(part)
            self._known |= {key: row for (key, _), row in zip(part, logits, strict=True)}


def _key(clip: int, mask: NDArray[np.bool_], fill: Fill) -> tuple[int, str, bytes]:
    """Name of a version; of an untouched clip it is the same for all fills."""
    return clip, fill if mask.any() else "", np.packbits(mask).tobytes()


def probability_of(
    logits: NDArray[np.floating], target: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Probability of each clip's class.

    Parameters
    ----------
    logits
        (..., clips, classes)
    target
        (clips,)

    Returns
    -------
    (..., clips) float64
    """
    shifted = logits - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities = exponentials / exponentials.sum(axis=-1, keepdims=True)
    chosen: NDArray[np.float64] = probabilities[..., np.arange(len(target)), target]
    return chosen


def _blurred(pixel_values: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of each frame, cut off at 3 sigma, mirrored at the edges."""
    height, width = pixel_values.shape[-2:]
    # Mirroring can't reach beyond the frame.
    radius = min(max(round(3 * sigma), 1), min(height, width) - 1)
    offsets = torch.arange(-radius, radius + 1, device=pixel_values.device, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    planes = pixel_values.reshape(-1, 1, height, width).float()
    for padding, shape in (((0, 0, radius, radius), (-1, 1)), ((radius, radius, 0, 0), (1, -1))):
        mirrored = F.pad(planes, padding, mode="reflect")
        planes = F.conv2d(mirrored, kernel.reshape(1, 1, *shape))
    return planes.reshape(pixel_values.shape).to(pixel_values.dtype)
