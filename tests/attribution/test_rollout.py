"""Attention rollout against its definition: whole matrices of the untouched model, multiplied."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.attribution.attention import Scores
from pipeline.attribution.method import Method
from pipeline.attribution.rollout import HalfSkip, rollout
from pipeline.models.checkpoint import load_adapter, read_checkpoint
from pipeline.models.explain import explain
from tests.attribution.test_attention import SquareMatrices
from tests.support.checkpoints import make_timesformer, save_timesformer
from tests.support.families import FAMILIES


def skipped(matrix):
    """(A + I) / 2 of a softmax whose heads are averaged."""
    return (matrix + np.identity(matrix.shape[-1])) / 2


def product(matrices):
    """A_L ... A_1 of matrices that come first to last."""
    return reduce(lambda before, matrix: matrix @ before, matrices)


def joint(matrices):
    """Rollout of blocks that all attend among all tokens of a clip: (clips, tokens, tokens)."""
    return product([skipped(matrix) for matrix in matrices])


def without_cls(row):
    return row[:, 1:] / row[:, 1:].sum(axis=1, keepdims=True)


def of_cls(softmax, n_times):
    return without_cls(joint(softmax["blocks"])[:, 0]).reshape(-1, n_times, softmax.patches)


def of_cls_patch_major(softmax, n_times):
    row = without_cls(joint(softmax["blocks"])[:, 0])
    return row.reshape(-1, softmax.patches, n_times).transpose(0, 2, 1)


def of_cls_of_frames(softmax, n_times):
    row = without_cls(joint(softmax["blocks"])[:, 0])
    return row.reshape(-1, n_times, softmax.patches) / n_times


def of_all_tokens(softmax, n_times):
    return joint(softmax["blocks"]).mean(axis=1).reshape(-1, n_times, softmax.patches)


def of_first_token(softmax, n_times):
    return joint(softmax["blocks"])[:, 0].reshape(-1, n_times, softmax.patches)


def of_pooler(softmax, n_times):
    """The query's row, through the pooler's blocks if it has some, and through the encoder's."""
    matrices = [skipped(matrix) for matrix in (*softmax["blocks"], *softmax["pooler blocks"])]
    (query,) = softmax["pooler"]
    return (query @ product(matrices))[:, 0].reshape(-1, n_times, softmax.patches)


def of_factorised(softmax, n_times):
    """Spatial and temporal blocks as matrices over all T * P tokens of a clip, frame by frame."""
    n_patches = softmax.patches
    (query,) = softmax["pooler"]
    n_tokens = n_times * n_patches
    blocks = []
    for matrix in softmax["spatial"]:
        whole = np.zeros((len(query), n_tokens, n_tokens))
        for clip, time in np.ndindex(len(query), n_times):
            frame = slice(time * n_patches, (time + 1) * n_patches)
            whole[clip, frame, frame] = matrix[clip * n_times + time]
        blocks.append(skipped(whole))
    for matrix in softmax["temporal"]:
        whole = np.zeros((len(query), n_tokens, n_tokens))
        for clip, patch in np.ndindex(len(query), n_patches):
            whole[clip, patch::n_patches, patch::n_patches] = matrix[clip * n_patches + patch]
        blocks.append(skipped(whole))
    return (query @ product(blocks))[:, 0].reshape(-1, n_times, n_patches)


def of_divided(softmax, n_times):
    """Divided attention as matrices over CLS and T * P tokens, one entry after the other."""
    n_patches = softmax.patches
    n_clips = len(softmax["spatial"][0]) // n_times
    blocks = []
    for temporal, spatial in zip(softmax["temporal"], softmax["spatial"], strict=True):
        over_time = np.zeros((n_clips, 1 + n_times * n_patches, 1 + n_times * n_patches))
        over_space = np.zeros_like(over_time)
        over_time[:, 0, 0] = 1
        for clip, time, patch in np.ndindex(n_clips, n_times, n_patches):
            token = 1 + time * n_patches + patch
            for other in range(n_times):
                of_patch = temporal[clip * n_patches + patch]
                over_time[clip, token, 1 + other * n_patches + patch] = of_patch[time, other]
            of_frame = spatial[clip * n_times + time]
            frame = 1 + time * n_patches
            over_space[clip, token, 0] = of_frame[1 + patch, 0]
            over_space[clip, token, frame : frame + n_patches] = of_frame[1 + patch, 1:]
            # What the copies of CLS read is averaged over frames.
            over_space[clip, 0, token] = of_frame[0, 1 + patch] / n_times
        for clip, time in np.ndindex(n_clips, n_times):
            over_space[clip, 0, 0] += spatial[clip * n_times + time][0, 0] / n_times
        blocks += [skipped(over_time), skipped(over_space)]
    return without_cls(product(blocks)[:, 0]).reshape(n_clips, n_times, n_patches)


class Softmax(dict):
    """Whole attention matrices of a forward pass by kind, heads averaged, in float64."""

    patches: int


@dataclass(frozen=True)
class Rollout:
    """Where a family attends, and what rollout makes of it."""

    modules: Callable[[nn.Module], dict[str, list[nn.Module]]]
    naive: Callable[[Softmax, int], np.ndarray]


def timesformer_blocks(model):
    return {"blocks": [layer.attention.attention for layer in model.timesformer.encoder.layer]}


ROLLOUTS = {
    "vivit": Rollout(
        lambda model: {"blocks": [layer.attention for layer in model.vivit.layers]}, of_cls
    ),
    "videomae": Rollout(
        lambda model: {
            "blocks": [layer.attention.attention for layer in model.videomae.encoder.layer]
        },
        of_all_tokens,
    ),
    "videomae without mean pooling": Rollout(
        lambda model: {
            "blocks": [layer.attention.attention for layer in model.videomae.encoder.layer]
        },
        of_first_token,
    ),
    "vjepa2": Rollout(
        lambda model: {
            "blocks": [layer.attention for layer in model.vjepa2.encoder.layer],
            "pooler blocks": [layer.self_attn for layer in model.pooler.self_attention_layers],
            "pooler": [model.pooler.cross_attention_layer.cross_attn],
        },
        of_pooler,
    ),
    "timesformer joint": Rollout(timesformer_blocks, of_cls_patch_major),
    "timesformer space": Rollout(timesformer_blocks, of_cls_of_frames),
    "timesformer divided": Rollout(
        lambda model: {
            "spatial": [layer.attention.attention for layer in model.timesformer.encoder.layer],
            "temporal": [
                layer.temporal_attention.attention for layer in model.timesformer.encoder.layer
            ],
        },
        of_divided,
    ),
    "videoprism": Rollout(
        lambda model: {
            "spatial": [layer.attention for layer in model.vision_model.spatial_layers],
            "temporal": [layer.attention for layer in model.vision_model.temporal_layers],
            "pooler": [model.head],
        },
        of_factorised,
    ),
}


@torch.no_grad()
def eager_softmax(modules, run):
    """What transformers' eager attention puts out of its softmax, of each module."""
    seen = {}

    def keep(key):
        def hook(module, args, output):
            # TimeSformer's modules return it only if asked to; their dropout is given it always.
            matrix = output[1] if isinstance(output, tuple) else args[0]
            seen[key] = matrix.double().mean(dim=1).numpy()

        return hook

    handles = [
        getattr(module, "attn_drop", module).register_forward_hook(keep((kind, index)))
        for kind, of_kind in modules.items()
        for index, module in enumerate(of_kind)
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return Softmax(
        {
            kind: [seen[kind, index] for index in range(len(of_kind))]
            for kind, of_kind in modules.items()
        }
    )


def saved_models(name, folder, size):
    """Folder, the untouched eager model of it, and the name of its input."""
    if name == "timesformer divided":
        changes = [{}, {"num_frames": 4, "image_size": 24, "num_hidden_layers": 3}][size]
        save_timesformer(folder, **changes)
        return make_timesformer(**changes), "pixel_values"
    family = FAMILIES[name]
    family.save(folder, **family.sizes[size])
    return family.eager(folder), family.input_name


def clips_for(adapter, n_clips):
    shape = (n_clips, adapter.grid.n_frames, 3, *adapter.grid.input_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ROLLOUTS)
@pytest.mark.parametrize(("size", "n_clips"), [(0, 3), (1, 1)])
def test_rollout_is_the_product_of_the_untouched_models_matrices(name, size, n_clips, tmp_path):
    eager, input_name = saved_models(name, tmp_path, size)
    adapter = load_adapter(read_checkpoint(str(tmp_path)), device="cpu")
    clips = clips_for(adapter, n_clips)
    softmax = eager_softmax(
        ROLLOUTS[name].modules(eager),
        lambda: eager(**{input_name: clips}),
    )
    softmax.patches = adapter.grid.height * adapter.grid.width
    naive = ROLLOUTS[name].naive(softmax, adapter.grid.n_times)
    with torch.inference_mode():
        explanation = explain(adapter, clips, Method(name="rollout"))
        last = explain(adapter, clips, Method(name="staa-paper"))

    assert explanation.joint.dtype is torch.float32
    assert explanation.joint.shape == (n_clips, 1, adapter.grid.n_times, softmax.patches)
    np.testing.assert_allclose(explanation.joint[:, 0], naive, atol=1e-5)
    np.testing.assert_allclose(explanation.joint.sum(dim=(2, 3)), 1, atol=1e-5)
    assert torch.equal(explanation.logits, last.logits)
    # Guards: uneven, of the clip, and another thing than the last layer.
    assert naive.std() > 0.02 / naive[0].size
    assert np.abs(naive - last.joint[:, 0].numpy()).max() > 1e-3 / naive[0].size


def test_every_family_is_rolled_out_here():
    assert set(ROLLOUTS) == {*FAMILIES, "timesformer divided"}


@pytest.mark.parametrize("name", ["vivit", "videomae", "vjepa2"])
def test_rollout_forms_no_matrix_over_all_tokens(name, tmp_path):
    family = FAMILIES[name]
    adapter = load_adapter(
        read_checkpoint(str(family.save(tmp_path, **family.many_tokens))), device="cpu"
    )
    n_tokens = adapter.grid.n_times * adapter.grid.height * adapter.grid.width
    clips = clips_for(adapter, 1)
    with torch.inference_mode(), SquareMatrices(n_tokens + (name == "vivit")) as matrices:
        explain(adapter, clips, Method(name="rollout"))
    assert matrices.count == 0


@given(
    layers=st.integers(0, 3),
    batch=st.integers(1, 3),
    heads=st.integers(1, 2),
    tokens=st.integers(1, 5),
    at_once=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
def test_rolled_out_row_is_the_row_of_the_product(layers, batch, heads, tokens, at_once, seed):
    generator = torch.Generator().manual_seed(seed)

    def drawn():
        return 3 * torch.randn(batch, heads, tokens, 4, generator=generator)

    scores = [Scores(drawn(), drawn(), 0.5, at_once=at_once) for _ in range(layers)]
    readout = torch.rand(batch, tokens, generator=generator)
    matrices = [
        skipped((s.query @ s.key.transpose(2, 3) / 2).softmax(-1).mean(1).double().numpy())
        for s in scores
    ]
    expected = readout.double().numpy()
    if matrices:
        expected = (expected[:, None] @ product(matrices))[:, 0]
    np.testing.assert_allclose(rollout(readout, [HalfSkip(s) for s in scores]), expected, atol=1e-5)
