"""Attention rollout: follow the readout back through every layer (Abnar & Zuidema 2020).

A_l is the attention of layer l, averaged over heads, and the skip connection carries half of a
token on. So a layer mixes its tokens by (A_l + I) / 2 (eq. 1), and the readout r reads the input by

    r (A_L + I)/2 ... (A_1 + I)/2

The row is multiplied from the left, beginning with the last layer, so no product of two matrices is
formed, and only a few rows of each softmax at a time. `pipeline.attribution.contribution` has
layers that mix tokens by other weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline.attribution.attention import Scores, first_row


class Mixing(Protocol):
    """How one attention mixes the tokens of a layer."""

    @property
    def scores(self) -> Scores:
        """The inputs of its softmax."""

    def back(self, shares: Tensor) -> Tensor:
        """Follow shares (batch, queries) back to their sources, (batch, tokens); the sum stays."""

    def row(self) -> Tensor:
        """Return what the first query reads from each token, without its skip: (batch, tokens)."""


@dataclass(frozen=True, eq=False)
class HalfSkip:
    """Attention averaged over its heads, with half of each token carried on: (A + I) / 2."""

    scores: Scores

    def back(self, shares: Tensor) -> Tensor:
        """Multiply from the left: (batch, queries) float32 to (batch, tokens)."""
        return (shares + self.scores.weighted_row(shares).mean(dim=1)[:, 0]) / 2

    def row(self) -> Tensor:
        """Row of the first query: (batch, tokens) float32; sums to 1."""
        return first_row(self.scores).mean(dim=1)[:, 0]


def rollout(readout: Tensor, layers: Sequence[Mixing]) -> Tensor:
    """Follow a readout back through layers of self-attention.

    Parameters
    ----------
    readout
        (batch, tokens) float32: the share of each token after the last layer.
    layers
        First to last, all with the same batch and tokens.

    Returns
    -------
    (batch, tokens) float32: the shares before the first layer; sums to what ``readout`` sums to
    """
    for layer in reversed(layers):
        readout = layer.back(readout)
    return readout


def all_on_first(layer: Mixing) -> Tensor:
    """Readout of the first token alone, CLS: (batch, tokens) float32."""
    batch, _, n_tokens, _ = layer.scores.query.shape
    readout = torch.zeros(batch, n_tokens, device=layer.scores.query.device)
    readout[:, 0] = 1
    return readout


def divided_rollout(
    cls: Tensor, patches: Tensor, layers: Sequence[tuple[Mixing, Mixing]]
) -> tuple[Tensor, Tensor]:
    """Follow a readout back through divided space-time attention with CLS (TimeSformer).

    A block attends over time, per patch and without CLS, then over space, per frame. CLS is
    repeated in every frame, and what it reads is averaged over frames. Both attentions have a skip
    connection, so a block is (S + I)/2 (B + I)/2.

    Parameters
    ----------
    cls
        (clips,) float32: share of CLS after the last layer.
    patches
        (clips, T, P) float32: shares of the patches.
    layers
        For each block, first to last: attention over time, with batch items (clips * P) and T
        tokens, and attention over space, with batch items (clips * T) and 1 + P tokens.

    Returns
    -------
    The same two before the first block
    """
    n_clips, n_times, n_patches = patches.shape
    for temporal, spatial in reversed(layers):
        of_frames = (cls / n_times)[:, None, None].expand(-1, n_times, 1)
        tokens = torch.cat([of_frames, patches], dim=2)
        tokens = rollout(tokens.flatten(0, 1), [spatial]).reshape(n_clips, n_times, -1)
        cls, patches = tokens[..., 0].sum(dim=1), tokens[..., 1:]
        over_time = patches.transpose(1, 2).flatten(0, 1)
        over_time = rollout(over_time, [temporal]).reshape(n_clips, n_patches, n_times)
        patches = over_time.transpose(1, 2)
    return cls, patches
