"""Attention on SDPA that can hand over single rows of its softmax, without the matrix they are in.

`torch.nn.functional.scaled_dot_product_attention` never forms the attention matrix, and so can't
return it. The rows that an attribution needs (one query of thousands, or the short matrices over
time) are computed beside it from the same query and key, in float32.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        self._tap: _Tap | None = None

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
        if self._tap is not None:
            self._tap.rows = attention_rows(query[:, :, self._tap.queries], key, self.scale)
        context = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
        return (context.transpose(1, 2).reshape(batch, tokens, channels),)


@dataclass
class _Tap:
    queries: slice
    rows: Tensor | None = None


def attention_rows(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Rows of softmax(scale * query @ key^T), in float32 whatever the model's precision.

    Parameters
    ----------
    query
        (batch, heads, rows, head_dim): the queries whose rows are wanted.
    key
        (batch, heads, tokens, head_dim)

    Returns
    -------
    (batch, heads, rows, tokens) float32; each row sums to 1
    """
    with torch.autocast(query.device.type, enabled=False):
        scores = (query.float() * scale) @ key.float().transpose(-2, -1)
        return scores.softmax(dim=-1)


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
def capture_rows(
    wanted: Mapping[str, tuple[SdpaAttention, slice]],
) -> Iterator[CapturedRows]:
    """While open, a forward pass keeps the attention rows of the queries that ``wanted`` names.

    Parameters
    ----------
    wanted
        Name -> (attention module, slice of its query tokens).
    """
    taps = {name: _Tap(queries) for name, (_, queries) in wanted.items()}
    for name, (module, _) in wanted.items():
        if module._tap is not None:
            raise RuntimeError(f"the attention of {name!r} is being captured already")
    try:
        for name, (module, _) in wanted.items():
            module._tap = taps[name]
        yield CapturedRows(taps)
    finally:
        for module, _ in wanted.values():
            module._tap = None
