"""The readout's column against plain torch modules; whole models are in models/test_evidence.py."""

import pytest
import torch
from torch import nn

from pipeline.attribution.attention import Scores
from pipeline.attribution.column import (
    Affine,
    Column,
    ColumnLayer,
    Mlp,
    Norm,
    by_head,
    cls_read,
    cls_total,
    query_read,
)

BATCH, HEADS, TOKENS, HEAD_DIM = 2, 3, 5, 4
WIDTH = HEADS * HEAD_DIM


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=generator)


@pytest.fixture
def scores(draw):
    return Scores(*(draw(BATCH, HEADS, TOKENS, HEAD_DIM) for _ in range(2)), scale=0.5)


def test_a_read_and_what_the_token_gives_itself_are_the_whole_of_its_attention(scores, draw):
    value = draw(BATCH, HEADS, TOKENS, HEAD_DIM)
    read = cls_read(Scores(scores.query, scores.key, 0.5, value=value))
    softmax = (0.5 * scores.query[:, :, :1] @ scores.key.mT).softmax(-1)
    whole = (softmax @ value)[:, :, 0].flatten(1)
    own = (read.own_share[..., None] * value[:, :, 0]).flatten(1)
    torch.testing.assert_close(read.total + own, whole)
    torch.testing.assert_close(read.row, softmax[:, :, 0])
    torch.testing.assert_close(read.value.float(), value, atol=2e-3, rtol=1e-3)
    pooled = query_read(Scores(scores.query, scores.key, 0.5, value=value))
    assert pooled.own_share is None
    torch.testing.assert_close(pooled.total, whole)


def test_parts_that_are_not_asked_for_are_not_kept(scores, draw):
    value = draw(BATCH, HEADS, TOKENS, HEAD_DIM)
    read = cls_total(Scores(scores.query, scores.key, 0.5, value=value))
    assert read.row is None
    assert read.value is None
    with pytest.raises(ValueError, match="without the values"):
        cls_total(scores)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_norm_is_torchs_and_frozen_its_deviation_has_no_derivative(draw, frozen):
    module = nn.LayerNorm(WIDTH, eps=1e-6)
    nn.init.normal_(module.weight)
    nn.init.normal_(module.bias)
    x = draw(4, WIDTH).requires_grad_()
    normed = Norm.of(module)(x, frozen=frozen)
    torch.testing.assert_close(normed, module(x))
    (gradient,) = torch.autograd.grad(normed[:, 0].sum(), x)
    if frozen:
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        expected = module.weight[0] / deviation * (torch.eye(WIDTH)[0] - 1 / WIDTH)
    else:
        (expected,) = torch.autograd.grad(module(x)[:, 0].sum(), x)
    torch.testing.assert_close(gradient, expected)


def test_a_frozen_mlp_is_linear_in_what_goes_in(draw):
    up, down = nn.Linear(WIDTH, 7), nn.Linear(7, WIDTH)
    norm = Norm(torch.ones(WIDTH), None, 1e-6)
    mlp = Mlp(norm, Affine.of(up), nn.functional.gelu, Affine.of(down))
    m = draw(3, WIDTH).requires_grad_()
    frozen = mlp(m, frozen=True)
    torch.testing.assert_close(frozen, mlp(m, frozen=False))
    # The gate held, what is left of it is the part of the input, and those of the biases.
    part = torch.stack(
        [torch.autograd.grad(frozen[:, i].sum(), m, retain_graph=True)[0] for i in range(WIDTH)], 1
    )
    hidden = up(norm(m, frozen=False))
    gate = nn.functional.gelu(hidden) / hidden
    biases = (gate * up.bias) @ down.weight.T + down.bias
    torch.testing.assert_close((part @ m[..., None])[..., 0] + biases, frozen, atol=1e-5, rtol=1e-4)


def test_logits_are_averaged_over_the_columns_of_a_clip(draw):
    classifier = nn.Linear(WIDTH, 6)
    column = Column(draw(WIDTH), (), None, Affine.of(classifier), n_reads=1, n_columns=4)
    stream = draw(BATCH * 4, WIDTH)
    expected = classifier(stream).reshape(BATCH, 4, 6).mean(1)
    torch.testing.assert_close(column.classify(stream), expected)


@pytest.mark.parametrize("keeps_stream", [True, False])
def test_streams_are_those_of_the_layers_written_out(draw, keeps_stream):
    project = nn.Linear(WIDTH, WIDTH)
    layer = ColumnLayer(nn.Identity(), project=Affine.of(project), keeps_stream=keeps_stream)
    column = Column(draw(WIDTH), (layer,), None, Affine.of(nn.Linear(WIDTH, 2)))
    total = draw(BATCH, WIDTH)
    (before, behind), (last, again) = column.streams([None], [total])
    expected = project(total) + (column.start if keeps_stream else 0)
    torch.testing.assert_close(behind, expected)
    torch.testing.assert_close(before, column.start.expand(BATCH, -1))
    assert last is again
    torch.testing.assert_close(last, expected)


def test_heads_are_taken_apart_in_their_order():
    assert by_head(torch.arange(6), 3).tolist() == [[0, 1], [2, 3], [4, 5]]
