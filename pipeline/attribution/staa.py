"""STAA: from attention rows to where and when a model attends (arXiv 2411.00630).

Every result is a distribution: it is non-negative and sums to 1 over the axes it is defined on. The
joint attribution A[t,p] is the share of the readout token's attention that the token at (t,p) gets;
T[t] = sum_p A[t,p] and S[t,p] = A[t,p] / T[t], so that A = S * T always.

Rows belong to averaged heads or to single heads; leading axes, (clips) or (clips, heads), are kept.
"""

import torch
from torch import Tensor


def divided_attention(cls_rows: Tensor, temporal: Tensor, *, residual: bool = False) -> Tensor:
    """Joint attribution of divided space-time attention with CLS (TimeSformer).

    A block attends over time first, per patch, then over space, per frame, with CLS repeated in
    every frame and averaged after. So what CLS reads in frame t' at patch p comes from all times t
    of that patch, through B_p::

        A[t,p] = (1/T) sum_t' s[t',p] B_p[t',t]

    Parameters
    ----------
    cls_rows
        (..., T, 1 + P) float32: CLS's row in each frame's spatial attention, CLS's own column
        first.
    temporal
        (..., P, T, T) float32: the temporal attention of each patch; rows are queries. If
        ``cls_rows`` keeps single heads, this is averaged over its own, with an axis of 1: the heads
        of the two modules have nothing to do with each other.
    residual
        Use (B + I) / 2 in place of B, to include what the block's skip connection carries (Abnar &
        Zuidema 2020, eq. 1).

    Returns
    -------
    (..., T, P) float32; sums to 1 over (T, P)
    """
    spatial = _shares(cls_rows[..., 1:])
    if residual:
        temporal = (temporal + torch.eye(temporal.shape[-1], device=temporal.device)) / 2
    return torch.einsum("...sp,...pst->...tp", spatial, temporal) / spatial.shape[-2]


def frame_attention(cls_rows: Tensor) -> Tensor:
    """Joint attribution where every frame has its own CLS and all frames count equally.

    This is TimeSformer with space-only attention: no attention goes from one frame to another, and
    the frames' predictions are averaged. If s[t,p] is CLS's row in frame t::

        A[t,p] = s[t,p] / T

    so T[t] = 1/T for every clip: the model can't prefer a moment.

    Parameters
    ----------
    cls_rows
        (..., T, 1 + P) float32: CLS's row in each frame, CLS's own column first.

    Returns
    -------
    (..., T, P) float32; sums to 1 over (T, P)
    """
    return _shares(cls_rows[..., 1:]) / cls_rows.shape[-2]


def cls_attention(cls_row: Tensor) -> Tensor:
    """Joint attribution of joint space-time attention with CLS (ViViT, TimeSformer).

    If a[n] is what CLS gives token n, without its own column::

        A[n] = a[n] / sum_m a[m]

    Parameters
    ----------
    cls_row
        (..., 1 + N) float32: CLS's row, CLS's own column first; N = T * P tokens.

    Returns
    -------
    (..., N) float32; sums to 1 over N
    """
    return _shares(cls_row[..., 1:])


def pooled_attention(row: Tensor) -> Tensor:
    """Joint attribution where the readout isn't a token with its own column.

    Mean pooling over all tokens (VideoMAE) reads every query n' equally, which gives the mean of
    their rows a[n',n]. An attentive pooler (V-JEPA 2, VideoPrism) reads by its own query's row
    a[n]::

        A[n] = (1/N) sum_n' a[n',n]    or    A[n] = a[n]

    Parameters
    ----------
    row
        (..., N) float32: the mean row, or the pooler's; N = T * P tokens.

    Returns
    -------
    (..., N) float32; sums to 1 over N
    """
    return _shares(row)


def spatial_temporal(joint: Tensor) -> tuple[Tensor, Tensor]:
    """Split a joint attribution into its spatial and temporal part, A = S * T.

    Parameters
    ----------
    joint
        (..., T, P), sums to 1 over (T, P).

    Returns
    -------
    spatial
        (..., T, P), sums to 1 over P; uniform in a frame that gets nothing.
    temporal
        (..., T), sums to 1.
    """
    return _shares(joint), joint.sum(dim=-1)


def as_distribution(joint: Tensor) -> Tensor:
    """Divide a non-negative (..., T, P) by its sum over (T, P); uniform if the sum is 0."""
    return _shares(joint.flatten(-2)).reshape(joint.shape)


def _shares(weights: Tensor) -> Tensor:
    """Divide by the sum over the last axis; uniform if the sum is 0, NaN if it is NaN."""
    total = weights.sum(dim=-1, keepdim=True)
    return torch.where(total == 0, 1 / weights.shape[-1], weights / total)
