"""Methods that ask the model about perturbed clips: occlusion, RISE, LIME and KernelSHAP.

Written here instead of taken from Captum, with the reason:

- occlusion: Captum's slides a window over a tensor and one fill value takes its place; patches of a
  clip are replaced by a picture (the blurred clip).
- RISE: Captum has none.
- LIME and KernelSHAP are Captum's, over blocks of patches in space and time.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

# Captum comes without types.
from captum._utils.models.linear_model import SkLearnLasso  # type: ignore[import-untyped]
from captum.attr import KernelShap, Lime  # type: ignore[import-untyped]
from captum.attr._core.lime import (  # type: ignore[import-untyped]
    get_exp_kernel_similarity_function,
)
from torch import Tensor

from pipeline.evaluation.perturbation import Classifier, Fill, fill_frames, replace_patches

N_RISE = 500
N_SURROGATE = 500
"""Samples of LIME and KernelSHAP; their papers take 1000 and more for a picture."""
BLOCK = (2, 2, 2)
"""Time steps, rows and columns of patches in a supervoxel."""
_BATCH = 16


def occlusion(
    model: Classifier, pixel_values: Tensor, target: Tensor, *, fill: Fill = "blur", window: int = 2
) -> Tensor:
    """Fall of the class's logit when a window of patches is replaced (Zeiler & Fergus 2014).

    A patch's value is the mean over the windows that it is in. A window is ``window`` x ``window``
    patches of one time step; there is one forward pass for each place of it.
    """
    grid = model.grid
    filled = fill_frames(pixel_values, fill)
    window = min(window, grid.height, grid.width)
    places = [
        (time, top, left)
        for time in range(grid.n_times)
        for top in range(grid.height - window + 1)
        for left in range(grid.width - window + 1)
    ]
    masks = torch.zeros(len(places), grid.n_times, grid.height, grid.width, dtype=torch.bool)
    for index, (time, top, left) in enumerate(places):
        masks[index, time, top : top + window, left : left + window] = True
    masks = masks.flatten(2)
    clean = _logit(model, pixel_values, target)
    result = torch.zeros(len(pixel_values), *masks.shape[1:])
    for clip in range(len(pixel_values)):
        logits = _logits_of_masks(model, pixel_values, filled, masks, clip, target)
        fall = (clean[clip] - logits)[:, None, None]
        result[clip] = (fall * masks).sum(dim=0) / masks.sum(dim=0)
    return result


def rise(
    model: Classifier,
    pixel_values: Tensor,
    target: Tensor,
    *,
    fill: Fill = "blur",
    n_masks: int = N_RISE,
    cells: tuple[int, int, int] = (4, 4, 4),
    share_kept: float = 0.5,
    seed: int = 0,
) -> Tensor:
    """RISE (Petsiuk et al. 2018, arXiv 1806.07421) in space and time.

    Random coarse masks of ``cells`` (time, rows, columns) are enlarged and shifted; a patch's value
    is the mean of p(class) over the masks, weighted by how far each keeps the patch. Masks blend
    the clip with the fill.
    """
    grid, pixels = model.grid, pixel_values.float()
    shape = (grid.n_times, grid.height, grid.width)
    cells = (min(cells[0], shape[0]), min(cells[1], shape[1]), min(cells[2], shape[2]))
    generator = torch.Generator().manual_seed(seed)
    filled = fill_frames(pixels, fill)
    total = torch.zeros(len(pixels), *shape)
    weight = torch.zeros(shape)
    for start in range(0, n_masks, _BATCH):
        masks = _coarse_masks(min(_BATCH, n_masks - start), shape, cells, share_kept, generator)
        enlarged = F.interpolate(
            masks[:, None], size=(grid.n_frames, *grid.input_size), mode="nearest"
        )[:, 0, :, None].to(pixels)
        for clip in range(len(pixels)):
            versions = enlarged * pixels[clip] + (1 - enlarged) * filled[clip]
            with torch.inference_mode():
                probability = model.predict(versions).float().softmax(dim=-1)[:, target[clip]]
            total[clip] += torch.einsum("m,mtyx->tyx", probability.cpu(), masks)
        weight += masks.sum(dim=0)
    return (total / weight.clamp_min(1e-9)).flatten(2)


def kernel_shap(
    model: Classifier,
    pixel_values: Tensor,
    target: Tensor,
    *,
    fill: Fill = "blur",
    n_samples: int = N_SURROGATE,
    block: tuple[int, int, int] = BLOCK,
    seed: int = 0,
) -> Tensor:
    """KernelSHAP (Lundberg & Lee 2017, arXiv 1705.07874) over blocks of patches, by Captum.

    A single block has the whole fall of the logit: Captum can't draw a part of one.
    """
    blocks = supervoxels(model, block)
    if not blocks.any():
        filled = fill_frames(pixel_values, fill)
        fall = _logit(model, pixel_values, target) - _logit(model, filled, target)
        shape = blocks.flatten(1).shape
        return (fall / blocks.numel())[:, None, None].expand(-1, *shape)
    method = KernelShap(model.predict)
    return _surrogate(method, model, pixel_values, target, fill, n_samples, block, seed)


def lime(
    model: Classifier,
    pixel_values: Tensor,
    target: Tensor,
    *,
    fill: Fill = "blur",
    n_samples: int = N_SURROGATE,
    block: tuple[int, int, int] = BLOCK,
    seed: int = 0,
) -> Tensor:
    """LIME (Ribeiro et al. 2016, arXiv 1602.04938) over blocks of patches, by Captum.

    A lasso on which blocks are there, weighted by the clip's cosine distance, as LIME for pictures
    has it (kernel width 0.25).
    """
    method = Lime(
        model.predict,
        interpretable_model=SkLearnLasso(alpha=0.01),
        similarity_func=get_exp_kernel_similarity_function("cosine", kernel_width=0.25),
    )
    return _surrogate(method, model, pixel_values, target, fill, n_samples, block, seed)


def supervoxels(model: Classifier, block: tuple[int, int, int] = BLOCK) -> Tensor:
    """Give the number of the block that each patch is in: (T, rows, columns) int64."""
    grid = model.grid
    sizes = (grid.n_times, grid.height, grid.width)
    counts = [math.ceil(size / step) for size, step in zip(sizes, block, strict=True)]
    time, row, column = (
        torch.arange(size) // step for size, step in zip(sizes, block, strict=True)
    )
    return (time[:, None, None] * counts[1] + row[None, :, None]) * counts[2] + column[None, None]


def _surrogate(
    method: Lime,
    model: Classifier,
    pixel_values: Tensor,
    target: Tensor,
    fill: Fill,
    n_samples: int,
    block: tuple[int, int, int],
    seed: int,
) -> Tensor:
    """Explain clip by clip: a surrogate is fitted to one clip."""
    grid, pixels = model.grid, pixel_values.float()
    blocks = supervoxels(model, block)
    enlarged = blocks
    for axis, factor in ((0, grid.frames_per_time), (1, grid.patch_size), (2, grid.patch_size)):
        enlarged = enlarged.repeat_interleave(factor, dim=axis)
    sizes = torch.bincount(blocks.flatten()).float()
    filled = fill_frames(pixels, fill).contiguous()
    result = torch.zeros(len(pixels), grid.n_times, grid.height * grid.width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = np.random.get_state()  # noqa: NPY002  (Captum draws from the global state)
        np.random.seed(seed)  # noqa: NPY002
        for clip in range(len(pixels)):
            attribution = method.attribute(
                pixels[clip : clip + 1],
                baselines=filled[clip : clip + 1],
                target=int(target[clip]),
                feature_mask=enlarged[None, :, None].to(pixels.device),
                n_samples=n_samples,
                perturbations_per_eval=_BATCH,
                return_input_shape=False,
            )
            # A block's value is shared by its patches.
            result[clip] = (attribution[0].cpu() / sizes)[blocks].flatten(1)
        np.random.set_state(state)  # noqa: NPY002
    return result


def _coarse_masks(
    n: int,
    shape: tuple[int, int, int],
    cells: tuple[int, int, int],
    share_kept: float,
    generator: torch.Generator,
) -> Tensor:
    """Random masks (n, T, rows, columns), 0 to 1, smooth, each shifted by less than a cell."""
    steps = [math.ceil(size / cell) for size, cell in zip(shape, cells, strict=True)]
    coarse = (
        torch.rand(n, 1, *(cell + 1 for cell in cells), generator=generator) < share_kept
    ).float()
    size = [(cell + 1) * step for cell, step in zip(cells, steps, strict=True)]
    fine = F.interpolate(coarse, size=size, mode="trilinear", align_corners=False)[:, 0]
    masks = torch.empty(n, *shape)
    for index in range(n):
        corner = [int(torch.randint(step, (1,), generator=generator)) for step in steps]
        part = tuple(slice(at, at + length) for at, length in zip(corner, shape, strict=True))
        masks[index] = fine[index][part]
    return masks


def _logit(model: Classifier, pixel_values: Tensor, target: Tensor) -> Tensor:
    with torch.inference_mode():
        logits = model.predict(pixel_values).float()
    return logits.gather(1, target.to(logits.device)[:, None])[:, 0].cpu()


def _logits_of_masks(
    model: Classifier,
    pixel_values: Tensor,
    filled: Tensor,
    masks: Tensor,
    clip: int,
    target: Tensor,
) -> Tensor:
    """Logit of a clip's class with each mask's patches replaced: (masks,)."""
    parts = []
    for start in range(0, len(masks), _BATCH):
        some = masks[start : start + _BATCH]
        pixels = pixel_values[clip].expand(len(some), -1, -1, -1, -1)
        versions = replace_patches(
            pixels, filled[clip].expand_as(pixels), some.to(pixels.device), model.grid
        )
        parts.append(_logit(model, versions, target[clip].expand(len(some))))
    return torch.cat(parts)
