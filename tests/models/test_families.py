"""Every family's adapter against transformers' own eager model, which is never touched."""

import gc
import weakref
from copy import deepcopy
from dataclasses import replace
from importlib import import_module
from random import Random

import numpy as np
import pytest
import torch
from transformers import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pipeline.attribution import attention
from pipeline.attribution.attention import ATTENTION, capture, mean_row
from pipeline.attribution.method import Method
from pipeline.attribution.staa import spatial_temporal
from pipeline.clips.sampling import Sampling
from pipeline.errors import ConfigError
from pipeline.models.checkpoint import load_adapter, read_checkpoint
from pipeline.models.compiler import check_compiler
from pipeline.models.explain import explain
from pipeline.models.registry import FAMILIES as ADAPTERS
from pipeline.status import Status
from tests.attribution.test_attention import SquareMatrices
from tests.support.checkpoints import CLASS_NAMES
from tests.support.families import FAMILIES, eager_reference
from tests.support.mutations import seed_of_the_day
from tests.support.runs import plain_columns, prepared, write_inputs

EACH = pytest.mark.parametrize("name", FAMILIES)
ALL_LAYERS = {"layers": "all", "heads": "keep"}
ONE_AND_THE_OTHERS_SLOW = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "vivit" else [pytest.mark.slow]) for name in FAMILIES],
)


def of_the_day(name, *methods):
    """Draw a family's method, another one on other days, as each takes its time."""
    method = Random(f"{seed_of_the_day()} {name}").choice(methods)
    print(name, method)
    return method


WITH_ATTENTION_FUNCTION = [name for name in FAMILIES if not name.startswith("timesformer")]
"""TimeSformer looks none up; tests/attribution/test_attention.py holds its rows in bfloat16."""


def load(folder, dtype=torch.float32):
    adapter = load_adapter(read_checkpoint(str(folder)), device="cpu")
    adapter.model.to(dtype)
    return adapter


def clips_for(adapter, n_clips, seed=1):
    geometry = adapter.geometry(adapter.model.config)
    shape = (n_clips, geometry.n_frames, 3, *geometry.input_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def explanation_of(adapter, clips, **method):
    with torch.inference_mode():
        return explain(adapter, clips, Method(**{"name": "staa-paper", **method}))


def wanted(family, adapter):
    return {"readout": (family.readout(adapter.model), family.read)}


def rows_of(matrix, read):
    """The rows that a capture should give, of a whole softmax."""
    return matrix.mean(dim=2, keepdim=True) if read is mean_row else matrix[:, :, :1]


def test_every_video_classifier_of_transformers_has_an_adapter():
    classes = {
        config.model_type: model for config, model in MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING.items()
    }
    assert {kind: adapter.model_class for kind, adapter in ADAPTERS.items()} == classes
    assert {family.model_class for family in FAMILIES.values()} == set(classes.values())


@EACH
@pytest.mark.parametrize(("size", "n_clips"), [(0, 1), (0, 3), (1, 2), (1, 5)])
def test_rows_logits_and_attribution_equal_the_eager_models(name, size, n_clips, tmp_path):
    family = FAMILIES[name]
    folder = family.save(tmp_path, **family.sizes[size])
    adapter = load(folder)
    clips = clips_for(adapter, n_clips)
    logits, matrix = eager_reference(family, family.eager(folder), clips)

    with torch.no_grad(), capture(wanted(family, adapter)) as rows:
        adapter.model(**{family.input_name: clips})
    expected = rows_of(matrix, family.read)
    torch.testing.assert_close(rows["readout"], expected, atol=1e-5, rtol=0)

    explanation = explanation_of(adapter, clips)
    geometry = adapter.geometry(adapter.model.config)
    naive = family.naive(matrix.double().numpy(), geometry.n_times)
    assert naive.shape == (n_clips, geometry.n_times, geometry.height * geometry.width)
    assert explanation.joint[:, -1].dtype is torch.float32
    assert explanation.logits.shape == (n_clips, len(CLASS_NAMES))
    np.testing.assert_allclose(explanation.joint[:, -1], naive, atol=1e-5)
    torch.testing.assert_close(explanation.logits, logits, atol=1e-4, rtol=0)


@EACH
def test_the_reference_attends_unevenly(name, tmp_path):
    """Guard of the test above: uniform rows would equal each other whatever is captured."""
    family = FAMILIES[name]
    folder = family.save(tmp_path, **family.sizes[1])
    clips = clips_for(load(folder), 2)
    _, matrix = eager_reference(family, family.eager(folder), clips)
    rows = rows_of(matrix, family.read)
    assert rows.std(dim=-1).mean() > 0.2 / rows.shape[-1]
    assert (rows[0] - rows[-1]).abs().max() > 0.1 / rows.shape[-1]


@EACH
def test_the_references_logits_show_its_attention(name, tmp_path):
    """Guard of the comparison of logits: another attention must give others."""
    family = FAMILIES[name]
    folder = family.save(tmp_path, **family.sizes[1])
    clips = clips_for(load(folder), 3)
    model = family.eager(folder)
    logits, _ = eager_reference(family, model, clips)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith(("qkv.weight", "k_proj.weight", "key.weight")):
                parameter[: 2 * model.config.hidden_size].mul_(0.9)
    others, _ = eager_reference(family, model, clips)
    assert (others - logits).abs().max() > 1e-3


@EACH
def test_attributions_are_distributions(name, tmp_path):
    family = FAMILIES[name]
    adapter = load(family.save(tmp_path, **family.sizes[1]))
    joint = explanation_of(adapter, clips_for(adapter, 3)).joint[:, -1]
    spatial, temporal = spatial_temporal(joint)
    assert (joint >= 0).all()
    np.testing.assert_allclose(joint.sum(dim=(1, 2)), 1, atol=1e-5)
    np.testing.assert_allclose(spatial.sum(dim=2), 1, atol=1e-5)
    np.testing.assert_allclose(temporal.sum(dim=1), 1, atol=1e-5)


PUBLISHED = [
    ("vivit", {}, Sampling("strided", 32, stride=2, target_fps=25.0), (16, 14, 14)),
    ("vivit", {"num_frames": 16}, Sampling("uniform", 16), (8, 14, 14)),
    ("videomae", {}, Sampling("strided", 16, stride=4), (8, 14, 14)),
    ("videomae", {"num_labels": 174}, Sampling("uniform", 16), (8, 14, 14)),
    ("videomae", {"num_frames": 8, "patch_size": (32, 32)}, Sampling("uniform", 8), (4, 7, 7)),
    ("vjepa2", {}, Sampling("strided", 64, stride=2, target_fps=12.0), (32, 16, 16)),
    (
        "vjepa2",
        {"frames_per_clip": 16},
        Sampling("strided", 16, stride=4, target_fps=12.0),
        (8, 16, 16),
    ),
    (
        "vjepa2",
        {"frames_per_clip": 32, "crop_size": 384},
        Sampling("strided", 32, stride=2),
        (16, 24, 24),
    ),
    ("vjepa2", {"frames_per_clip": 10}, Sampling("uniform", 10), (5, 16, 16)),
    ("videoprism", {}, Sampling("uniform", 16), (16, 16, 16)),
    ("videoprism", {"num_frames": 8}, Sampling("uniform", 8), (8, 16, 16)),
]
"""Family, what differs from the config's defaults, how frames are chosen, and the grid."""


@pytest.mark.parametrize(("name", "config", "sampling", "grid"), PUBLISHED)
def test_facts_of_the_published_checkpoints(name, config, sampling, grid):
    adapter = ADAPTERS[FAMILIES[name].model_class.config_class.model_type]
    config = adapter.model_class.config_class(**config)
    assert adapter.published_sampling(config) == sampling
    geometry = adapter.geometry(config)
    assert (geometry.n_times, geometry.height, geometry.width) == grid
    assert geometry.n_frames == sampling.n_samples


@EACH
def test_facts_of_a_checkpoint(name, tmp_path):
    family = FAMILIES[name]
    checkpoint = read_checkpoint(str(family.save(tmp_path, **family.sizes[1])))
    assert checkpoint.family == family.model_class.config_class.model_type
    assert checkpoint.class_names == CLASS_NAMES
    preprocessing, geometry = checkpoint.preprocessing, checkpoint.geometry
    assert preprocessing.output_size(120, 160) == geometry.input_size
    assert checkpoint.sampling.n_samples == geometry.n_frames


@EACH
def test_another_layer_is_read_where_there_is_one(name, tmp_path):
    family = FAMILIES[name]
    folder = family.save(tmp_path, **family.sizes[1])
    n_layers, adapter = read_checkpoint(str(folder)).n_layers, load(folder)
    clips = clips_for(adapter, 1)
    last = explanation_of(adapter, clips).joint[:, -1]
    assert torch.equal(explanation_of(adapter, clips, layers=n_layers - 1).joint[:, -1], last)
    if n_layers > 1:
        assert not torch.allclose(
            explanation_of(adapter, clips, layers=0).joint[:, -1], last, atol=1e-4
        )


@EACH
def test_every_layer_and_head_equals_the_eager_models(name, tmp_path):
    """Each layer's whole softmax, of the untouched model, through the naive readout, by head."""
    family = FAMILIES[name]
    folder = family.save(tmp_path, **family.sizes[1])
    checkpoint, adapter, eager = read_checkpoint(str(folder)), load(folder), family.eager(folder)
    clips = clips_for(adapter, 3)
    paths = {module: path for path, module in adapter.model.named_modules()}
    explanation = explanation_of(adapter, clips, layers="all", heads="keep")
    assert explanation.head_joint.shape[:3] == (3, checkpoint.n_layers, checkpoint.n_heads)
    for layer in range(checkpoint.n_layers):
        ((module, _),) = adapter.readout(layer).values()
        path = paths[module]
        there = replace(family, readout=lambda model, path=path: model.get_submodule(path))
        _, matrix = eager_reference(there, eager, clips)
        matrix = matrix.double().numpy()
        naive = family.naive(matrix, adapter.grid.n_times)
        np.testing.assert_allclose(explanation.joint[:, layer], naive, atol=1e-5)
        for head in range(checkpoint.n_heads):
            alone = family.naive(matrix[:, head : head + 1], adapter.grid.n_times)
            np.testing.assert_allclose(explanation.head_joint[:, layer, head], alone, atol=1e-5)
    assert len(np.unique(explanation.head_joint.flatten(1, 2)[0], axis=0)) == (
        checkpoint.n_layers * checkpoint.n_heads
    )


@EACH
def test_heads_that_are_averaged_are_not_kept(name, tmp_path):
    """And the mean is the same to the bit as that of heads that are."""
    adapter = load(FAMILIES[name].save(tmp_path, **FAMILIES[name].sizes[1]))
    n_heads = adapter.n_heads(adapter.model.config)
    clips = clips_for(adapter, 2)
    layers = range(adapter.n_layers(adapter.model.config))
    modules = [module for i in layers for module, _ in adapter.readout(i).values()]
    shapes = []

    def look(*_):
        shapes.append([attention._TAPS[module].kept.shape for module in modules])

    adapter.model.register_forward_hook(look)
    kept = explanation_of(adapter, clips, layers="all", heads="keep")
    averaged = explanation_of(adapter, clips, layers="all")
    for of_each, of_all in zip(*shapes, strict=True):
        assert of_each[1] == n_heads > 1 == of_all[1]
        assert (of_each[0], *of_each[2:]) == (of_all[0], *of_all[2:])
    assert averaged.head_joint is None
    assert torch.equal(averaged.joint, kept.joint)


@EACH
def test_chosen_layers_are_those_of_all(name, tmp_path):
    family = FAMILIES[name]
    adapter = load(family.save(tmp_path, **family.sizes[1]))
    n_layers = adapter.n_layers(adapter.model.config)
    clips = clips_for(adapter, 2)
    every = explanation_of(adapter, clips, layers="all").joint
    some = explanation_of(adapter, clips, layers=(-1, 0)).joint
    assert torch.equal(some, every[:, [0, -1]] if n_layers > 1 else every)


@EACH
def test_a_run_goes_from_clips_to_columns(name, tmp_path, one_thread):
    model = FAMILIES[name].save(tmp_path / "other")
    inputs = replace(write_inputs(tmp_path, 3), model=str(model))
    plan = prepared(inputs.config(tmp_path / "run"))
    columns = plain_columns(plan)
    geometry = plan.checkpoint.geometry
    assert (columns["status"] == Status.OK).all()
    assert columns["frame_index"].shape == (3, geometry.n_frames)
    assert columns["spatial"].shape == (3, geometry.n_times, geometry.height, geometry.width)
    np.testing.assert_allclose(columns["temporal"].sum(axis=1), 1, atol=1e-5)
    assert ((columns["prediction"] >= 0) & (columns["prediction"] < len(CLASS_NAMES))).all()


@EACH
def test_a_layer_that_is_not_read_is_refused_before_anything_is_made(name, tmp_path):
    model = FAMILIES[name].save(tmp_path / "other")
    inputs = replace(write_inputs(tmp_path, 1), model=str(model))
    n_layers = read_checkpoint(inputs.model).n_layers
    for layer in (n_layers, -n_layers - 1):
        config = inputs.config(tmp_path / "run", method=Method(name="staa-paper", layers=layer))
        with pytest.raises(ConfigError, match=rf"method\.layers: {layer} is not in .*layer"):
            prepared(config)
    assert not (tmp_path / "run").exists()


@EACH
def test_a_residual_without_temporal_attention_is_refused(name, tmp_path):
    model = FAMILIES[name].save(tmp_path / "other")
    inputs = replace(write_inputs(tmp_path, 1), model=str(model))
    config = inputs.config(tmp_path / "run", method=Method(name="staa-paper", residual=True))
    with pytest.raises(ConfigError, match=r"method\.residual: .*no temporal"):
        prepared(config)


MIXING = ("o_proj", "out_proj", "attention.proj", "attention.output.dense", "temporal_dense")
"""Output projections of attention: without them no token learns of another."""


@EACH
def test_each_share_is_of_the_place_that_it_says(name, tmp_path):
    """What changes with a patch's pixels, in a model that mixes no tokens, is that patch's share.

    An order of tokens that is taken for another would pass every comparison with the formula. The
    shares of one head are proportional to exp(score): those of other patches keep their ratios.
    """
    family = FAMILIES[name]
    size = {key: value for key, value in family.sizes[1].items() if key != "qv_bias"}
    size["num_attention_heads"] = 1
    adapter = load(family.save(tmp_path, **size))
    zeroed = MIXING + (("query.weight",) if family.read is mean_row else ())
    with torch.no_grad():
        for parameter_name, parameter in adapter.model.named_parameters():
            if any(part in parameter_name for part in zeroed):
                parameter.zero_()
    clips = clips_for(adapter, 1)
    geometry = adapter.geometry(adapter.model.config)
    before = explanation_of(adapter, clips).joint[:, -1]
    size = geometry.patch_size
    for time, row, column in [(0, 1, 2), (2, 0, 1), (1, 2, 0), (geometry.n_times - 1, 2, 2)]:
        changed = clips.clone()
        frame = time * geometry.frames_per_time
        top, left = row * size, column * size
        changed[0, frame, :, top : top + size, left : left + size] *= -1
        ratios = (explanation_of(adapter, changed).joint[:, -1] / before)[0].log()
        others = ratios.median() if name != "timesformer space" else ratios[time].median()
        of_frame = (ratios[time] - others).abs()
        expected = row * geometry.width + column
        assert int(of_frame.argmax()) == expected
        assert of_frame[expected] > 0.01
        of_frame[expected] = 0
        assert of_frame.max() < 1e-3


@EACH
def test_no_matrix_over_all_tokens_is_formed(name, tmp_path):
    family = FAMILIES[name]
    adapter = load(family.save(tmp_path, **family.many_tokens))
    eager = family.eager(tmp_path)
    clips = clips_for(adapter, 1)
    matrix = eager_reference(family, eager, clips)[1]
    n_tokens = matrix.shape[-1]
    if name == "videoprism":  # Its pooler has one query, and its encoders attend within a frame.
        geometry = adapter.geometry(adapter.model.config)
        n_tokens = geometry.height * geometry.width
    assert n_tokens >= 192
    with torch.inference_mode(), SquareMatrices(n_tokens) as by_eager:
        eager(**{family.input_name: clips})
    with SquareMatrices(n_tokens) as by_adapter:
        explanation_of(adapter, clips)
    assert by_eager.count > 0
    assert by_adapter.count == 0


def bfloat16_model(adapter):
    adapter.model.to(torch.bfloat16)
    return torch.autocast("cpu", enabled=False)


def bfloat16_autocast(adapter):
    return torch.autocast("cpu", dtype=torch.bfloat16)


def float16_autocast(adapter):
    return torch.autocast("cpu", dtype=torch.float16)


IN_HALF = pytest.mark.parametrize(
    "precision", [bfloat16_model, bfloat16_autocast, float16_autocast]
)
"""Runs are of the latter two: their weights stay in float32."""


@pytest.mark.parametrize("name", WITH_ATTENTION_FUNCTION)
@IN_HALF
def test_in_half_precision_rows_are_the_float32_softmax_of_the_models_query_and_key(
    name, precision, tmp_path
):
    """The reference is transformers' eager function on the q and k that the model made.

    The eager model in float32 would be none: after a layer its activations differ by more than the
    rows may.
    """
    family = FAMILIES[name]
    adapter = load(family.save(tmp_path, **family.sizes[1]))
    context = precision(adapter)
    readout = family.readout(adapter.model)
    given = []

    def record(module, query, key, value, attention_mask, **kwargs):
        if module is readout:
            given.append((query, key, value, kwargs))
        return attention.attend(module, query, key, value, attention_mask, **kwargs)

    half = torch.float16 if precision is float16_autocast else torch.bfloat16
    clips = clips_for(adapter, 3).to(half)
    ALL_ATTENTION_FUNCTIONS["recorded"] = record
    try:
        adapter.model.set_attn_implementation("recorded")
        with torch.no_grad(), context, capture(wanted(family, adapter)) as rows:
            adapter.model(**{family.input_name: clips})
    finally:
        del ALL_ATTENTION_FUNCTIONS["recorded"]
    (query, key, value, kwargs), *_ = given
    # Under autocast VideoPrism's pooler scales its query in float32.
    assert key.dtype is half
    eager = import_module(type(readout).__module__).eager_attention_forward
    _, matrix = eager(readout, query.float(), key.float(), value.float(), None, **kwargs)
    expected = rows_of(matrix, family.read)
    assert rows["readout"].dtype is torch.float32
    torch.testing.assert_close(rows["readout"], expected, atol=1e-5, rtol=0)


@EACH
@IN_HALF
def test_in_half_precision_the_attribution_stays_near_the_float32_models(name, precision, tmp_path):
    family = FAMILIES[name]
    folder = family.save(tmp_path, **family.sizes[0])
    single, adapter = load(folder), load(folder)
    context = precision(adapter)
    half = torch.float16 if precision is float16_autocast else torch.bfloat16
    clips = clips_for(single, 3)
    with context:
        joint = explanation_of(adapter, clips.to(half)).joint[:, -1]
    assert joint.dtype is torch.float32
    exact = explanation_of(single, clips).joint[:, -1]
    np.testing.assert_allclose(joint.sum(dim=(1, 2)), 1, atol=2e-3)
    np.testing.assert_allclose(joint, exact, atol=0.03)
    # Guard: the model did run in half precision.
    assert not torch.equal(joint, exact)


def can_compile():
    try:
        check_compiler("cpu")
    except ConfigError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(), reason="torch.compile needs a C++ compiler and Python.h")
# A minute each, and more on a busy machine: other ones on other days.
@pytest.mark.parametrize("name", Random(seed_of_the_day()).sample(sorted(FAMILIES), 3))
def test_a_compiled_model_is_captured_as_well(name, tmp_path):
    """For each batch anew, and for another method than the one that it was compiled with."""
    family = FAMILIES[name]
    folder = family.save(tmp_path)
    plain, compiled = load(folder), load(folder)
    torch.compiler.reset()
    compiled.model.compile()
    other = of_the_day(name, {"name": "rollout"}, {"name": "evidence"}, {"name": "contribution"})
    for seed in (1, 2):
        clips = clips_for(plain, 2, seed)
        for method in ({}, other):
            expected, explanation = (explanation_of(a, clips, **method) for a in (plain, compiled))
            torch.testing.assert_close(explanation.joint, expected.joint, atol=1e-5, rtol=0)
            torch.testing.assert_close(explanation.logits, expected.logits, atol=1e-4, rtol=0)
    assert len(attention._TAPS) == 0


@pytest.mark.parametrize("name", ["videomae", "videoprism"])
@IN_HALF
def test_what_is_computed_in_pieces_is_one_node_of_a_compiled_graph(name, precision, tmp_path):
    """However many clips there are; and the same to the bit as it is outside of a graph."""
    # A clip's attention takes several pieces.
    adapter = load(FAMILIES[name].save(tmp_path, **FAMILIES[name].many_tokens))
    half = torch.float16 if precision is float16_autocast else torch.bfloat16
    context = precision(adapter)
    compiled = deepcopy(adapter)
    n_nodes = []

    def counted(graph, inputs):
        n_nodes.append(len(graph.graph.nodes))
        return graph

    compiled.model.compile(backend=counted)
    for n_clips in (1, 2):
        torch.compiler.reset()
        clips = clips_for(adapter, n_clips).to(half)
        with context:
            expected, explanation = (explanation_of(a, clips) for a in (adapter, compiled))
        assert torch.equal(explanation.joint, expected.joint)
        assert torch.equal(explanation.logits, expected.logits)
    of_one, of_two = n_nodes
    assert of_one == of_two


@pytest.mark.parametrize("name", ["videomae", "videoprism"])
def test_a_compiled_models_gradients_go_through_the_pieces(name, tmp_path):
    plain = load(FAMILIES[name].save(tmp_path))
    compiled = deepcopy(plain)
    torch.compiler.reset()
    compiled.model.compile(backend="aot_eager")
    gradients = []
    for adapter in (plain, compiled):
        clips = clips_for(adapter, 2).requires_grad_()
        explanation = explain(adapter, clips, Method(name="staa-paper"))
        (explanation.logits[:, 1].sum() + explanation.joint[:, 0, 0, 0].sum()).backward()
        gradients.append(clips.grad)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)
    assert gradients[0].abs().max() > 1e-3


@pytest.mark.slow
@EACH
def test_a_compiled_model_is_not_compiled_again_for_batches_of_one_shape(name, tmp_path):
    method = of_the_day(name, {}, ALL_LAYERS, {"name": "rollout"}, {"name": "evidence"})
    adapter = load(FAMILIES[name].save(tmp_path))
    torch.compiler.reset()
    adapter.model.compile(backend="eager")
    explanation_of(adapter, clips_for(adapter, 2), **method)
    with torch.compiler.set_stance("fail_on_recompile"):
        for seed in (2, 3):
            explanation_of(adapter, clips_for(adapter, 2, seed), **method)


@EACH
def test_two_models_in_one_process_do_not_disturb_each_other(name, tmp_path):
    family = FAMILIES[name]
    folders = [family.save(tmp_path / str(seed), seed=seed) for seed in (3, 4)]
    first, second = load(folders[0]), load(folders[1])
    untouched = family.model_class.from_pretrained(folders[0]).eval()
    clips = clips_for(first, 3)
    alone = [explanation_of(adapter, clips) for adapter in (first, second)]
    before = eager_reference(family, family.eager(folders[0]), clips)
    with torch.no_grad():
        logits_before = untouched(**{family.input_name: clips}).logits
    with torch.inference_mode(), capture(wanted(family, first)) as rows:
        first.model(**{family.input_name: clips})
        captured = rows["readout"].clone()
        within = explanation_of(second, clips)
        logits_during = untouched(**{family.input_name: clips}).logits
        assert torch.equal(rows["readout"], captured)
    torch.testing.assert_close(within.joint[:, -1], alone[1].joint[:, -1], atol=0, rtol=0)
    torch.testing.assert_close(logits_during, logits_before, atol=0, rtol=0)
    assert not torch.equal(alone[0].joint[:, -1], alone[1].joint[:, -1])
    torch.testing.assert_close(
        explanation_of(first, clips).joint[:, -1], alone[0].joint[:, -1], atol=0, rtol=0
    )
    after = eager_reference(family, family.eager(folders[0]), clips)
    torch.testing.assert_close(after, before, atol=0, rtol=0)


def state_of(model):
    """What a tap or a hook would show in, of every module."""
    return [
        (type(module), type(module).forward, sorted(vars(module)), *map(len, hooks_of(module)))
        for module in model.modules()
    ]


def hooks_of(module):
    return module._forward_hooks, module._forward_pre_hooks, module._backward_hooks


class InterruptedRunError(Exception):
    pass


@EACH
@pytest.mark.parametrize("raised", [None, InterruptedRunError])
def test_nothing_is_left_behind(name, raised, tmp_path):
    family = FAMILIES[name]
    folder = family.save(tmp_path)
    classes = {type(module): type(module).forward for module in family.eager(folder).modules()}
    adapter = load(folder)
    sdpa, before = ALL_ATTENTION_FUNCTIONS["sdpa"], state_of(adapter.model)
    clips = clips_for(adapter, 1)
    try:
        with torch.no_grad(), capture(wanted(family, adapter)) as rows:
            adapter.model(**{family.input_name: clips})
            kept = rows["readout"].clone()
            if raised:
                raise raised
    except InterruptedRunError:
        pass
    explanation_of(adapter, clips)
    assert len(attention._TAPS) == 0
    assert state_of(adapter.model) == before
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa
    assert all(kind.forward is forward for kind, forward in classes.items())
    with torch.no_grad():
        adapter.model(**{family.input_name: clips + 1})
    assert torch.equal(rows["readout"], kept)

    gone = [weakref.ref(adapter.model), weakref.ref(family.readout(adapter.model))]
    del adapter, rows
    gc.collect()
    assert all(reference() is None for reference in gone)


@pytest.fixture
def others_left_aside():
    """Leave out what there is from `live_tensors`: a process of tests holds millions of objects."""

    def leave_aside():
        gc.collect()
        gc.freeze()

    yield leave_aside
    gc.unfreeze()


def live_tensors():
    """How many tensors there are, and of how many bytes."""
    gc.collect()
    # By type: isinstance asks objects for their class, which wakes lazy ones.
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    return len(tensors), sum(tensor.nbytes for tensor in tensors)


@ONE_AND_THE_OTHERS_SLOW
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(None, marks=pytest.mark.slow, id="of the day"),
        {"name": "evidence", "change_weighted": True, "frame_importance": "gradient"},
        {"name": "libragrad", "target": "top2"},
    ],
)
def test_explaining_over_and_over_and_then_another_model_keeps_nothing(
    name, method, tmp_path, others_left_aside
):
    method = method or of_the_day(name, ALL_LAYERS, {"name": "rollout"}, {"name": "contribution"})
    family = FAMILIES[name]
    folders = [family.save(tmp_path / str(seed), seed=seed) for seed in (3, 4)]

    def explained(folder):
        """What lives after one batch and after more; the model goes with the call."""
        adapter = load(folder)
        clips, state = clips_for(adapter, 2), state_of(adapter.model)
        explanation_of(adapter, clips, **method)
        once = live_tensors()
        for _ in range(10):
            explanation_of(adapter, clips, **method)
        assert state_of(adapter.model) == state
        return once, live_tensors()

    functions = {name: ALL_ATTENTION_FUNCTIONS[name] for name in ALL_ATTENTION_FUNCTIONS}
    classes = {type(module): type(module).forward for module in load(folders[0]).model.modules()}
    # Libraries keep what they make once in a process, and tests before may leave some to be freed.
    others_left_aside()
    explained(folders[0])
    others_left_aside()
    before = live_tensors()
    first = explained(folders[0])
    assert live_tensors() == before
    second = explained(folders[1])
    assert live_tensors() == before
    assert first == ((first[0]),) * 2 == second
    assert first[0] > before
    assert len(attention._TAPS) == 0
    assert {name: ALL_ATTENTION_FUNCTIONS[name] for name in ALL_ATTENTION_FUNCTIONS} == functions
    assert all(kind.forward is forward for kind, forward in classes.items())


@EACH
def test_a_saved_adapted_model_is_transformers_own_when_it_is_loaded(name, tmp_path):
    family = FAMILIES[name]
    adapter = load(family.save(tmp_path / "saved"))
    adapter.model.save_pretrained(tmp_path / "again")
    assert ATTENTION not in (tmp_path / "again" / "config.json").read_text().split('"')
    clips = clips_for(adapter, 1)
    expected = eager_reference(family, family.eager(tmp_path / "saved"), clips)
    again = eager_reference(family, family.eager(tmp_path / "again"), clips)
    torch.testing.assert_close(again, expected, atol=0, rtol=0)


@EACH
def test_a_copy_of_a_model_is_a_model_of_its_own(name, tmp_path):
    family = FAMILIES[name]
    adapter = load(family.save(tmp_path))
    copy = deepcopy(adapter)
    clips = clips_for(adapter, 1)
    with torch.no_grad(), capture(wanted(family, adapter)) as rows:
        copy.model(**{family.input_name: clips})
        with pytest.raises(LookupError, match="captured nothing"):
            rows["readout"]
