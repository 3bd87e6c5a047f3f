"""The readout's column: a readout token's own path through a model, rebuilt from what it reads.

In each head of each layer, the readout reads ``s_h = sum_i a_h[i] v_h[i]`` from the other tokens::

    m = r + W_O [s + own] + b;   r' = m + MLP(LN m);   logits = classifier(LN r_L)

So the logits are made of these reads and of what the readout gives itself (own), and of nothing
else. A family declares its column from the model's own modules.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.attribution.attention import Scores, first_row

_KEPT_AS = torch.float16
"""The type in which float32 values are kept until g is known. It changes a map by less than 1e-3
and halves the memory for all layers of a model."""


@dataclass(frozen=True, eq=False)
class Read:
    """What a readout token reads in one layer."""

    total: Tensor
    """(batch, heads * head_dim) float32: the row times the values, summed over the other tokens."""
    own_share: Tensor | None
    """(batch, heads) float32: what the readout, if it is the first of the tokens, gives itself;
    None if it isn't among them."""
    row: Tensor | None
    """(batch, heads, tokens) float32: the readout's row of the softmax."""
    value: Tensor | None
    """(batch, heads, tokens, head_dim): the tokens' values, in half precision. `row` and `value`
    are None in a layer whose parts aren't needed."""


def cls_read(scores: Scores) -> Read:
    """Take what the first token, CLS, reads; it reads itself too."""
    return _read(scores, n_own=1, keep=True)


def cls_total(scores: Scores) -> Read:
    """Do as `cls_read` does, without row and values."""
    return _read(scores, n_own=1, keep=False)


def query_read(scores: Scores) -> Read:
    """Take what a pooler's query reads; it isn't among the tokens."""
    return _read(scores, n_own=0, keep=True)


def query_total(scores: Scores) -> Read:
    """Do as `query_read` does, without row and values."""
    return _read(scores, n_own=0, keep=False)


def _read(scores: Scores, *, n_own: int, keep: bool) -> Read:
    if scores.value is None:
        raise ValueError("the scores were kept without the values that they weigh")
    row, value = first_row(scores)[:, :, 0], scores.value
    with torch.autocast(value.device.type, enabled=False):
        read = row[:, :, None, n_own:] @ value[:, :, n_own:].float()
    total, own_share = read.flatten(1), row[..., 0] if n_own else None
    if not keep:
        return Read(total, own_share, None, None)
    # Copy, as the values may be a view of one projection, all of which would be kept.
    kept = value.to(_KEPT_AS) if value.dtype is torch.float32 else value.contiguous()
    return Read(total, own_share, row, kept)


@dataclass(frozen=True, eq=False)
class Norm:
    """A LayerNorm of the column."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    offset: float = 0.0
    """Added to the weight: 1 in VideoPrism's norms."""

    @staticmethod
    def of(module: nn.LayerNorm) -> "Norm":
        """Take over the parameters of a module."""
        return Norm(module.weight, module.bias, module.eps)

    def __call__(self, x: Tensor, *, frozen: bool) -> Tensor:
        """Normalise (..., width) float32; if frozen, the deviation has no derivative."""
        weight = self.weight.float() + self.offset if self.offset else self.weight.float()
        bias = None if self.bias is None else self.bias.float()
        if not frozen:
            return F.layer_norm(x, x.shape[-1:], weight, bias, self.eps)
        centred = x - x.mean(-1, keepdim=True)
        # Detached before it is squared, so that no graph of what is held is kept.
        deviation = (centred.detach().square().mean(-1, keepdim=True) + self.eps).sqrt()
        scaled = centred / deviation * weight
        return scaled if bias is None else scaled + bias


@dataclass(frozen=True, eq=False)
class Affine:
    """A linear layer of the column, or part of one."""

    weight: Tensor
    """(out, in)"""
    bias: Tensor | None

    @staticmethod
    def of(module: nn.Linear) -> "Affine":
        """Take over the parameters of a module."""
        return Affine(module.weight, module.bias)

    def __call__(self, x: Tensor) -> Tensor:
        """Map (..., in) float32 to (..., out)."""
        return F.linear(x, self.weight.float(), None if self.bias is None else self.bias.float())


@dataclass(frozen=True, eq=False)
class Mlp:
    """The MLP of a block, with its LayerNorm and skip connection: m + down(act(up(LN m)))."""

    norm: Norm
    up: Affine
    activation: Callable[[Tensor], Tensor]
    down: Affine

    def __call__(self, m: Tensor, *, frozen: bool) -> Tensor:
        """Map (..., width) float32 to the same; if frozen, the activation's gate is held too."""
        return m + self.down(self.active(m, frozen=frozen))

    def active(self, m: Tensor, *, frozen: bool) -> Tensor:
        """Map (..., width) float32 to what `down` takes, (..., hidden width)."""
        hidden = self.up(self.norm(m, frozen=frozen))
        active = self.activation(hidden)
        if not frozen:
            return active
        gate = torch.where(hidden == 0, 0, active / hidden).detach()
        return hidden * gate


@dataclass(frozen=True, eq=False)
class ColumnLayer:
    """One layer of the readout's column: where it reads, and what happens to what was read."""

    attention: nn.Module
    """The module whose first query is the readout."""
    project: Affine | None = None
    """The attention's output projection; None if it has none."""
    own_value: tuple[Norm, Affine] | None = None
    """From the readout's stream to its own values, if it is among the tokens that it reads."""
    mlp: Mlp | None = None
    keeps_stream: bool = True
    """Whether a skip connection adds what was read to the stream; else what was read replaces
    it."""

    def read(self, *, with_tokens: bool) -> Callable[[Scores], Read]:
        """Return the function by which `capture` reads the attention."""
        if self.own_value is None:
            return query_read if with_tokens else query_total
        return cls_read if with_tokens else cls_total


@dataclass(frozen=True, eq=False)
class Column:
    """A readout token's path through a model, from its initial value to the logits.

    The mean of final tokens is a column without layers, whose start is that mean.
    """

    start: Tensor
    """(width,), or (columns, width) if it depends on the clip."""
    layers: tuple[ColumnLayer, ...]
    norm: Norm | None
    classifier: Affine
    n_reads: int = 1
    """Number of a layer's reads that are averaged: the frames in which TimeSformer's CLS is
    repeated."""
    n_columns: int = 1
    """Number of a clip's columns, whose logits are averaged: frames that are predicted one by
    one."""

    def streams(
        self, reads: Sequence[Read], totals: Sequence[Tensor], *, frozen: bool = False
    ) -> list[tuple[Tensor, Tensor]]:
        """Compute the readout's stream before and behind the attention of each layer.

        Parameters
        ----------
        reads
            The reads of each layer; their ``total`` isn't used.
        totals
            For each layer, (..., columns, heads * head_dim) float32: what was read, averaged over
            ``n_reads``.

        Returns
        -------
        For each layer x and y = x + W_O [s + own] + b, and last the final stream, twice; each (...,
        columns, width) float32
        """
        stream, streams = self.start.float(), []
        for layer, read, total in zip(self.layers, reads, totals, strict=True):
            if layer.own_value is not None:
                total = total + self._own(layer.own_value, read, stream, frozen=frozen)
            update = total if layer.project is None else layer.project(total)
            behind = stream + update if layer.keeps_stream else update
            streams.append((stream.expand_as(behind), behind))
            stream = behind if layer.mlp is None else layer.mlp(behind, frozen=frozen)
        return [*streams, (stream, stream)]

    def _own(
        self, own_value: tuple[Norm, Affine], read: Read, stream: Tensor, *, frozen: bool
    ) -> Tensor:
        """Recompute what the readout reads from itself, so that derivatives go through it."""
        assert read.own_share is not None
        norm, to_value = own_value
        share = self.averaged(read.own_share)[..., None]
        value = by_head(to_value(norm(stream, frozen=frozen)), share.shape[-2])
        return (share * value).flatten(-2)

    def logits(
        self, reads: Sequence[Read], totals: Sequence[Tensor], *, frozen: bool = False
    ) -> Tensor:
        """Logits (..., clips, classes) float32 from what was read, given as to `streams`."""
        return self.classify(self.streams(reads, totals, frozen=frozen)[-1][1], frozen=frozen)

    def classify(self, stream: Tensor, *, frozen: bool = False) -> Tensor:
        """Logits (..., clips, classes) float32 from the final stream, (..., columns, width)."""
        if self.norm is not None:
            stream = self.norm(stream, frozen=frozen)
        logits = self.classifier(stream)
        n_classes = logits.shape[-1]
        return logits.reshape(*logits.shape[:-2], -1, self.n_columns, n_classes).mean(-2)

    def averaged(self, of_reads: Tensor) -> Tensor:
        """Average (columns * n_reads, ...) over the reads of a column."""
        return of_reads.reshape(-1, self.n_reads, *of_reads.shape[1:]).mean(1)


def by_head(tensor: Tensor, n_heads: int) -> Tensor:
    """Split (..., heads * head_dim) into (..., heads, head_dim)."""
    return tensor.reshape(*tensor.shape[:-1], n_heads, -1)
