"""Contribution: weights by what each token adds to a query's stream, in place of attention.

A variant of Kobayashi et al. (arXiv 2004.10102), a projection in place of the norm. Token j adds
``c_j = sum_h a_h[j] W_h v_h[j]`` to the stream x of a query (W_h is the head's slice of the output
projection), and ``y = x + sum_j c_j + b`` is the stream behind. The weight of j is max(0, c_j . y),
that of the skip connection max(0, x . y), both over their sum; where all are 0, the skip has 1. No
c_j is formed: ``c_j . y = sum_h a_h[j] (v_h[j] . W_h^T y)``.

Like attention, these weights don't depend on a class.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.attribution.attention import Scores
from pipeline.attribution.staa import pooled_attention


@dataclass(frozen=True, eq=False)
class Contributions:
    """What the tokens of one attention add to each other's streams."""

    scores: Scores
    """With values."""
    before: Tensor | None
    """(batch, queries, width): the streams x; None of a pooler's query, whose skip isn't asked."""
    behind: Tensor
    """(batch, queries, width): the streams y."""
    project: Tensor | None
    """(width, heads * head_dim): from what the heads read to what is added; None if it is that."""
    n_copies: int = 1
    """Batch items in which the first token stands, one after the other: what these copies read is
    averaged, and so is one row of weights. TimeSformer's CLS stands in each frame."""

    def back(self, shares: Tensor) -> Tensor:
        """Follow shares of the queries to what made them: sum_i shares[i] weight[i, j].

        Parameters
        ----------
        shares
            (batch, queries) float32; those of a first token's copies sum to its share.

        Returns
        -------
        (batch, tokens) float32; sums to what ``shares`` sums to
        """
        followed = torch.zeros_like(shares)
        if self.n_copies > 1:
            followed += self._back_from_copies(shares[:, 0])
            shares = torch.cat([torch.zeros_like(shares[:, :1]), shares[:, 1:]], dim=1)
        for items, queries, softmax in self.scores.pieces():
            added, skipped = self._weights(items, queries, softmax)
            total = added.sum(-1) + skipped
            per_weight = torch.where(total == 0, 0, shares[items, queries] / total)
            followed[items] += (per_weight[:, None] @ added)[:, 0]
            kept = torch.where(total == 0, shares[items, queries], per_weight * skipped)
            followed[items, queries] += kept
        return followed

    def row(self) -> Tensor:
        """Row of the first query, without its skip: (batch, tokens) float32; sums to 1."""
        first = slice(0, 1)
        everything = slice(0, len(self.behind))
        added = self._added(everything, first, self.scores.rows(first))
        return pooled_attention(added[:, 0])

    def _back_from_copies(self, shares: Tensor) -> Tensor:
        everything, first = slice(0, len(shares)), slice(0, 1)
        added, skipped = self._weights(everything, first, self.scores.rows(first))
        added = added.reshape(-1, self.n_copies, added.shape[-1]) / self.n_copies
        # The stream is the same in each copy, and is skipped once.
        skipped = skipped.reshape(-1, self.n_copies).mean(1)
        share = shares.reshape(-1, self.n_copies).sum(1)
        total = added.sum((1, 2)) + skipped
        per_weight = torch.where(total == 0, 0, share / total)
        followed = per_weight[:, None, None] * added
        kept = torch.where(total == 0, share, per_weight * skipped)
        followed[:, :, 0] += (kept / self.n_copies)[:, None]
        return followed.flatten(0, 1)

    def _weights(self, items: slice, queries: slice, softmax: Tensor) -> tuple[Tensor, Tensor]:
        """Weigh what is added, (items, queries, tokens), and skipped, (items, queries)."""
        if self.before is None:
            raise ValueError("weights of a skip connection take the stream before it")
        before, behind = (t[items, queries].float() for t in (self.before, self.behind))
        skipped = (before * behind).sum(-1).clamp(min=0)
        return self._added(items, queries, softmax), skipped

    def _added(self, items: slice, queries: slice, softmax: Tensor) -> Tensor:
        if self.scores.value is None:
            raise ValueError("contributions take the values that the scores weigh")
        value = self.scores.value[items].float()
        streams = self.behind[items, queries].float()
        if self.project is not None:
            streams = streams @ self.project
        by_head = streams.reshape(*streams.shape[:2], value.shape[1], -1).transpose(1, 2)
        added: Tensor = (softmax * (by_head @ value.transpose(-2, -1))).sum(1)
        return added.clamp(min=0)
