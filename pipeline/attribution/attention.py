"""Attention on SDPA that can return single rows of its softmax without forming the whole matrix.

`torch.nn.functional.scaled_dot_product_attention` never forms the attention matrix, so it can't
return it. The rows that an attribution needs (one query among thousands, the short matrices over
time, or the mean over all queries) are computed separately from the same query and key, in float32.

Models that look their attention up in transformers' registry run on `attend`, which is registered
as `ATTENTION`: ``model.set_attn_implementation(ATTENTION)`` switches one model over. TimeSformer
looks nothing up, so `SdpaAttention` replaces its modules. In both cases captures are registered by
module, so that models don't disturb each other.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ATTENTION = "staa"
"""Name of `attend` in transformers' registry of attention functions."""

_SCORES_AT_ONCE = {"cpu": 1_200_000}
"""Scores that are formed at a time where all queries are needed. On a CPU this many stay in the
cache, which made a mean row of 1568 queries 2 to 3 times as fast as forming 128 rows of all clips
at a time."""
_SCORES_AT_ONCE_ELSEWHERE = 8_000_000

_ITEMS_AT_ONCE = 65_535
"""Most batch items in one call of SDPA: CUDA's grids end there, and so do torch's kernels (issues
142228 and 146704 of pytorch/pytorch). Attention over time has an item for each patch."""

Name = TypeVar("Name", bound=Hashable)
Kept = TypeVar("Kept")


class _QkvAttention(Protocol):
    """What `SdpaAttention` takes over from the eager attention that it replaces."""

    qkv: nn.Linear
    num_heads: int
    scale: float


class SdpaAttention(nn.Module):
    """Self-attention with one fused ``qkv`` projection, as in timm's and TimeSformer's ViT blocks.

    A drop-in for ``TimesformerSelfAttention`` in inference. It takes over that module's projection
    (the parameters are shared and keep their names in the state dict), so it belongs to one model.
    The class in transformers isn't touched.
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
            With ``output_attentions``: there is no matrix to return. Use `capture`.
        """
        if output_attentions:
            raise ValueError("SDPA forms no attention matrix: use `capture` for the rows needed")
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
    items_at_once: int = _ITEMS_AT_ONCE,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attend by transformers' SDPA, and read what a `capture` wants from ``module``.

    SDPA can't cap scores, as VideoPrism does in its encoder. If ``softcap`` is given, attention is
    computed plainly, some queries at a time.

    Parameters
    ----------
    query, key, value
        (batch, heads, queries or tokens, head_dim)
    attention_mask
        None: the video models have no padding.
    items_at_once
        Most items of the batch in one call of SDPA.

    Returns
    -------
    (batch, queries, heads, head_dim), and None in place of the attention matrix

    Raises
    ------
    ValueError
        With a mask, or fewer heads for keys than for queries: rows would be read without regard to
        them.
    """
    if _SOFTMAX_HELD.get(module):
        query, key = query.detach(), key.detach()
    if attention_mask is not None or key.shape[1] != query.shape[1]:
        raise ValueError("attention with a mask or with grouped queries can't be captured")
    if (tap := _TAPS.get(module)) is not None:
        tap.kept = tap.read(Scores(query, key, scaling, softcap, value))
    if softcap is not None:
        return Scores(query, key, scaling, softcap).context(value), None
    contexts = [
        sdpa_attention_forward(module, *items, None, scaling=scaling, **kwargs)[0]
        for items in zip(*(torch.split(t, items_at_once) for t in (query, key, value)), strict=True)
    ]
    return contexts[0] if len(contexts) == 1 else torch.cat(contexts), None


AttentionInterface.register(ATTENTION, attend)


@dataclass(frozen=True, eq=False)
class Scores:
    """The inputs of an attention's softmax: softmax(scale * query @ key^T) over the tokens.

    Rows are computed in float32 whatever the model's precision, even under autocast.
    """

    query: Tensor
    """(batch, heads, queries, head_dim)"""
    key: Tensor
    """(batch, heads, tokens, head_dim)"""
    scale: float
    softcap: float | None = None
    """Bound of the scores, softcap * tanh(scores / softcap), before the softmax."""
    value: Tensor | None = None
    """(batch, heads, tokens, head_dim): what the softmax weighs; None if it wasn't kept."""
    at_once: int | None = None
    """Scores that are formed at a time where all queries are needed; by default as many as suit the
    device, and always so in a compiled graph."""

    def rows(self, queries: slice) -> Tensor:
        """Rows for some queries: (batch, heads, rows, tokens) float32; each sums to 1."""
        with torch.autocast(self.query.device.type, enabled=False):
            return self._softmax(self.query[:, :, queries], self.key.float().transpose(-2, -1))

    def weighted_row(self, weights: Tensor) -> Tensor:
        """Weighted sum of the rows of all queries, formed some queries at a time.

        Parameters
        ----------
        weights
            (batch, queries) float32.

        Returns
        -------
        (batch, heads, 1, tokens) float32; sums to the sum of the weights
        """
        if _is_one_node():
            row: Tensor = _weighted_row(self.query, self.key, weights, self.scale, self.softcap)
            return row
        return self._weighted_row(weights)

    def context(self, value: Tensor) -> Tensor:
        """Attend plainly, some queries at a time: (batch, queries, heads, head_dim).

        Parameters
        ----------
        value
            (batch, heads, tokens, head_dim)
        """
        if _is_one_node():
            context: Tensor = _context(self.query, self.key, value, self.scale, self.softcap)
            return context
        return self._context(value)

    def transposed_context(self, values: Tensor) -> Tensor:
        """Weigh by the columns of the softmax, one for each token j: sum_i a[i,j] value[i].

        Parameters
        ----------
        values
            (batch, heads, queries, n) float32.

        Returns
        -------
        (batch, heads, tokens, n) float32
        """
        batch, heads, n_tokens, _ = self.key.shape
        context = values.new_zeros(batch, heads, n_tokens, values.shape[-1])
        with torch.autocast(self.query.device.type, enabled=False):
            for items, queries, softmax in self.pieces():
                context[items] += softmax.transpose(-2, -1) @ values[items, :, queries]
        return context

    def _weighted_row(self, weights: Tensor) -> Tensor:
        batch, heads, _, _ = self.query.shape
        total = torch.zeros(batch, heads, 1, self.key.shape[2], device=self.key.device)
        with torch.autocast(self.query.device.type, enabled=False):
            for items, queries, softmax in self.pieces():
                total[items] += weights[items, None, None, queries] @ softmax
        return total

    def _context(self, value: Tensor) -> Tensor:
        batch, heads, queries, _ = self.query.shape
        context = value.new_empty(batch, queries, heads, value.shape[-1])
        with torch.autocast(self.query.device.type, enabled=False):
            for items, rows, softmax in self.pieces():
                context[items, rows] = (softmax.to(value.dtype) @ value[items]).transpose(1, 2)
        return context

    def pieces(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield the whole softmax in pieces: batch items, queries, and their rows."""
        batch, heads, n_queries, _ = self.query.shape
        device = self.query.device.type
        at_once = self.at_once or _SCORES_AT_ONCE.get(device, _SCORES_AT_ONCE_ELSEWHERE)
        n_rows = max(1, at_once // (heads * self.key.shape[2]))
        n_items, n_rows = max(1, n_rows // n_queries), min(n_rows, n_queries)
        for item in range(0, batch, n_items):
            items = slice(item, item + n_items)
            keys = self.key[items].float().transpose(-2, -1)
            for row in range(0, n_queries, n_rows):
                rows = slice(row, row + n_rows)
                yield items, rows, self._softmax(self.query[items, :, rows], keys)

    def _softmax(self, query: Tensor, transposed_key: Tensor) -> Tensor:
        scores = (query.float() * self.scale) @ transposed_key
        if self.softcap is not None:
            scores = (scores / self.softcap).tanh() * self.softcap
        return scores.softmax(dim=-1)


def _is_one_node() -> bool:
    """Whether a loop over all queries in pieces should be one operation in a graph.

    torch.compile would unroll the loop: hundreds of nodes for each clip and layer of VideoPrism.
    Custom operations have no gradient, so gradients are taken through the pieces.
    """
    return torch.compiler.is_compiling() and not torch.is_grad_enabled()


@torch.library.custom_op("staa::weighted_row", mutates_args=())
def _weighted_row(
    query: Tensor, key: Tensor, weights: Tensor, scale: float, softcap: float | None
) -> Tensor:
    return Scores(query, key, scale, softcap)._weighted_row(weights)


@_weighted_row.register_fake
def _(query: Tensor, key: Tensor, weights: Tensor, scale: float, softcap: float | None) -> Tensor:
    batch, heads, n_tokens, _ = key.shape
    return key.new_empty(batch, heads, 1, n_tokens, dtype=torch.float32)


@torch.library.custom_op("staa::context", mutates_args=())
def _context(
    query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None
) -> Tensor:
    return Scores(query, key, scale, softcap)._context(value)


@_context.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None) -> Tensor:
    batch, heads, n_queries, _ = query.shape
    return value.new_empty(batch, n_queries, heads, value.shape[-1])


def first_row(scores: Scores) -> Tensor:
    """Row of the first query, which is CLS or a pooler's query: (batch, heads, 1, tokens)."""
    return scores.rows(slice(0, 1))


def all_rows(scores: Scores) -> Tensor:
    """Take the whole softmax, for attention among few tokens: (batch, heads, queries, tokens)."""
    return scores.rows(slice(None))


def mean_row(scores: Scores) -> Tensor:
    """Mean of all rows, which is what each token gets on average: (batch, heads, 1, tokens)."""
    batch, _, queries, _ = scores.query.shape
    return scores.weighted_row(torch.full((batch, queries), 1 / queries, device=scores.key.device))


@cache
def heads_averaged(read: Callable[[Scores], Tensor]) -> Callable[[Scores], Tensor]:
    """Average rows over the heads as they are read, so that single heads aren't kept.

    Cached, as torch.compile would compile again for each new function.
    """

    def averaged(scores: Scores) -> Tensor:
        return read(scores).mean(dim=1, keepdim=True)

    return averaged


def all_scores(scores: Scores) -> Scores:
    """Keep query and key themselves, if the rows are chosen only after the forward pass."""
    # Copy views of one fused projection, which would keep its values alive too.
    query, key = scores.query.contiguous(), scores.key.contiguous()
    return replace(scores, query=query, key=key, value=None)


def scores_and_values(scores: Scores) -> Scores:
    """Keep query, key and values."""
    return scores


@dataclass(frozen=True, eq=False)
class Stream:
    """Input and output of a module that is watched."""

    before: Tensor
    behind: Tensor


def watch(module: nn.Module) -> None:
    """Let `capture` read what goes through a module other than attention, as a `Stream`.

    The hook stays for the module's whole life. Call this before the module is compiled, as a graph
    doesn't notice hooks that come later.
    """
    module.register_forward_hook(_tap_stream)


def _tap_stream(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    if (tap := _TAPS.get(module)) is not None:
        tap.kept = tap.read(Stream(inputs[0], output))


def stream_before(stream: Stream) -> Tensor:
    """Keep what goes into a watched module."""
    return stream.before


def stream_behind(stream: Stream) -> Tensor:
    """Keep what comes out of a watched module."""
    return stream.behind


@dataclass
class _Tap(Generic[Kept]):
    read: Callable[[Any], Kept]
    kept: Kept | None = None


_TAPS: WeakKeyDictionary[nn.Module, _Tap[Any]] = WeakKeyDictionary()
"""What open captures want, by module; empty when none is open."""

_SOFTMAX_HELD: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Attention modules whose softmax gets no gradient; empty when none is held."""


@contextmanager
def softmax_held(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While open, gradients pass through these modules' values alone, not their softmax."""
    added = [module for module in modules if module not in _SOFTMAX_HELD]
    _SOFTMAX_HELD.update(dict.fromkeys(added, True))
    try:
        yield
    finally:
        for module in added:
            _SOFTMAX_HELD.pop(module, None)


class Captured(Generic[Name, Kept]):
    """What was read from the last forward pass, by the names given to `capture`."""

    def __init__(self, taps: Mapping[Name, _Tap[Kept]]) -> None:
        self._taps = taps

    def __getitem__(self, name: Name) -> Kept:
        """Return what was read under a name; `LookupError` before a forward pass."""
        kept = self._taps[name].kept
        if kept is None:
            raise LookupError(f"{name!r} has captured nothing: no forward pass ran yet")
        return kept


@contextmanager
def capture(
    wanted: Mapping[Name, tuple[nn.Module, Callable[[Any], Kept]]],
) -> Iterator[Captured[Name, Kept]]:
    """While open, a forward pass keeps what ``wanted`` reads from its attention.

    Parameters
    ----------
    wanted
        Name -> (module, what to read from it). For attention (a `SdpaAttention`, or one in a model
        whose attention implementation is `ATTENTION`) that is a function of its `Scores`:
        `first_row`, `mean_row`, `all_rows`, `all_scores` or another. For a module that is
        `watch`ed, it is a function of its `Stream`.
    """
    taps = {name: _Tap(read) for name, (_, read) in wanted.items()}
    for name, (module, _) in wanted.items():
        if module in _TAPS:
            raise RuntimeError(f"the attention of {name!r} is already being captured")
    try:
        for name, (module, _) in wanted.items():
            _TAPS[module] = taps[name]
        yield Captured(taps)
    finally:
        for module, _ in wanted.values():
            _TAPS.pop(module, None)
