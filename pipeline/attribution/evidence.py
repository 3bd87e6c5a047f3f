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

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.attribution.attention import Scores
from pipeline.attribution.column import Column, ColumnLayer, Mlp, Read, by_head

_TOKENS_AT_ONCE = 128
"""Tokens of a clip that go through an MLP and back at a time."""


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
    For each layer (K, columns, heads * head_dim) float32
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
    derivative = by_head(gradient, n_heads).permute(1, 2, 3, 0) / n_reads
    derivative = derivative.repeat_interleave(n_reads, dim=0)
    parts = read.row[..., None] * (read.value.float() @ derivative)
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
    tokens_at_once: int = _TOKENS_AT_ONCE,
) -> Tensor:
    """Follow the final tokens, whose mean is classified, one step back through the last block.

    A final token is ``m_i + MLP(LN m_i)`` with ``m_i = z_i + W_O sum_j a_ij v_j + b``. With g_i =
    d <u, logits> / d m_i, token j speaks by what all tokens read of it, in each head, and by what
    its skip connection carries on::

        c[h,j] = <v_h[j], sum_i a_h[i,j] W_h^T g_i>;   c[j] = <z_j, g_j>

    Parameters
    ----------
    scores
        Rows of the last block's attention, with values.
    before, behind
        (clips, tokens, width): z and m.
    block
        The last block: its W_O and MLP.
    gradient
        (K, clips, width) float32, of `start_gradient`.
    tokens_at_once
        Tokens of a clip that go through the MLP and back at a time.

    Returns
    -------
    (K, clips, heads + 1, tokens) float32; the skip connection counts as the last head
    """
    if scores.value is None or block.project is None or block.mlp is None:
        raise ValueError("a step back takes the values, and a block with a projection and an MLP")
    n_heads, value = scores.query.shape[1], scores.value.float()
    # The MLP takes tokens one by one: some at a time, as its hidden ones are many.
    some_at_a_time = torch.split(behind, tokens_at_once, dim=1)
    of_token = _through_mlp(block.mlp, some_at_a_time, gradient / before.shape[1], frozen=frozen)
    of_head = [by_head(g @ block.project.weight.float(), n_heads).transpose(1, 2) for g in of_token]
    reached = scores.transposed_context(torch.cat(of_head, dim=-1)).chunk(len(gradient), dim=-1)
    skipped = [(before.float() * g).sum(-1)[:, None] for g in of_token]
    return torch.stack(
        [
            torch.cat([(value * r).sum(-1), skip], dim=1)
            for r, skip in zip(reached, skipped, strict=True)
        ]
    )


def _through_mlp(
    mlp: Mlp, parts: Sequence[Tensor], gradient: Tensor, *, frozen: bool
) -> list[Tensor]:
    """Bring derivatives by the final tokens to those by m, which comes in some tokens at a time.

    A clip's final tokens all have the same derivative, (K, clips, width), so that what goes back
    through the MLP's second layer is computed once, and not for each of them.

    Returns
    -------
    For each of the K directions (clips, tokens, width) float32
    """
    by_active: dict[int, list[tuple[Tensor, Tensor]]] = {}
    found = []
    with _differentiable(gradient):
        for part in parts:
            m = part.float().clone().requires_grad_()
            active = mlp.active(m, frozen=frozen)
            # Behind the other: its derivative is then the first of those that are summed.
            skip = m.view_as(m)
            if m.shape[1] not in by_active:
                given = [g[:, None].expand_as(m).clone() for g in gradient]
                by_active[m.shape[1]] = [(g, g @ mlp.down.weight.float()) for g in given]
            found.append(
                [
                    torch.autograd.grad((skip, active), m, of_direction, retain_graph=True)[0]
                    for of_direction in by_active[m.shape[1]]
                ]
            )
        return [torch.cat(of_direction, dim=1) for of_direction in zip(*found, strict=True)]


def best_classes(logits: Tensor, n: int) -> Tensor:
    """Classes of the highest logits, best first: (clips, classes) to (clips, n) int64.

    Equal logits are common in half precision: there the lower class number comes first, where
    torch's ``topk`` and ``argmax`` may each take another.
    """
    return logits.sort(dim=-1, descending=True, stable=True).indices[..., :n]


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
    best = best_classes(logits, 2)
    of_classes = F.one_hot(best.T, logits.shape[-1]).float()
    return of_classes - 1 / logits.shape[-1]
