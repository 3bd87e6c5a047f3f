"""Attention on SDPA that can hand over single rows of its softmax, without the matrix they are in.

`torch.nn.functional.scaled_dot_product_attention` never forms the attention matrix, and so can't
return it. The rows that an attribution needs (one query of thousands, the short matrices over time,
or the mean over all queries) are computed beside it from the same query and key, in float32.

Models that look their attention up in transformers' registry run on `attend`, which is registered
as `ATTENTION`: ``model.set_attn_implementation(ATTENTION)`` switches one model over. TimeSformer
looks nothing up; `SdpaAttention` stands in for its modules. Either way, what is to be kept is known
by module, so that models don't disturb each other.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ATTENTION = "staa"
"""Name of `attend` in transformers' registry of attention functions."""

Queries = slice | Literal["mean"]
"""Queries whose rows are kept: a slice of them, or the mean row over all of them."""

_QUERIES_AT_ONCE = 128
"""Where all queries count, rows are formed this many at a time."""


class _QkvAttention(Protocol):
    """What `SdpaAttention` takes over from the eager attention that it stands in for."""

    qkv: nn.Linear
    num_heads: int
    scale: float


class SdpaAttention(nn.Module):
    """Self-attention with one fused ``qkv`` projection, as in timm's and TimeSformer's ViT blocks.

    A drop-in for ``TimesformerSelfAttention`` in inference: it takes over that module's projection
    (the parameters are shared, their names in the state dict stay), and so belongs to one model;
    the class of transformers isn't touched.
    """

    def __init__(self, eager: _QkvAttention) -> None:
        super().__init__()
        self.qkv = eager.qkv
        self.num_heads = eager.num_heads
        self.scale = eager.scale

    def forward(self, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor]:
        """Attend from (batch, tokens, channels) to the same shape.

        Raises
        ------
        ValueError
            With ``output_attentions``: there is no matrix to return. Use `capture_rows`.
        """
        if output_attentions:
            raise ValueError("SDPA forms no attention matrix: use capture_rows for the rows needed")
        batch, tokens, channels = hidden_states.shape
        qkv = self.qkv(hidden_states).reshape(batch, tokens, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        context, _ = attend(self, query, key, value, None, scaling=self.scale, is_causal=False)
        return (context.reshape(batch, tokens, channels),)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    softcap: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attend by transformers' SDPA, and keep the rows that a `capture_rows` wants of ``module``.

    SDPA can't cap scores (VideoPrism caps those of its encoders): where ``softcap`` is given,
    attention is computed plainly, some queries at a time.

    Parameters
    ----------
    query, key, value
        (batch, heads, queries or tokens, head_dim)
    attention_mask
        None: the video models have no padding.

    Returns
    -------
    (batch, queries, heads, head_dim), and None in place of the attention matrix
    """
    tap = _TAPS.get(module)
    if tap is not None:
        if isinstance(tap.queries, slice):
            tap.rows = attention_rows(query[:, :, tap.queries], key, scaling, softcap)
        else:
            tap.rows = mean_row(query, key, scaling, softcap)
    if softcap is not None:
        return _capped_attention(query, key, value, scaling, softcap), None
    context: Tensor
    context, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **kwargs
    )
    return context, None


AttentionInterface.register(ATTENTION, attend)


@dataclass
class _Tap:
    queries: Queries
    rows: Tensor | None = None


_TAPS: WeakKeyDictionary[nn.Module, _Tap] = WeakKeyDictionary()
"""What open captures want, by attention module; empty when none is open."""


def attention_rows(
    query: Tensor, key: Tensor, scale: float, softcap: float | None = None
) -> Tensor:
    """Rows of softmax(scale * query @ key^T), in float32 whatever the model's precision.

    Parameters
    ----------
    query
        (batch, heads, rows, head_dim): the queries whose rows are wanted.
    key
        (batch, heads, tokens, head_dim)
    softcap
        Bound of the scores, softcap * tanh(scores / softcap), before the softmax.

    Returns
    -------
    (batch, heads, rows, tokens) float32; each row sums to 1
    """
    with torch.autocast(query.device.type, enabled=False):
        scores = (query.float() * scale) @ key.float().transpose(-2, -1)
        if softcap is not None:
            scores = (scores / softcap).tanh() * softcap
        return scores.softmax(dim=-1)


def mean_row(query: Tensor, key: Tensor, scale: float, softcap: float | None = None) -> Tensor:
    """Mean of `attention_rows` over all queries: what each token gets of them, on average.

    Returns
    -------
    (batch, heads, 1, tokens) float32; sums to 1
    """
    total = torch.zeros((), device=query.device)
    for queries in torch.split(query, _QUERIES_AT_ONCE, dim=2):
        total = total + attention_rows(queries, key, scale, softcap).sum(dim=2, keepdim=True)
    return total / query.shape[2]


def _capped_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float
) -> Tensor:
    context = [
        attention_rows(queries, key, scale, softcap).to(value.dtype) @ value
        for queries in torch.split(query, _QUERIES_AT_ONCE, dim=2)
    ]
    return torch.cat(context, dim=2).transpose(1, 2).contiguous()


class CapturedRows:
    """The attention rows of the last forward pass, by the names given to `capture_rows`."""

    def __init__(self, taps: Mapping[str, _Tap]) -> None:
        self._taps = taps

    def __getitem__(self, name: str) -> Tensor:
        """Rows (batch, heads, rows, tokens) float32; `LookupError` before a forward pass."""
        rows = self._taps[name].rows
        if rows is None:
            raise LookupError(f"{name!r} has captured nothing: no forward pass ran yet")
        return rows


@contextmanager
def capture_rows(wanted: Mapping[str, tuple[nn.Module, Queries]]) -> Iterator[CapturedRows]:
    """While open, a forward pass keeps the attention rows of the queries that ``wanted`` names.

    Parameters
    ----------
    wanted
        Name -> (attention module, its queries). The module is a `SdpaAttention`, or one of a model
        whose attention implementation is `ATTENTION`.
    """
    taps = {name: _Tap(queries) for name, (_, queries) in wanted.items()}
    for name, (module, _) in wanted.items():
        if module in _TAPS:
            raise RuntimeError(f"the attention of {name!r} is being captured already")
    try:
        for name, (module, _) in wanted.items():
            _TAPS[module] = taps[name]
        yield CapturedRows(taps)
    finally:
        for module, _ in wanted.values():
            _TAPS.pop(module, None)
