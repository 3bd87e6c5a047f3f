"""Evidence of every family against autograd on transformers' own eager model.

The reference holds what evidence holds: each softmax is a leaf, and the tokens other than the
readout are detached where a block takes them in. Frozen, it replaces LayerNorms and activations by
ones written out here.
"""

from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn
from transformers.activations import ACT2CLS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pipeline.attribution.attention import capture, scores_and_values, stream_before
from pipeline.attribution.evidence import (
    class_directions,
    read_gradients,
    read_parts,
    token_parts_stepped_back,
)
from pipeline.attribution.method import Method
from pipeline.models.checkpoint import load_adapter, read_checkpoint
from pipeline.models.explain import explain
from tests.support.checkpoints import CLASS_NAMES, make_timesformer, save_timesformer
from tests.support.families import FAMILIES

NAMES = [*FAMILIES, "timesformer divided"]
BY_READS = [name for name in NAMES if name != "videomae"]
EACH = pytest.mark.parametrize("name", NAMES)
EACH_SIZE = pytest.mark.parametrize("size", [0, 1])
EACH_DERIVATIVE = pytest.mark.parametrize("derivative", ["frozen", "plain"])
DIVIDED_SIZES = ({}, {"num_frames": 4, "image_size": 24, "num_hidden_layers": 3})


@dataclass(frozen=True)
class Pair:
    """An adapter, and the untouched eager model of the same weights."""

    adapter: object
    eager: nn.Module
    input_name: str

    def clips(self, n_clips, seed=1):
        grid = self.adapter.grid
        shape = (n_clips, grid.n_frames, 3, *grid.input_size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pair(name, folder, size=1, **changes):
    if name == "timesformer divided":
        changes = {**DIVIDED_SIZES[size], **changes}
        save_timesformer(folder, **changes)
        eager, input_name = make_timesformer(**changes), "pixel_values"
    else:
        family = FAMILIES[name]
        family.save(folder, **{**family.sizes[size], **changes})
        eager, input_name = family.eager(folder), family.input_name
    return Pair(load_adapter(read_checkpoint(str(folder)), device="cpu"), eager, input_name)


def explanation_of(adapter, clips, classes=None, **method):
    given = None if classes is None else torch.tensor(classes)
    with torch.inference_mode():
        return explain(adapter, clips, Method(name="evidence", **method), given)


def in_double(adapter):
    """Give a model whose values are kept as they are; those of a float32 model are kept in half
    precision, which is tested by itself."""
    copied = deepcopy(adapter)
    copied.model.double()
    return copied


# The reference


def blocks_of(model):
    """Blocks whose other tokens are detached, with how, and the attention that is read in each."""
    kind = model.config.model_type
    if kind == "timesformer":
        layers = model.timesformer.encoder.layer
        return [(layer, all_but_first, layer.attention.attention) for layer in layers]
    if kind == "vivit":
        return [(layer, all_but_first, layer.attention) for layer in model.vivit.layers]
    if kind == "videomae":
        layers = model.videomae.encoder.layer
        return [(layer, all_but_first, layer.attention.attention) for layer in layers]
    if kind == "vjepa2":
        layer = model.pooler.cross_attention_layer
        return [(layer, all_but_query, layer.cross_attn)]
    return [(model.head, whole, model.head)]


def all_but_first(module, inputs):
    hidden, *rest = inputs
    return torch.cat([hidden[:, :1], hidden[:, 1:].detach()], dim=1), *rest


def all_but_query(module, inputs):
    query, tokens, *rest = inputs
    return query, tokens.detach(), *rest


def whole(module, inputs):
    return inputs[0].detach(), *inputs[1:]


def frozen_norm(module, inputs, output):
    (x,) = inputs
    weight = module.weight + 1 if "VideoPrism" in type(module).__name__ else module.weight
    centred = x - x.mean(-1, keepdim=True)
    held = (centred.square().mean(-1, keepdim=True) + module.eps).sqrt().detach()
    return centred / held * weight + module.bias


def frozen_activation(module, inputs, output):
    (x,) = inputs
    return x * (output / x).detach()


ACTIVATIONS = tuple({kind if isinstance(kind, type) else kind[0] for kind in ACT2CLS.values()})


@contextmanager
def held(model, frozen):
    """Softmaxes as leaves, by attention module; frozen, LayerNorms and activations held too."""
    leaves = {}

    def leaf(module, probabilities):
        leaves[module] = probabilities.detach().requires_grad_()
        return leaves[module]

    def attend(module, query, key, value, mask, scaling=None, softcap=None, **kwargs):
        scores = query @ key.transpose(2, 3) * scaling
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        probabilities = leaf(module, scores.softmax(-1))
        return (probabilities @ value).transpose(1, 2).contiguous(), probabilities

    with ExitStack() as stack:

        def hook(handle):
            stack.callback(handle.remove)

        for module in model.modules():
            if hasattr(module, "attn_drop"):
                hook(
                    module.attn_drop.register_forward_hook(
                        lambda _, inputs, output, module=module: leaf(module, output)
                    )
                )
            if frozen and isinstance(module, nn.LayerNorm):
                hook(module.register_forward_hook(frozen_norm))
            if frozen and isinstance(module, ACTIVATIONS):
                hook(module.register_forward_hook(frozen_activation))
        if model.config.model_type != "timesformer":
            ALL_ATTENTION_FUNCTIONS["held"] = attend
            stack.callback(ALL_ATTENTION_FUNCTIONS.pop, "held")
            model.set_attn_implementation("held")
        yield leaves


def eager_logits(two, clips):
    logits = two.eager(**{two.input_name: clips}).logits
    return logits.reshape(len(clips), -1, len(CLASS_NAMES)).mean(1)


def reference_parts(two, clips, frozen):
    """By autograd: of each layer a * d<u, logits>/da at the readout, (2, batch, heads, tokens)."""
    with held(two.eager, frozen) as leaves, ExitStack() as stack:
        for block, detach, _ in blocks_of(two.eager):
            stack.callback(block.register_forward_pre_hook(detach).remove)
        logits = eager_logits(two, clips)
        target = logits.argmax(-1)
        layers = [leaves[module] for _, _, module in blocks_of(two.eager)]
        of_directions = []
        for u in directions_of(logits.detach(), target):
            gradients = torch.autograd.grad((logits * u).sum(), layers, retain_graph=True)
            of_directions.append(
                [(a * g)[:, :, 0].detach() for a, g in zip(layers, gradients, strict=True)]
            )
    return [torch.stack(parts) for parts in zip(*of_directions, strict=True)]


def directions_of(logits, target):
    """Written out, clip by clip: e - 1/C, and e - softmax of the other classes."""
    n_classes = logits.shape[1]
    positive, signed = torch.zeros_like(logits), torch.zeros_like(logits)
    for clip, best in enumerate(target.tolist()):
        others = [c for c in range(n_classes) if c != best]
        positive[clip] = -1 / n_classes
        positive[clip, best] += 1
        signed[clip, best] = 1
        signed[clip, others] = -logits[clip, others].softmax(-1)
    return positive, signed


def adapters_parts(adapter, clips, frozen):
    column = adapter.column(clips)
    wanted = {
        i: (layer.attention, layer.read(with_tokens=True)) for i, layer in enumerate(column.layers)
    }
    with torch.inference_mode():
        with capture(wanted) as kept:
            logits = adapter.predict(clips)
        reads = [kept[i] for i in wanted]
        directions = class_directions(logits, logits.argmax(-1))
        gradients = read_gradients(column, reads, directions, frozen=frozen)
        parts = [
            read_parts(read, gradient, column.n_reads)
            for read, gradient in zip(reads, gradients, strict=True)
        ]
    return column, reads, logits, directions, parts


def on_grid(two, parts):
    """(batch, heads, tokens) to (clips, heads, T, P), token by token, by the family's order."""
    grid = two.adapter.grid
    n_times, n_patches = grid.n_times, grid.height * grid.width
    name, kind = two.eager.config.model_type, getattr(two.eager.config, "attention_type", None)
    batch, heads, _ = parts.shape
    cls = int(name in ("timesformer", "vivit"))
    n_clips = batch if kind in (None, "joint_space_time") else batch // n_times
    result = np.full((n_clips, heads, n_times, n_patches), np.nan)
    for clip, time, patch in np.ndindex(n_clips, n_times, n_patches):
        if kind in ("divided_space_time", "space_only"):
            part = parts[clip * n_times + time, :, cls + patch]
        elif kind == "joint_space_time":
            part = parts[clip, :, cls + patch * n_times + time]
        else:
            part = parts[clip, :, cls + time * n_patches + patch]
        result[clip, :, time, patch] = part
    return result


# Exactness


@pytest.mark.parametrize("name", BY_READS)
@EACH_SIZE
def test_the_column_rebuilds_the_logits(name, size, tmp_path):
    two = pair(name, tmp_path, size)
    clips = two.clips(3)
    for frozen in (False, True):
        column, reads, logits, _, _ = adapters_parts(two.adapter, clips, frozen)
        totals = [column.averaged(read.total) for read in reads]
        with torch.no_grad():
            expected = eager_logits(two, clips)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
        rebuilt = column.logits(reads, totals, frozen=frozen)
        torch.testing.assert_close(rebuilt, logits, atol=1e-5, rtol=0)
    # Guard: what was read matters to the logits.
    nothing = column.logits(reads, [torch.zeros_like(total) for total in totals])
    assert (nothing - logits).abs().max() > 1e-3


@pytest.mark.parametrize("name", BY_READS)
@EACH_SIZE
@EACH_DERIVATIVE
def test_parts_are_autograds_on_the_eager_model(name, size, derivative, tmp_path):
    """Of the last layer, plain, that is gradient x attention; each layer and head, unclamped."""
    frozen = derivative == "frozen"
    two = pair(name, tmp_path, size)
    clips = two.clips(3)
    _, _, _, _, parts = adapters_parts(in_double(two.adapter), clips.double(), frozen)
    expected = reference_parts(two, clips, frozen)
    assert len(parts) == len(expected)
    for of_layer, reference in zip(parts, expected, strict=True):
        scale = reference.abs().max()
        assert scale > 1e-5
        torch.testing.assert_close(of_layer / scale, reference / scale, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", BY_READS)
@EACH_SIZE
def test_frozen_parts_start_and_biases_sum_to_the_logit(name, size, tmp_path):
    two = pair(name, tmp_path, size)
    adapter = in_double(two.adapter)
    column, reads, _, directions, parts = adapters_parts(adapter, two.clips(3).double(), True)
    # Tensors of inference mode can't be differentiated by.
    start = column.start.detach().clone().requires_grad_()
    reads = [
        replace(read, total=read.total.clone(), own_share=copied(read.own_share)) for read in reads
    ]
    totals = [column.averaged(read.total) for read in reads]
    with torch.enable_grad():
        rebuilt = replace(column, start=start).logits(reads, totals, frozen=True)
    biases = [p for n, p in adapter.model.named_parameters() if n.endswith("bias")]
    n_own = int(reads[0].own_share is not None)
    for direction, u in enumerate(directions):
        for clip in range(3):
            value = (rebuilt[clip] * u[clip].clone()).sum()
            gradients = torch.autograd.grad(
                value, [start, *biases], retain_graph=True, allow_unused=True
            )
            rest = sum(
                (of.detach() * gradient).sum()
                for of, gradient in zip([start, *biases], gradients, strict=True)
                if gradient is not None
            )
            read = sum(
                part[direction].reshape(3, -1, *part.shape[2:])[clip, ..., n_own:].sum()
                for part in parts
            )
            np.testing.assert_allclose(read + rest, value.detach(), atol=1e-4)


def copied(tensor):
    return None if tensor is None else tensor.clone()


@EACH_SIZE
@EACH_DERIVATIVE
@pytest.mark.parametrize("step_back", [False, True])
def test_final_tokens_parts_are_autograds_and_complete(size, derivative, step_back, tmp_path):
    """VideoMAE: input x gradient of the final tokens, or attention x gradient and the skip."""
    frozen = derivative == "frozen"
    two = pair("videomae", tmp_path, size)
    clips, block = two.clips(3), two.eager.videomae.encoder.layer[-1]
    seen = {}

    def start(module, inputs):
        seen["z"] = inputs[0].detach().requires_grad_()
        return (seen["z"], *inputs[1:])

    def keep(module, inputs):
        inputs[0].retain_grad()
        seen["m"] = inputs[0]

    def end(module, inputs, output):
        output.retain_grad()
        seen["x"] = output

    with held(two.eager, frozen) as leaves, ExitStack() as stack:
        stack.callback(block.register_forward_pre_hook(start).remove)
        stack.callback(block.layernorm_after.register_forward_pre_hook(keep).remove)
        stack.callback(block.register_forward_hook(end).remove)
        logits = eager_logits(two, clips)
        attention = leaves[block.attention.attention]
        target = logits.argmax(-1)
        directions = directions_of(logits.detach(), target)
        expected, values, rests = [], [], []
        for u in directions:
            for tensor in (seen["z"], seen["m"], seen["x"], attention):
                tensor.grad = None
            value = (logits * u).sum(1)
            value.sum().backward(retain_graph=True)
            if step_back:
                of_heads = (attention * attention.grad).sum(2)
                skip = (seen["z"] * seen["m"].grad).sum(-1)[:, None]
                expected.append(torch.cat([of_heads, skip], dim=1).detach())
            else:
                expected.append((seen["x"] * seen["x"].grad).sum(-1)[:, None].detach())
            values.append(value.detach())
            rests.append(biases_parts(two.eager, block, value, step_back))

    options = {"derivative": derivative, "step_back": step_back}
    explanation = explanation_of(two.adapter, clips, clamp="parts", **options)
    grid = torch.stack([torch.tensor(on_grid(two, part)) for part in expected])
    joint = grid[0].clamp(min=0).sum(1)
    joint = joint / joint.sum((1, 2), keepdim=True)
    np.testing.assert_allclose(explanation.total, joint, atol=1e-5)
    np.testing.assert_allclose(explanation.signed, grid[1].sum(1), atol=1e-5)
    if frozen:
        total = explanation.signed.sum((1, 2))
        np.testing.assert_allclose(total.numpy() + rests[1], values[1].numpy(), atol=1e-4)


@EACH_DERIVATIVE
def test_a_step_back_is_the_same_however_many_tokens_go_at_once(derivative, tmp_path):
    two = pair("videomae", tmp_path)
    clips = two.clips(2)
    column = two.adapter.column(clips)
    last = list(two.adapter.blocks().values())[-1]
    wanted = {
        "scores": (last.attention, scores_and_values),
        "before": (last.before, stream_before),
        "behind": (last.behind, stream_before),
    }
    with torch.inference_mode(), capture(wanted) as captured:
        two.adapter.predict(clips)
        given = [captured[name] for name in wanted]
        gradient = torch.randn(2, 2, given[1].shape[-1])
        n_tokens = given[1].shape[1]
        at_once, in_pieces = (
            token_parts_stepped_back(
                *given,
                block=column.layers[0],
                gradient=gradient,
                frozen=derivative == "frozen",
                tokens_at_once=n,
            )
            for n in (n_tokens, 5)
        )
    assert n_tokens % 5
    torch.testing.assert_close(in_pieces, at_once, atol=1e-6, rtol=1e-5)


def biases_parts(model, block, values, step_back):
    """Of each clip, the parts of the biases that come behind the tokens that are counted."""
    modules = [model.fc_norm, model.classifier]
    if step_back:
        modules += [block.attention.output.dense, block.layernorm_after]
        modules += [block.intermediate.dense, block.output.dense]
    biases = [module.bias for module in modules]
    parts = []
    for value in values:
        gradients = torch.autograd.grad(value, biases, retain_graph=True)
        pairs = zip(biases, gradients, strict=True)
        parts.append(sum((bias * gradient).sum().item() for bias, gradient in pairs))
    return np.array(parts)


# What comes of the parts


@pytest.mark.parametrize("name", BY_READS)
@EACH_SIZE
@pytest.mark.parametrize("clamp", ["parts", "sum"])
def test_maps_are_made_of_the_references_parts(name, size, clamp, tmp_path):
    """Layers are summed; heads and layers that are kept are the same parts, one by one."""
    two = pair(name, tmp_path, size)
    clips = two.clips(3)
    parts = [
        np.stack([on_grid(two, of_direction) for of_direction in of_layer])
        for of_layer in reference_parts(two, clips, True)
    ]
    stacked = np.stack(parts, axis=2)  # (2, clips, layers, heads, T, P)
    adapter, clips = in_double(two.adapter), clips.double()
    explanation = explanation_of(adapter, clips, layers="all", heads="keep", clamp=clamp)

    def positive(axes):
        """Sum over some axes, and clamp before or after."""
        if clamp == "parts":
            return np.maximum(stacked[0], 0).sum(axes)
        return np.maximum(stacked[0].sum(axes), 0)

    for got, expected in (
        (explanation.total, positive((1, 2))),
        (explanation.joint, positive(2)),
        (explanation.head_joint, positive(())),
    ):
        assert got.dtype is torch.float32
        sums = expected.sum((-1, -2), keepdims=True)
        uniform = 1 / (expected.shape[-1] * expected.shape[-2])
        share = np.where(sums == 0, uniform, expected / np.where(sums == 0, 1, sums))
        np.testing.assert_allclose(got, share, atol=2e-4)
        np.testing.assert_allclose(got.sum((-1, -2)), 1, atol=1e-5)
    np.testing.assert_allclose(explanation.signed, stacked[1].sum((1, 2)), atol=1e-4)
    last = explanation_of(adapter, clips, layers="last", clamp=clamp)
    torch.testing.assert_close(last.total, explanation.joint[:, -1], atol=1e-6, rtol=0)
    assert last.head_joint is None


@EACH
def test_the_map_is_of_the_class_that_is_asked_for(name, tmp_path):
    two = pair(name, tmp_path)
    clips = two.clips(2)
    classes = range(len(CLASS_NAMES))
    explained = [explanation_of(two.adapter, clips, [c, c], layers="all") for c in classes]
    predicted = explanation_of(two.adapter, clips, layers="all")
    for c, explanation in enumerate(explained):
        assert explanation.target.tolist() == [c, c]
        assert torch.equal(explanation.logits, predicted.logits)
        for other in explained[:c]:
            for map_name in ("total", "signed"):
                one, two_ = getattr(explanation, map_name), getattr(other, map_name)
                assert (one - two_).abs().max() > 0.02 * one.abs().max()
    best = predicted.logits.argmax(-1)
    assert torch.equal(predicted.target, best)
    for clip, c in enumerate(best.tolist()):
        torch.testing.assert_close(predicted.total[clip], explained[c].total[clip])
    # A clip without a label falls back to its prediction, whatever its neighbours have.
    label = (int(best[0]) + 1) % len(CLASS_NAMES)
    mixed = explanation_of(two.adapter, clips, [label, -1], layers="all")
    assert mixed.target.tolist() == [label, int(best[1])]
    torch.testing.assert_close(mixed.total[0], explained[label].total[0])
    torch.testing.assert_close(mixed.total[1], predicted.total[1])


@EACH
def test_attention_alone_is_blind_to_the_class(name, tmp_path):
    """Guard of the test above, and what the documents say of these methods."""
    two = pair(name, tmp_path)
    clips = two.clips(2)
    with torch.inference_mode():
        for method in (Method(name="staa-paper"), Method(name="rollout")):
            maps = [
                explain(two.adapter, clips, method, torch.full((2,), c)).attribution for c in (0, 1)
            ]
            assert torch.equal(*maps)


@EACH
def test_the_two_best_are_told_apart_by_their_difference(name, tmp_path):
    two = pair(name, tmp_path)
    clips = two.clips(3)
    explanation = explanation_of(two.adapter, clips, target="top2", layers="all")
    best = explanation.logits.topk(2).indices
    winner, runner_up = (
        explanation_of(two.adapter, clips, best[:, rank].tolist(), layers="all") for rank in (0, 1)
    )
    assert torch.equal(explanation.target, best[:, 0])
    torch.testing.assert_close(explanation.total, winner.total)
    torch.testing.assert_close(explanation.runner_up, runner_up.total)
    assert winner.runner_up is None
    if name == "videomae":
        return
    # The difference is of the direction e_winner - e_runner_up.
    column, reads, logits, _, _ = adapters_parts(two.adapter, clips, True)
    one_hot = torch.nn.functional.one_hot(best, logits.shape[1]).float()
    gradients = read_gradients(column, reads, (one_hot[:, 0] - one_hot[:, 1])[None], frozen=True)
    difference = sum(
        on_grid(two, read_parts(read, gradient, column.n_reads)[0]).sum(1)
        for read, gradient in zip(reads, gradients, strict=True)
    )
    np.testing.assert_allclose(explanation.signed, difference, atol=1e-4)


@EACH
def test_another_classifier_gives_another_map(name, tmp_path):
    """Random parameters of the classifier alone: attention would stay the same to the bit."""
    two = pair(name, tmp_path)
    clips = two.clips(4)
    before = explanation_of(two.adapter, clips, [1] * 4, layers="all")
    attention = explain(two.adapter, clips, Method(name="staa-paper")).attribution
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        weight = two.adapter.model.classifier.weight
        weight.copy_(weight.std() * torch.randn(weight.shape, generator=generator))
    after = explanation_of(two.adapter, clips, [1] * 4, layers="all")
    assert correlation(before.signed, after.signed) < 0.7
    assert (before.total - after.total).abs().max() > 0.1 * before.total.max()
    assert torch.equal(
        explain(two.adapter, clips, Method(name="staa-paper")).attribution, attention
    )


def correlation(one, other):
    return float(np.corrcoef(np.ravel(one), np.ravel(other))[0, 1])


# Precision


@EACH
def test_values_in_half_precision_move_a_map_by_less_than_a_thousandth(name, tmp_path):
    two = pair(name, tmp_path)
    clips = two.clips(4)
    half = explanation_of(two.adapter, clips, layers="all")
    exact = explanation_of(in_double(two.adapter), clips.double(), layers="all")
    moved = (half.total - exact.total).abs().sum((1, 2)) / 2
    assert moved.max() < 1e-3
    scale = exact.signed.abs().sum((1, 2))
    assert ((half.signed - exact.signed).abs().sum((1, 2)) / scale).max() < 2e-3


@EACH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_evidence_stays_near_the_float32_models(name, dtype, tmp_path):
    two = pair(name, tmp_path, 0)
    clips = two.clips(3)
    exact = explanation_of(two.adapter, clips, [0, 1, 2], layers="all")
    with torch.autocast("cpu", dtype=dtype):
        half = explanation_of(two.adapter, clips.to(dtype), [0, 1, 2], layers="all")
    assert half.total.dtype is half.signed.dtype is torch.float32
    np.testing.assert_allclose(half.total.sum((1, 2)), 1, atol=1e-5)
    assert correlation(half.total, exact.total) > 0.9
    assert not torch.equal(half.total, exact.total)
