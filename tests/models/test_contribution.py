"""Contributions of every family: they add up to the streams, and maps are made of their weights."""

import numpy as np
import pytest
import torch

from pipeline.attribution.method import Method
from pipeline.models.checkpoint import load_adapter, read_checkpoint
from pipeline.models.explain import explain
from tests.attribution.test_contribution import whole_weights
from tests.attribution.test_rollout import ROLLOUTS, Softmax, clips_for, saved_models


class Recorded:
    """An adapter that keeps the contributions it is given to roll out, in order."""

    def __init__(self, adapter):
        self._adapter = adapter
        self.made = []

    def __getattr__(self, name):
        return getattr(self._adapter, name)

    def rollout(self, layers):
        self.made += layers.values()
        return self._adapter.rollout(layers)


def adapter_of(name, folder, size=1):
    saved_models(name, folder, size)
    return Recorded(load_adapter(read_checkpoint(str(folder)), device="cpu"))


def explanation_of(adapter, clips, **method):
    with torch.inference_mode():
        return explain(adapter, clips, Method(**{"name": "staa-paper", **method}))


@pytest.mark.parametrize("name", ROLLOUTS)
def test_what_is_added_makes_the_stream_behind(name, tmp_path):
    """y = x + sum_j c_j + b, with each c_j formed: streams, values and projections are the right
    ones, in the right order of tokens."""
    adapter = adapter_of(name, tmp_path)
    explanation_of(adapter, clips_for(adapter, 2), name="rollout-contribution")
    blocks = adapter.blocks()
    assert len(adapter.made) == len(blocks)
    for block, mixing in zip(blocks.values(), adapter.made, strict=True):
        context = mixing.scores.rows(slice(None)) @ mixing.scores.value
        added = context.transpose(1, 2).flatten(2)
        for linear in block.project:
            added = linear(added)
        if mixing.n_copies > 1:
            of_clips = added.reshape(-1, mixing.n_copies, *added.shape[1:])
            of_clips[:, :, 0] = of_clips[:, :, 0].mean(1, keepdim=True)
        before = 0 if mixing.before is None else mixing.before
        if name == "vjepa2" and mixing.before is None:
            before = adapter.model.pooler.query_tokens
        torch.testing.assert_close(before + added, mixing.behind, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ROLLOUTS)
@pytest.mark.parametrize("method", ["contribution", "rollout-contribution"])
def test_where_no_token_adds_to_the_stream_all_are_alike(name, method, tmp_path):
    adapter = adapter_of(name, tmp_path)
    for block in adapter.blocks().values():
        projections = block.project or (block.attention.v_proj,)
        for parameter in (p for linear in projections for p in linear.parameters()):
            torch.nn.init.zeros_(parameter)
    joint = explanation_of(adapter, clips_for(adapter, 2), name=method).joint
    # Mean pooling and a first token that is a patch have their own skips to fall back on.
    assert torch.isfinite(joint).all()
    torch.testing.assert_close(joint.sum((2, 3)), torch.ones(joint.shape[:2]))
    if not name.startswith("videomae"):
        torch.testing.assert_close(joint, torch.full_like(joint, 1 / joint[0, 0].numel()))


def as_softmax(name, mixings, names, n_patches):
    """Matrices X by kind, for which test_rollout's (X + I) / 2 is the matrix of weights."""
    softmax = Softmax()
    softmax.patches = n_patches
    for block, mixing in zip(names, mixings, strict=True):
        if block == "pooler":
            softmax["pooler"] = [mixing.row()[:, None].double().numpy()]
            continue
        added, skipped = whole_weights(mixing)
        identity = np.identity(added.shape[-1])
        matrix = 2 * added - identity
        for i in range(added.shape[1]):
            matrix[:, i, i] += 2 * skipped[:, i]
        if mixing.n_copies > 1:
            # There CLS's rows of the frames are averaged.
            n = mixing.n_copies
            own = added[:, 0, 0].reshape(-1, n).sum(1) + skipped[::n, 0]
            matrix[:, 0] = 2 * n * added[:, 0]
            matrix[:, 0, 0] = np.repeat(2 * own - 1, n)
        softmax.setdefault(kind_of(name, block, names), []).append(matrix)
    for kind in ("blocks", "pooler blocks"):
        softmax.setdefault(kind, [])
    return softmax


def kind_of(name, block, names):
    if block.startswith("temporal") or (block.startswith("spatial") and "temporal 0" in names):
        return block.split()[0]
    return "blocks"


@pytest.mark.parametrize("name", ROLLOUTS)
@pytest.mark.parametrize("size", [0, 1])
def test_rollout_by_contribution_is_the_product_of_the_weights(name, size, tmp_path):
    adapter = adapter_of(name, tmp_path, size)
    clips = clips_for(adapter, 2)
    explanation = explanation_of(adapter, clips, name="rollout-contribution")
    n_patches = adapter.grid.height * adapter.grid.width
    softmax = as_softmax(name, adapter.made, tuple(adapter.blocks()), n_patches)
    naive = ROLLOUTS[name].naive(softmax, adapter.grid.n_times)
    np.testing.assert_allclose(explanation.joint[:, 0], naive, atol=1e-5)
    np.testing.assert_allclose(explanation.attribution.sum((1, 2)), 1, atol=1e-5)
    by_attention = explanation_of(adapter, clips, name="rollout").joint[:, 0]
    assert (explanation.joint[:, 0] - by_attention).abs().max() > 1e-3 / naive[0].size


@pytest.mark.parametrize("name", [name for name in ROLLOUTS if "vjepa2" not in name])
def test_a_layers_contribution_is_rollout_through_it_alone(name, tmp_path):
    adapter = adapter_of(name, tmp_path)
    clips = clips_for(adapter, 2)
    explanation = explanation_of(adapter, clips, name="contribution", layers="all")
    n_layers = adapter.n_layers(adapter.model.config)
    assert explanation.joint.shape[1] == n_layers
    n_patches = adapter.grid.height * adapter.grid.width
    start = 0
    for layer in range(n_layers):
        names = adapter.blocks_of(layer)
        mixings = adapter.made[start : start + len(names)]
        start += len(names)
        joint = explanation.joint[:, layer]
        if names[-1] == "pooler":
            expected = mixings[0].row().reshape(2, -1, n_patches)
        else:
            softmax = as_softmax(name, mixings, renumbered(names), n_patches)
            expected = ROLLOUTS[name].naive(softmax, adapter.grid.n_times)
        np.testing.assert_allclose(joint, expected, atol=1e-5)
    assert start == len(adapter.made)


def renumbered(names):
    return tuple(f"{name.split()[0]} 0" if " " in name else name for name in names)
