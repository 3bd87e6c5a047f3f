"""Which times of a clip a class depends on: by a backward pass, or by a few forward passes.

Both are measured from the clip's median frame, in which what moves is gone. Neither is T of a map:
attention and evidence over time say when something was read, which is mostly in other frames than
the one that it came from.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pipeline.attribution.change import change, median_frame
from pipeline.attribution.staa import as_distribution
from pipeline.models.adapter import Adapter
from pipeline.models.backward import held_gradient_from_median

N_INSERTIONS = 7
"""Forward passes of a clip that `by_insertion` takes at most."""


def by_gradient(adapter: Adapter, pixel_values: Tensor, classes: Tensor) -> Tensor:
    """Each time's share of what speaks for a class, by one backward pass.

    `held_gradient_from_median` computes it. Gradients at other points between the median frame and
    the clip, the midpoint rule among them, come no nearer to the Shapley values everywhere:
    ``python -m tests.evaluation.study_of_frame_gradients`` holds them against each other.

    Parameters
    ----------
    pixel_values, classes
        As `held_gradient_from_median` takes them.

    Returns
    -------
    (clips, T) float32; sums to 1, and is uniform if nothing speaks for the class
    """
    parts = held_gradient_from_median(adapter, pixel_values, classes)
    return _shares(parts.clamp(min=0).sum(-1))


@torch.no_grad()
def by_insertion(adapter: Adapter, pixel_values: Tensor, classes: Tensor) -> Tensor:
    """Each time's share of what it alone adds to a class, by `N_INSERTIONS` forward passes at most.

    The model sees the median frame throughout, and in it one segment of the clip at a time. A
    segment is a time, or neighbouring ones that change least, so that there are no more segments
    than passes. What counts is how far the log-odds of the class are above those of the segment
    with the lowest; times of a segment share it.

    Parameters
    ----------
    pixel_values, classes
        As `by_gradient` takes them.

    Returns
    -------
    (clips, T) float32; sums to 1, and is uniform if all segments add the same
    """
    n_times = adapter.grid.n_times
    moved = change(pixel_values, adapter.patch_projection).sum(-1)
    segments = torch.stack([segment_numbers(of_clip, N_INSERTIONS) for of_clip in moved.cpu()])
    segments = segments.to(pixel_values.device)
    still = median_frame(pixel_values.float()).to(pixel_values.dtype)
    odds = []
    for number in range(min(n_times, N_INSERTIONS)):
        shown = (segments == number).repeat_interleave(adapter.grid.frames_per_time, dim=1)
        seen = torch.where(shown[:, :, None, None, None], pixel_values, still)
        odds.append(_log_odds(adapter.predict(seen), classes))
    of_segments = torch.stack(odds, dim=1)
    gains = of_segments - of_segments.min(dim=1, keepdim=True).values
    n_shown = torch.zeros_like(gains).scatter_add_(1, segments, torch.ones_like(moved))
    return _shares((gains / n_shown).gather(1, segments))


FRAME_IMPORTANCE: Mapping[str, Callable[[Adapter, Tensor, Tensor], Tensor]] = {
    "gradient": by_gradient,
    "insertion": by_insertion,
}
"""By the values of `Method.frame_importance`."""


def segment_numbers(changes: Tensor, n_segments: int) -> Tensor:
    """Group neighbouring times until there are few enough: two groups that change least are one.

    Parameters
    ----------
    changes
        (T,), how far each time is from the median frame.

    Returns
    -------
    (T,) int64, the group of each time, from 0 in order
    """
    sizes, sums = [1] * len(changes), changes.tolist()
    while len(sums) > n_segments:
        pairs = [sums[i] + sums[i + 1] for i in range(len(sums) - 1)]
        least = pairs.index(min(pairs))
        sums[least : least + 2] = [pairs[least]]
        sizes[least : least + 2] = [sizes[least] + sizes[least + 1]]
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


def _log_odds(logits: Tensor, classes: Tensor) -> Tensor:
    """Log-odds of each clip's class, (clips,) float32; for a model of one class its logit."""
    logits = logits.float()
    of_class = logits.gather(1, classes[:, None])
    if logits.shape[1] == 1:
        return of_class[:, 0]
    rivals = logits.scatter(1, classes[:, None], -torch.inf)
    return of_class[:, 0] - rivals.logsumexp(1)


def _shares(of_times: Tensor) -> Tensor:
    return as_distribution(of_times[:, None])[:, 0]
