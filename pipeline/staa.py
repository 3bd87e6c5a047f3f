"""STAA: from attention rows to where and when a model attends (arXiv 2411.00630).

Every result is a distribution: non-negative, and it sums to 1 over the axes it is defined on. The
joint attribution A[t,p] is the share of the readout token's attention that the token at (t,p) gets;
T[t] = sum_p A[t,p] and S[t,p] = A[t,p] / T[t], so that A = S * T always.
"""

import torch
from torch import Tensor


def divided_attention(cls_rows: Tensor, temporal: Tensor, *, residual: bool = False) -> Tensor:
    """Joint attribution of divided space-time attention with CLS (TimeSformer).

    A block attends over time first, per patch, then over space, per frame, with CLS repeated in
    every frame and averaged after. What CLS reads of frame t' at patch p therefore comes from that
    patch's other times through B_p::

        A[t,p] = (1/T) sum_t' s[t',p] B_p[t',t]

    Parameters
    ----------
    cls_rows
        (clips, T, heads, 1 + P) float32: CLS's row of the spatial attention in each frame, CLS's
        own column first.
    temporal
        (clips, P, heads, T, T) float32: the temporal attention of each patch, rows are queries.
    residual
        Use (B + I) / 2 in place of B, the share that the block's skip connection carries
        (Abnar & Zuidema 2020, eq. 1).

    Returns
    -------
    (clips, T, P) float32; sums to 1 over (T, P)
    """
    spatial = _shares(cls_rows.mean(dim=2)[..., 1:])
    mixing = temporal.mean(dim=2)
    if residual:
        mixing = (mixing + torch.eye(mixing.shape[-1], device=mixing.device)) / 2
    return torch.einsum("nsp,npst->ntp", spatial, mixing) / spatial.shape[1]


def spatial_temporal(joint: Tensor) -> tuple[Tensor, Tensor]:
    """Split a joint attribution into its spatial and temporal part, A = S * T.

    Parameters
    ----------
    joint
        (clips, T, P), sums to 1 over (T, P).

    Returns
    -------
    spatial
        (clips, T, P), sums to 1 over P; uniform in a frame that gets nothing at all.
    temporal
        (clips, T), sums to 1.
    """
    return _shares(joint), joint.sum(dim=-1)


def _shares(weights: Tensor) -> Tensor:
    """Divide by the sum over the last axis; uniform where that is 0, NaN where it is NaN."""
    total = weights.sum(dim=-1, keepdim=True)
    return torch.where(total == 0, 1 / weights.shape[-1], weights / total)
