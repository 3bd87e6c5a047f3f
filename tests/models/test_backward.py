"""Relevance by a backward pass, against whole matrices and against what completeness asks."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch

from pipeline.attribution import attention
from pipeline.attribution.change import change, median_frame, token_change
from pipeline.attribution.evidence import class_directions, top_directions
from pipeline.attribution.method import Method
from pipeline.attribution.relevance import held as held_in
from pipeline.models.backward import (
    gradient_relevance,
    held_gradient_from_median,
    libra_grad,
)
from pipeline.models.explain import explain
from pipeline.models.frame_importance import by_gradient
from tests.attribution.test_rollout import ROLLOUTS, Softmax
from tests.models.test_contribution import kind_of
from tests.models.test_evidence import NAMES, held, pair

EACH = pytest.mark.parametrize("name", NAMES)


@EACH
def test_gradient_relevance_is_the_product_of_whole_matrices(name, tmp_path):
    """(I + E_h[(dA A)+]) of every block, multiplied; dA by autograd, through everything."""
    two = pair(name, tmp_path)
    clips, classes = two.clips(2), torch.tensor([1, 3])
    names = tuple(two.adapter.blocks())
    softmax = Softmax()
    softmax.patches = two.adapter.grid.height * two.adapter.grid.width
    for block in names:
        a, gradient = whole_gradient(two, clips, classes, block)
        weights = (a * gradient).clamp(min=0).mean(1).double().numpy()
        if block == "pooler":
            softmax["pooler"] = [weights[:, :1]]
            continue
        identity = np.identity(weights.shape[-1])
        matrix = 2 * weights + identity
        n_copies = two.adapter.n_copies(block)
        if n_copies > 1:
            # The naive rollout averages CLS's rows of the frames, of which there is one.
            own = weights[:, 0, 0].reshape(-1, n_copies).sum(1)
            matrix[:, 0] = 2 * n_copies * weights[:, 0]
            matrix[:, 0, 0] = np.repeat(2 * own + 1, n_copies)
        softmax.setdefault(kind_of(name, block, names), []).append(matrix)
    for kind in ("blocks", "pooler blocks"):
        softmax.setdefault(kind, [])
    naive = ROLLOUTS[name].naive(softmax, two.adapter.grid.n_times)
    naive = naive / naive.sum((1, 2), keepdims=True)
    relevance = gradient_relevance(two.adapter, clips, classes)
    np.testing.assert_allclose(relevance, naive, atol=1e-5)
    others = gradient_relevance(two.adapter, clips, torch.tensor([0, 2]))
    # With mean pooling every token begins with the same relevance, which is most of it.
    assert (relevance - others).abs().max() > 1e-3 * relevance.max()


@EACH
def test_a_class_that_depends_on_nothing_has_a_uniform_map(name, tmp_path):
    two = pair(name, tmp_path)
    torch.nn.init.zeros_(two.adapter.model.classifier.weight)
    got = gradient_relevance(two.adapter, two.clips(2), torch.tensor([1, 3]))
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got.sum((1, 2)), torch.ones(2))
    if name != "videomae without mean pooling":
        torch.testing.assert_close(got, torch.full_like(got, 1 / got[0].numel()))


def whole_gradient(two, clips, classes, block):
    """Softmax of one block and its derivative, with every other softmax as it is."""
    paths = {module: path for path, module in two.adapter.model.named_modules()}
    path = paths[two.adapter.blocks()[block].attention]
    module = dict(two.eager.named_modules())[path]
    with HeldOne(two.eager, module) as kept:
        logits = two.eager(**{two.input_name: clips}).logits
        logits = logits.reshape(len(clips), -1, logits.shape[-1]).mean(1)
        (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), kept["a"])
    return kept["a"].detach(), gradient


class HeldOne(ExitStack):
    """A model whose one attention module keeps its softmax, which gradients are taken by."""

    def __init__(self, model, module):
        super().__init__()
        self.model, self.module, self.kept = model, module, {}

    def __enter__(self):
        super().__enter__()
        if hasattr(self.module, "attn_drop"):

            def keep(_, inputs, output):
                self.kept["a"] = output
                return output

            self.callback(self.module.attn_drop.register_forward_hook(keep).remove)
            return self.kept

        def keep(_, inputs, output):
            self.kept["a"] = output[1]

        self.model.set_attn_implementation("eager")
        self.callback(self.module.register_forward_hook(keep).remove)
        return self.kept


@EACH
def test_held_gradients_leave_the_logits_as_they_are_and_nothing_behind(name, tmp_path):
    two = pair(name, tmp_path)
    clips, classes = two.clips(2), torch.tensor([1, 3])
    modules = list(two.adapter.model.modules())
    before = [len(module._forward_hooks) for module in modules]
    with torch.inference_mode():
        logits = two.adapter.predict(clips)
        held_gradient_from_median(two.adapter, clips, classes)
        libra_grad(two.adapter, clips, against_rivals(classes))
        gradient_relevance(two.adapter, clips, classes)
        assert torch.equal(two.adapter.predict(clips), logits)
    assert [len(module._forward_hooks) for module in modules] == before
    assert len(attention._SOFTMAX_HELD) == len(attention._TAPS) == 0


@EACH
def test_held_gradient_is_autograds_on_the_eager_model_with_held_rules(name, tmp_path):
    """Softmaxes are leaves there, LayerNorms and activations are written out."""
    two = pair(name, tmp_path)
    clips, classes = two.clips(2), torch.tensor([1, 3])
    paths = {module: path for path, module in two.adapter.model.named_modules()}
    projection = dict(two.eager.named_modules())[paths[two.adapter.patch_projection]]
    kept = {}

    def leaf(module, inputs, output):
        kept["z"] = output.detach().requires_grad_()
        return kept["z"]

    with held(two.eager, True):
        handle = projection.register_forward_hook(leaf)
        logits = two.eager(**{two.input_name: clips}).logits
        logits = logits.reshape(len(clips), -1, logits.shape[-1]).mean(1)
        u = class_directions(logits.detach(), classes)[1]
        (gradient,) = torch.autograd.grad((logits * u).sum(), kept["z"])
        handle.remove()
    still = median_frame(clips).expand_as(clips)
    with torch.no_grad():
        tokens = {}

        def keep(module, inputs, output):
            tokens["z"] = output

        handle = two.adapter.patch_projection.register_forward_hook(keep)
        two.adapter.predict(still)
        handle.remove()
    ways = (
        (0, libra_grad(two.adapter, clips, against_rivals(classes))[1][0]),
        (tokens["z"], held_gradient_from_median(two.adapter, clips, classes)),
    )
    for start, got in ways:
        product = ((kept["z"].detach() - start) * gradient).sum(1)
        # (clips * T or clips, [T,] rows, columns)
        expected = product.reshape(2, two.adapter.grid.n_times, -1)
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)
    importance = by_gradient(two.adapter, clips, classes)
    positive = expected.clamp(min=0).sum(-1)
    torch.testing.assert_close(
        importance, positive / positive.sum(1, keepdim=True), atol=1e-4, rtol=0
    )


# LibraGrad


def against_rivals(classes):
    return lambda logits: class_directions(logits, classes)[1:]


@EACH
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_libra_grads_prediction_is_the_forward_passs_to_the_bit(
    name, precision, tmp_path, one_thread
):
    two = pair(name, tmp_path)
    dtype = getattr(torch, precision)
    clips = two.clips(3).to(dtype)
    whole = dtype == torch.float32
    with torch.inference_mode(), torch.autocast("cpu", dtype=dtype, enabled=not whole):
        expected = explain(two.adapter, clips, Method())
        for target in ("predicted", "top2"):
            got = explain(two.adapter, clips, Method(name="libragrad", target=target))
            assert torch.equal(got.logits, expected.logits)
            assert torch.equal(got.pooled, expected.pooled)
            assert torch.equal(got.target, expected.target)
            assert not got.logits.requires_grad
            assert not got.pooled.requires_grad


@EACH
def test_values_that_are_not_exact_differ_by_rounding_alone_and_so_do_gradients(name, tmp_path):
    two = pair(name, tmp_path)
    clips = two.clips(2)
    found = []
    for exact in (False, True):
        kept = {}

        def leaf(module, inputs, output, kept=kept):
            kept["z"] = output.detach().requires_grad_()
            return kept["z"]

        handle = two.adapter.patch_projection.register_forward_hook(leaf)
        with held_in(two.adapter.model, norm_offset=two.adapter.norm_offset, exact=exact):
            logits = two.adapter.predict(clips)
            found.append((logits.detach(), torch.autograd.grad(logits[:, 1].sum(), kept["z"])[0]))
        handle.remove()
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-3)


@EACH
def test_libra_grads_parts_sum_to_the_direction_where_nothing_begins_in_the_model(name, tmp_path):
    """Completeness: without biases, positions and a readout of its own, all comes from patches."""
    two = pair(name, tmp_path)
    model = two.adapter.model
    with torch.no_grad():
        for path, weight in model.named_parameters():
            in_model = path.endswith("bias") or "position_embedding" in path
            if in_model and "patch_embed" not in path.rsplit(".", 2)[0]:
                weight.zero_()
            if path.rsplit(".", 1)[-1] in ("cls_token", "query_tokens", "time_embeddings"):
                weight.zero_()
        for module in model.modules():
            # VideoMAE's are no parameters, but a table of sines.
            if isinstance(getattr(module, "position_embeddings", None), torch.Tensor):
                module.position_embeddings.zero_()
    clips, classes = two.clips(3), torch.tensor([1, 3, 0])
    logits, parts = libra_grad(two.adapter, clips, lambda logits: class_directions(logits, classes))
    expected = (class_directions(logits, classes) * logits).sum(-1)
    assert expected.abs().min() > 1e-3
    torch.testing.assert_close(parts.sum((2, 3)), expected, atol=1e-5, rtol=1e-3)


@EACH
def test_where_and_when_are_of_the_positive_parts_of_the_class_that_is_asked_for(name, tmp_path):
    two = pair(name, tmp_path)
    clips, given = two.clips(3), torch.tensor([1, -1, 3])
    with torch.inference_mode():
        got = explain(two.adapter, clips, Method(name="libragrad", target="label"), given)
        other = explain(two.adapter, clips, Method(name="libragrad", target="label"), given + 1)
        classes = torch.where(given >= 0, given, got.logits.argmax(-1))
        signed = libra_grad(two.adapter, clips, against_rivals(classes))[1][0]
    assert torch.equal(got.target, classes)
    assert torch.equal(got.signed, signed)
    positive = signed.clamp(min=0)
    torch.testing.assert_close(got.attribution, positive / positive.sum((1, 2), keepdim=True))
    assert got.head_joint is None
    assert got.joint.shape[1] == 1
    assert (got.signed - other.signed)[[0, 2]].abs().max() > 1e-2 * got.signed.abs().max()


@EACH
def test_of_two_classes_each_is_held_against_all_and_their_difference_is_signed(name, tmp_path):
    two = pair(name, tmp_path)
    clips = two.clips(3)
    with torch.inference_mode():
        got = explain(two.adapter, clips, Method(name="libragrad", target="top2"))
        logits, parts = libra_grad(two.adapter, clips, top_directions)
    best, second = parts.clamp(min=0)
    assert torch.equal(got.target, logits.argmax(-1))
    torch.testing.assert_close(got.attribution, best / best.sum((1, 2), keepdim=True))
    torch.testing.assert_close(got.runner_up, second / second.sum((1, 2), keepdim=True))
    assert torch.equal(got.signed, parts[0] - parts[1])


@EACH
def test_libra_grad_of_a_clip_does_not_depend_on_its_neighbours(name, tmp_path, one_thread):
    two = pair(name, tmp_path)
    clips, others = two.clips(3), two.clips(3, seed=9)
    others[1] = clips[1]
    others[2] = 0
    with torch.inference_mode():
        first, second, alone = (
            explain(two.adapter, of, Method(name="libragrad")) for of in (clips, others, clips[1:2])
        )
    assert torch.equal(first.signed[1], second.signed[1])
    assert torch.equal(first.attribution[1], second.attribution[1])
    # A pass of another size may have other last bits.
    torch.testing.assert_close(alone.signed[0], first.signed[1], atol=1e-4, rtol=1e-3)


def test_where_a_class_depends_on_nothing_libra_grads_map_is_uniform(tmp_path):
    two = pair("timesformer divided", tmp_path)
    torch.nn.init.zeros_(two.adapter.model.classifier.weight)
    with torch.inference_mode():
        got = explain(two.adapter, two.clips(2), Method(name="libragrad"))
    torch.testing.assert_close(
        got.attribution, torch.full_like(got.attribution, 1 / got.attribution[0].numel())
    )
    assert (got.signed == 0).all()


# Change


@pytest.mark.parametrize("n_frames", [1, 4, 5])
def test_the_median_frame_is_numpys(n_frames):
    clips = torch.randn(2, n_frames, 3, 4, 5, generator=torch.Generator().manual_seed(n_frames))
    expected = np.median(clips.numpy(), axis=1, keepdims=True)
    np.testing.assert_allclose(median_frame(clips), expected, atol=1e-6)


@EACH
def test_change_is_between_the_tokens_of_the_clip_and_of_its_median_frame(name, tmp_path):
    two = pair(name, tmp_path)
    clips = two.clips(2)
    projection, grid = two.adapter.patch_projection, two.adapter.grid
    tokens = []
    handle = projection.register_forward_hook(lambda _, inputs, output: tokens.append(output))
    with torch.no_grad():
        two.adapter.predict(clips)
        two.adapter.predict(median_frame(clips).expand_as(clips))
    handle.remove()
    difference = tokens[0] - tokens[1]
    if difference.ndim == 4:
        difference = difference.reshape(2, grid.n_times, *difference.shape[1:]).transpose(1, 2)
    got = token_change(clips, projection)
    torch.testing.assert_close(got, difference.flatten(3), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(change(clips, projection), got.square().sum(1).sqrt())


@EACH
def test_change_weighted_evidence_is_evidence_times_change(name, tmp_path):
    two = pair(name, tmp_path)
    clips = two.clips(2)
    with torch.inference_mode():
        plain = explain(two.adapter, clips, Method(name="evidence", layers="all"))
        weighted = explain(
            two.adapter, clips, Method(name="evidence", layers="all", change_weighted=True)
        )
        expected = plain.total * change(clips, two.adapter.patch_projection)
    expected = expected / expected.sum((1, 2), keepdim=True)
    torch.testing.assert_close(weighted.total, expected, atol=1e-5, rtol=0)
    assert torch.equal(weighted.signed, plain.signed)
    still = clips[:, :1].expand_as(clips)
    with torch.inference_mode():
        of_still = explain(two.adapter, still, Method(name="evidence", change_weighted=True))
    uniform = torch.full_like(of_still.total, 1 / of_still.total[0].numel())
    torch.testing.assert_close(of_still.total, uniform)
