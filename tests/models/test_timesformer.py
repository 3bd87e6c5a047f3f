"""Divided space-time attention end to end: clips to attribution, against transformers' eager model.

The other families, and TimeSformer's other kinds of attention, are in
tests/models/test_families.py.
"""

from copy import deepcopy

import numpy as np
import pytest
import torch
from transformers import TimesformerConfig

from pipeline.attribution.method import Method
from pipeline.clips.sampling import Sampling
from pipeline.models.explain import explain
from pipeline.models.timesformer import Timesformer
from tests.attribution.test_attention import eager_reference, pixels
from tests.attribution.test_staa import naive_divided_attention
from tests.support.checkpoints import make_timesformer


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("n_clips", [1, 3])
def test_every_layer_and_head_is_the_formula_on_the_eager_models_attention(n_clips, residual):
    eager = make_timesformer(num_frames=4, image_size=24, num_hidden_layers=3)
    adapter = Timesformer(deepcopy(eager))
    clips = pixels(eager, n_clips)
    logits, spatial, temporal = eager_reference(eager, clips)
    method = Method(name="staa-paper", layers="all", heads="keep", residual=residual)
    with torch.inference_mode():
        explanation = explain(adapter, clips, method)

    torch.testing.assert_close(explanation.logits, logits, atol=1e-4, rtol=0)
    assert explanation.head_joint.shape == (n_clips, 3, 2, 4, 9)
    for layer in range(3):
        # Frames and patches of a clip lie together in the batch.
        rows = spatial[layer][:, :, 0].double().numpy().reshape(n_clips, 4, 2, 10)
        mixing = temporal[layer].double().numpy().reshape(n_clips, 9, 2, 4, 4)
        for head in range(2):
            # Head h over space has nothing to do with head h over time.
            naive = naive_divided_attention(rows[:, :, head], mixing.mean(axis=2), residual)
            np.testing.assert_allclose(explanation.head_joint[:, layer, head], naive, atol=1e-5)
        naive = naive_divided_attention(rows.mean(axis=2), mixing.mean(axis=2), residual)
        np.testing.assert_allclose(explanation.joint[:, layer], naive, atol=1e-5)
        # Guards: clips and heads differ, so what is mixed up would show.
        assert naive.std() > 0.1 / naive[0].size
    if n_clips > 1:
        assert np.abs(naive[0] - naive[1]).max() > 0.05 / naive[0].size


@torch.no_grad()
def permute_temporal_heads(model):
    """Exchange the heads of the attention over time, in and out, which is the same function."""
    n_heads, channels = model.config.num_attention_heads, model.config.hidden_size
    order = torch.arange(channels).reshape(n_heads, -1).flip(0).flatten()
    for layer in model.timesformer.encoder.layer:
        qkv = layer.temporal_attention.attention.qkv
        for parameter in (qkv.weight, qkv.bias):
            of_heads = parameter.unflatten(0, (3, channels))[:, order]
            parameter.copy_(of_heads.flatten(0, 1))
        output = layer.temporal_attention.output.dense.weight
        output.copy_(output[:, order])


@pytest.mark.parametrize("residual", [False, True])
def test_the_order_of_the_temporal_heads_changes_nothing(residual):
    """They are of another module than the spatial ones, and none of those is paired with one."""
    model = make_timesformer(
        num_frames=4, image_size=24, hidden_size=36, num_attention_heads=3, num_hidden_layers=3
    )
    permuted = deepcopy(model)
    permute_temporal_heads(permuted)
    clips = pixels(model, 2)
    _, _, temporal = eager_reference(model, clips)
    _, _, of_permuted = eager_reference(permuted, clips)
    torch.testing.assert_close(of_permuted[1], temporal[1].flip(1), atol=1e-5, rtol=0)
    # Guard: the heads differ.
    assert (of_permuted[1] - temporal[1]).abs().max() > 0.1

    method = Method(name="staa-paper", layers="all", heads="keep", residual=residual)
    with torch.inference_mode():
        expected, explanation = (explain(Timesformer(a), clips, method) for a in (model, permuted))
    torch.testing.assert_close(explanation.logits, expected.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(explanation.joint, expected.joint, atol=1e-6, rtol=0)
    torch.testing.assert_close(explanation.head_joint, expected.head_joint, atol=1e-6, rtol=0)
    # Guard: those of the heads over space do, too.
    assert (expected.head_joint[:, :, 0] - expected.head_joint[:, :, 1]).abs().max() > 0.01


def test_a_share_is_of_the_patch_that_it_says():
    """In a model that mixes no tokens, what changes with a patch's pixels is that patch's share."""
    adapter = Timesformer(make_timesformer(num_frames=4, image_size=24, num_attention_heads=1))
    with torch.no_grad():
        for name, parameter in adapter.model.named_parameters():
            if ("output.dense" in name and "attention" in name) or "temporal_dense" in name:
                parameter.zero_()
    clips = pixels(adapter.model, 1)
    side = adapter.grid.patch_size

    def cls_row(clip):
        """Without attention over time, A is CLS's row over space."""
        with torch.inference_mode():
            joint = explain(adapter, clip, Method(name="staa-paper", residual=False)).joint[0, 0]
        return joint

    before = cls_row(clips)
    for time, row, column in [(0, 1, 2), (2, 0, 1), (3, 2, 2)]:
        changed = clips.clone()
        top, left = row * side, column * side
        changed[0, time, :, top : top + side, left : left + side] *= -1
        difference = (cls_row(changed) - before).abs().sum(dim=0)
        # Attention over time spreads a share over the patch's times, and never to another patch
        # but by renormalising.
        assert int(difference.argmax()) == row * adapter.grid.width + column


@pytest.mark.parametrize(
    ("config", "sampling"),
    [
        ({"num_labels": 400}, Sampling("strided", 8, stride=32)),
        ({"num_labels": 174}, Sampling("uniform", 8)),
        ({"num_labels": 600, "num_frames": 16}, Sampling("strided", 16, stride=16)),
        ({"num_labels": 174, "num_frames": 96}, Sampling("uniform", 96)),
    ],
)
def test_frames_of_the_published_checkpoints(config, sampling):
    assert Timesformer.published_sampling(TimesformerConfig(**config)) == sampling
