"""Contributions against their definition: every c_j formed, in float64, row by row."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.attribution.attention import Scores
from pipeline.attribution.contribution import Contributions


def drawn(generator, *shape):
    return torch.randn(*shape, generator=generator)


def whole_weights(mixing):
    """What each query gets of each token, (batch, queries, tokens), and of its skip, (.., queries).

    Copies of the first query are one row, over all of them together.
    """
    scores, n_copies = mixing.scores, mixing.n_copies
    softmax = scores.rows(slice(None)).double().numpy()
    value = scores.value.double().numpy()
    batch, heads, n_queries, n_tokens = softmax.shape
    width, head_dim = mixing.behind.shape[-1], value.shape[-1]
    project = (
        np.identity(width) if mixing.project is None else mixing.project.detach().double().numpy()
    )
    by_head = project.reshape(width, heads, head_dim)
    x, y = (t.double().numpy() for t in (mixing.before, mixing.behind))
    added = np.zeros((batch, n_queries, n_tokens))
    for b, i, j in np.ndindex(batch, n_queries, n_tokens):
        c = sum(softmax[b, h, i, j] * by_head[:, h] @ value[b, h, j] for h in range(heads))
        added[b, i, j] = max(0, c @ y[b, i])
    skipped = np.maximum(0, (x * y).sum(-1))
    if n_copies > 1:
        added[:, 0] /= n_copies
    total = added.sum(-1) + skipped
    for start in range(0, batch, n_copies) if n_copies > 1 else ():
        copies = slice(start, start + n_copies)
        total[copies, 0] = added[copies, 0].sum() + skipped[start, 0]
    nothing = total == 0
    total[nothing] = 1
    skipped[nothing] = 1
    return added / total[..., None], skipped / total


def mixing_of(generator, *, batch, heads, tokens, n_copies, projected, scale=1.0, at_once=None):
    head_dim, width = 3, 5 if projected else 3 * heads
    query, key, value = (drawn(generator, batch, heads, tokens, head_dim) for _ in range(3))
    before, behind = (drawn(generator, batch, tokens, width) for _ in range(2))
    if n_copies > 1:
        for stream in (before, behind):
            of_clips = stream.reshape(-1, n_copies, tokens, width)
            of_clips[:, :, 0] = of_clips[:, :1, 0]
    project = drawn(generator, width, heads * head_dim) if projected else None
    scores = Scores(query, key, scale, value=value, at_once=at_once)
    return Contributions(scores, before, behind, project, n_copies)


@given(
    n_clips=st.integers(1, 2),
    n_copies=st.integers(1, 3),
    heads=st.integers(1, 3),
    tokens=st.integers(1, 5),
    projected=st.booleans(),
    at_once=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
def test_shares_are_followed_by_the_whole_weights(
    n_clips, n_copies, heads, tokens, projected, at_once, seed
):
    generator = torch.Generator().manual_seed(seed)
    mixing = mixing_of(
        generator,
        batch=n_clips * n_copies,
        heads=heads,
        tokens=tokens,
        n_copies=n_copies,
        projected=projected,
        at_once=at_once,
    )
    added, skipped = whole_weights(mixing)
    shares = torch.rand(n_clips * n_copies, tokens, generator=generator)
    expected = np.zeros(shares.shape)
    for b, i in np.ndindex(*shares.shape):
        if i == 0 and n_copies > 1:
            continue
        expected[b] += shares[b, i].item() * added[b, i]
        expected[b, i] += shares[b, i].item() * skipped[b, i]
    if n_copies > 1:
        for start in range(0, len(shares), n_copies):
            copies = slice(start, start + n_copies)
            share = shares[copies, 0].double().sum().item()
            expected[copies] += share * added[copies, 0]
            expected[copies, 0] += share * skipped[start, 0] / n_copies
    followed = mixing.back(shares)
    np.testing.assert_allclose(followed, expected, atol=1e-5)
    np.testing.assert_allclose(followed.sum(), shares.sum(), rtol=1e-5)


def test_where_nothing_adds_the_skip_has_all():
    mixing = mixing_of(
        torch.Generator().manual_seed(0), batch=2, heads=1, tokens=3, n_copies=1, projected=True
    )
    against = Contributions(mixing.scores, mixing.before, torch.zeros(2, 3, 5), mixing.project)
    shares = torch.rand(2, 3)
    assert torch.equal(against.back(shares), shares)
    in_copies = Contributions(mixing.scores, mixing.before, torch.zeros(2, 3, 5), mixing.project, 2)
    followed = in_copies.back(shares)
    torch.testing.assert_close(followed[:, 0].sum(), shares[:, 0].sum())
    assert torch.equal(followed[:, 1:], shares[:, 1:])


def test_a_poolers_row_leaves_its_skip_out():
    mixing = mixing_of(
        torch.Generator().manual_seed(1), batch=2, heads=2, tokens=4, n_copies=1, projected=True
    )
    added, _ = whole_weights(mixing)
    sums = added[:, 0].sum(-1, keepdims=True)
    expected = np.where(sums == 0, 1 / 4, added[:, 0] / np.where(sums == 0, 1, sums))
    np.testing.assert_allclose(mixing.row(), expected, atol=1e-6)


@pytest.mark.parametrize("missing", ["value", "before"])
def test_what_is_missing_is_said(missing):
    mixing = mixing_of(
        torch.Generator().manual_seed(1), batch=1, heads=1, tokens=2, n_copies=1, projected=False
    )
    scores, before = mixing.scores, mixing.before
    if missing == "value":
        scores = Scores(scores.query, scores.key, scores.scale)
    else:
        before = None
    with pytest.raises(ValueError, match="take the"):
        Contributions(scores, before, mixing.behind, None).back(torch.ones(1, 2))
