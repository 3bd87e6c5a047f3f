"""Evidence: what a readout token reads for a class, from the forward pass that predicts.

In each layer l and head h the readout reads ``s_h = sum_i a_h[i] v_h[i]`` of the other tokens. Its
own column, which those reads enter, ends in the logits::

    m    = r + W_O [s + own] + b;   r' = m + MLP(LN m);   logits = classifier(LN r_L)

With g_h = d <u, logits> / d s_h, taken through that column alone (attention and the other tokens
are held), token i speaks for the direction u by ``c[l,h,i] = a_h[i] <v_h[i], g_h>``. There is no
backward pass through the other tokens, and no second forward pass.

*Frozen* derivatives hold LayerNorm's deviation and the gate of the activation, as in LibraGrad
(Mehri et al., arXiv 2411.16760): the column is then linear in what enters it, and the parts of all
tokens, of the initial token and of the biases sum to <u, logits>. *Plain* ones are autograd's; of
the last layer they are gradient x attention.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.attribution.attention import Scores, first_row

_KEPT_AS = torch.float16
"""How values in float32 are kept until g is known: a map moves by less than 1e-3, and all layers of
a model take half of the memory."""

_TOKENS_AT_ONCE = 128
"""Tokens of a clip that go through an MLP and back at a time."""


@dataclass(frozen=True, eq=False)
class Read:
    """What a readout token reads in one layer."""

    total: Tensor
    """(batch, heads * head_dim) float32: the row times the values, summed over the other tokens."""
    own_share: Tensor | None
    """(batch, heads) float32: what the readout, the first of the tokens, gives itself; None if it
    isn't among them."""
    row: Tensor | None
    """(batch, heads, tokens) float32: its row of the softmax."""
    value: Tensor | None
    """(batch, heads, tokens, head_dim): the tokens' values, in half precision. Both are None in a
    layer whose parts aren't asked for."""


def cls_read(scores: Scores) -> Read:
    """Read of the first token, CLS, which reads itself too."""
    return _read(scores, n_own=1, keep=True)


def cls_total(scores: Scores) -> Read:
    """As `cls_read`, without row and values."""
    return _read(scores, n_own=1, keep=False)


def query_read(scores: Scores) -> Read:
    """Read of a pooler's query, which isn't among the tokens."""
    return _read(scores, n_own=0, keep=True)


def query_total(scores: Scores) -> Read:
    """As `query_read`, without row and values."""
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
    # A copy, as the values may be a view of one projection, which would be kept as a whole.
    kept = value.to(_KEPT_AS) if value.dtype is torch.float32 else value.contiguous()
    return Read(total, own_share, row, kept)


@dataclass(frozen=True, eq=False)
class Norm:
    """A LayerNorm of the column."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    offset: float = 0.0
    """What the weight is counted from: 1 in VideoPrism's."""

    @staticmethod
    def of(module: nn.LayerNorm) -> "Norm":
        """Take over the parameters of a module."""
        return Norm(module.weight, module.bias, module.eps)

    def __call__(self, x: Tensor, *, frozen: bool) -> Tensor:
        """Normalise (..., width) float32; frozen, the deviation has no derivative."""
        weight = self.weight.float() + self.offset if self.offset else self.weight.float()
        bias = None if self.bias is None else self.bias.float()
        if not frozen:
            return F.layer_norm(x, x.shape[-1:], weight, bias, self.eps)
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + self.eps).sqrt().detach()
        scaled = centred / deviation * weight
        return scaled if bias is None else scaled + bias


@dataclass(frozen=True, eq=False)
class Affine:
    """A linear layer of the column, or a part of one."""

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
        """Map (..., width) float32 to the same; frozen, the activation's gate is held too."""
        hidden = self.up(self.norm(m, frozen=frozen))
        active = self.activation(hidden)
        if frozen:
            gate = torch.where(hidden == 0, 0, active / hidden).detach()
            active = hidden * gate
        return m + self.down(active)


@dataclass(frozen=True, eq=False)
class ColumnLayer:
    """One layer of the readout's column: where it reads, and what happens to what was read."""

    attention: nn.Module
    """The module whose first query is the readout."""
    project: Affine | None = None
    """The attention's output projection; None if it has none."""
    own_value: tuple[Norm, Affine] | None = None
    """From the readout's stream to its own values, where it is among the tokens that it reads."""
    mlp: Mlp | None = None
    keeps_stream: bool = True
    """Whether a skip connection adds what was read to the stream; else it takes its place."""

    def read(self, *, with_tokens: bool) -> Callable[[Scores], Read]:
        """Give what `capture` is to read of the attention."""
        if self.own_value is None:
            return query_read if with_tokens else query_total
        return cls_read if with_tokens else cls_total


@dataclass(frozen=True, eq=False)
class Column:
    """A readout token's way through a model, from its initial value to the logits.

    The mean of final tokens is a column without layers, whose start is that mean.
    """

    start: Tensor
    """(width,), or (columns, width) where it depends on the clip."""
    layers: tuple[ColumnLayer, ...]
    norm: Norm | None
    classifier: Affine
    n_reads: int = 1
    """Reads of a layer that are averaged: the frames that TimeSformer's CLS is repeated in."""
    n_columns: int = 1
    """Columns of a clip, whose logits are averaged: frames that are predicted one by one."""

    def streams(
        self, reads: Sequence[Read], totals: Sequence[Tensor], *, frozen: bool = False
    ) -> list[tuple[Tensor, Tensor]]:
        """Stream of the readout before and behind the attention of each layer.

        Parameters
        ----------
        reads
            Of each layer; their ``total`` isn't looked at.
        totals
            (..., columns, heads * head_dim) float32, of each layer: what was read, averaged over
            ``n_reads``.

        Returns
        -------
        Of each layer x and y = x + W_O [s + own] + b, and at the end the final stream, twice; each
        (..., columns, width) float32
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
        """Compute again what the readout reads of itself, so that derivatives go through it."""
        assert read.own_share is not None
        norm, to_value = own_value
        share = self.averaged(read.own_share)[..., None]
        value = _by_head(to_value(norm(stream, frozen=frozen)), share.shape[-2])
        return (share * value).flatten(-2)

    def logits(
        self, reads: Sequence[Read], totals: Sequence[Tensor], *, frozen: bool = False
    ) -> Tensor:
        """Logits (..., clips, classes) float32 of what was read, as `streams` takes it."""
        return self.classify(self.streams(reads, totals, frozen=frozen)[-1][1], frozen=frozen)

    def classify(self, stream: Tensor, *, frozen: bool = False) -> Tensor:
        """Logits (..., clips, classes) float32 of the final stream, (..., columns, width)."""
        if self.norm is not None:
            stream = self.norm(stream, frozen=frozen)
        logits = self.classifier(stream)
        n_classes = logits.shape[-1]
        return logits.reshape(*logits.shape[:-2], -1, self.n_columns, n_classes).mean(-2)

    def averaged(self, of_reads: Tensor) -> Tensor:
        """Average (columns * n_reads, ...) over the reads of a column."""
        return of_reads.reshape(-1, self.n_reads, *of_reads.shape[1:]).mean(1)


def read_gradients(
    column: Column, reads: Sequence[Read], directions: Tensor, *, frozen: bool
) -> list[Tensor]:
    """Derive <u, logits> by what each layer reads, through the column alone.

    Parameters
    ----------
    directions
        (K, clips, classes) float32: K directions u of each clip.

    Returns
    -------
    Of each layer (K, columns, heads * head_dim) float32
    """
    with _differentiable(directions):
        # Tensors of inference mode can't be kept for a backward pass.
        column = replace(column, start=column.start.clone())
        totals = [
            column.averaged(read.total).expand(len(directions), -1, -1).clone().requires_grad_()
            for read in reads
        ]
        logits = column.logits(reads, totals, frozen=frozen)
        return list(torch.autograd.grad((logits * directions.clone()).sum(), totals))


def start_gradient(column: Column, directions: Tensor, *, frozen: bool) -> Tensor:
    """Derive <u, logits> by the start of a column without layers: (K, clips, width) float32.

    Parameters
    ----------
    directions
        (K, clips, classes) float32.
    """
    with _differentiable(directions):
        start = column.start.float().expand(len(directions), -1, -1).clone().requires_grad_()
        logits = column.classify(start, frozen=frozen)
        (gradient,) = torch.autograd.grad((logits * directions.clone()).sum(), start)
        return gradient


@contextmanager
def _differentiable(tensor: Tensor) -> Iterator[None]:
    """Take derivatives in float32 also within inference mode and autocast."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(tensor.device.type, enabled=False),
    ):
        yield


def read_parts(read: Read, gradient: Tensor, n_reads: int = 1) -> Tensor:
    """Find what each token that was read in a layer speaks for each direction.

    Parameters
    ----------
    gradient
        (K, columns, heads * head_dim) float32, of `read_gradients`.

    Returns
    -------
    (K, batch, heads, tokens) float32: ``a_h[i] <v_h[i], g_h> / n_reads``
    """
    if read.row is None or read.value is None:
        raise ValueError("the layer was read without its tokens")
    n_heads = read.row.shape[1]
    by_head = _by_head(gradient, n_heads).permute(1, 2, 3, 0) / n_reads
    by_head = by_head.repeat_interleave(n_reads, dim=0)
    parts = read.row[..., None] * (read.value.float() @ by_head)
    return parts.permute(3, 0, 1, 2)


def token_parts(tokens: Tensor, gradient: Tensor) -> Tensor:
    """Find what each final token speaks for each direction, where their mean is classified.

    Parameters
    ----------
    tokens
        (clips, tokens, width)
    gradient
        (K, clips, width) float32, of `start_gradient`.

    Returns
    -------
    (K, clips, 1, tokens) float32, of one head: ``<x_i, g> / n_tokens``
    """
    parts = tokens.float() @ gradient.permute(1, 2, 0) / tokens.shape[1]
    return parts.permute(2, 0, 1)[:, :, None]


def token_parts_stepped_back(
    scores: Scores,
    before: Tensor,
    behind: Tensor,
    *,
    block: ColumnLayer,
    gradient: Tensor,
    frozen: bool,
) -> Tensor:
    """Follow the final tokens, whose mean is classified, one step back through the last block.

    A final token is ``m_i + MLP(LN m_i)`` with ``m_i = z_i + W_O sum_j a_ij v_j + b``. With g_i =
    d <u, logits> / d m_i, token j speaks by what all tokens read of it, in each head, and by what
    its skip connection carries on::

        c[h,j] = <v_h[j], sum_i a_h[i,j] W_h^T g_i>;   c[j] = <z_j, g_j>

    Parameters
    ----------
    scores
        Of the last block's attention, with values.
    before, behind
        (clips, tokens, width): z and m.
    block
        The last block: its W_O and MLP.
    gradient
        (K, clips, width) float32, of `start_gradient`.

    Returns
    -------
    (K, clips, heads + 1, tokens) float32; the skip connection counts as the last head
    """
    if scores.value is None or block.project is None or block.mlp is None:
        raise ValueError("a step back takes the values, and a block with a projection and an MLP")
    n_heads, value = scores.query.shape[1], scores.value.float()
    of_token = [
        # The MLP takes tokens one by one: some at a time, as its hidden ones are many.
        torch.cat(
            [
                _through_mlp(block.mlp, some, of_direction, frozen=frozen)
                for some in torch.split(behind, _TOKENS_AT_ONCE, dim=1)
            ],
            dim=1,
        )
        for of_direction in gradient / before.shape[1]
    ]
    of_head = [
        _by_head(g @ block.project.weight.float(), n_heads).transpose(1, 2) for g in of_token
    ]
    reached = scores.transposed_context(torch.cat(of_head, dim=-1)).chunk(len(gradient), dim=-1)
    skipped = [(before.float() * g).sum(-1)[:, None] for g in of_token]
    return torch.stack(
        [
            torch.cat([(value * r).sum(-1), skip], dim=1)
            for r, skip in zip(reached, skipped, strict=True)
        ]
    )


def _through_mlp(mlp: Mlp, m: Tensor, gradient: Tensor, *, frozen: bool) -> Tensor:
    """Bring a derivative by each final token, (clips, width), to that by m, (clips, n, width)."""
    with _differentiable(m):
        m = m.float().clone().requires_grad_()
        final = mlp(m, frozen=frozen)
        (by_m,) = torch.autograd.grad(final, m, gradient[:, None].expand_as(final).clone())
        return by_m


def class_directions(logits: Tensor, classes: Tensor) -> Tensor:
    """Directions of a class: against the mean of all, and against its rivals.

    The first, e_class - 1/C, doesn't depend on the prediction; its positive parts say where
    evidence is. The second, e_class - softmax(logits of the others), weighs the others by how near
    they are, and tells this class from them.

    Parameters
    ----------
    logits
        (clips, classes)
    classes
        (clips,) int64

    Returns
    -------
    (2, clips, classes) float32
    """
    logits = logits.float()
    of_class = F.one_hot(classes, logits.shape[-1]).float()
    if logits.shape[-1] == 1:
        return of_class.expand(2, -1, -1)
    rivals = logits.masked_fill(of_class.bool(), -torch.inf).softmax(-1)
    return torch.stack([of_class - 1 / logits.shape[-1], of_class - rivals])


def top_directions(logits: Tensor) -> Tensor:
    """Directions of the two best classes, each against the mean of all: (2, clips, classes)."""
    best = logits.topk(2, dim=-1).indices
    of_classes = F.one_hot(best.T, logits.shape[-1]).float()
    return of_classes - 1 / logits.shape[-1]


def _by_head(tensor: Tensor, n_heads: int) -> Tensor:
    """Split (..., heads * head_dim) to (..., heads, head_dim)."""
    return tensor.reshape(*tensor.shape[:-1], n_heads, -1)
