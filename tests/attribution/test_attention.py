"""SDPA with captured rows against transformers' own eager TimeSformer, which is never touched."""

from contextlib import ExitStack, contextmanager
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TimesformerForVideoClassification
from transformers.models.timesformer.modeling_timesformer import TimesformerSelfAttention

from pipeline.attribution import attention
from pipeline.attribution.attention import (
    Scores,
    all_rows,
    attend,
    capture,
    first_row,
    heads_averaged,
)
from pipeline.models.timesformer import Timesformer
from tests.support.checkpoints import make_timesformer

SIZES = [
    pytest.param({"num_hidden_layers": 1, "num_attention_heads": 2}, 1, id="1-layer"),
    pytest.param({"num_hidden_layers": 4, "num_attention_heads": 4}, 3, id="4-layers-odd-batch"),
    pytest.param({"num_frames": 8, "image_size": 24}, 2, id="8-frames-9-patches"),
    pytest.param({"image_size": 20, "patch_size": 4}, 5, id="25-patches-of-4"),
    pytest.param({"hidden_size": 36, "num_attention_heads": 3}, 3, id="3-heads"),
    pytest.param({"qkv_bias": False}, 2, id="no-bias"),
    pytest.param({"num_frames": 1, "image_size": 8}, 2, id="1-frame-1-patch"),
]


def pixels(model, n_clips, seed=1):
    config = model.config
    shape = (n_clips, config.num_frames, 3, config.image_size, config.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@contextmanager
def inputs_of_temporal_attention(model):
    """Record what each layer's eager temporal attention is given, and change nothing."""
    recorded = {}
    with ExitStack() as hooks:
        for index, layer in enumerate(model.timesformer.encoder.layer):

            def record(module, args, output, index=index):
                recorded[index] = (module, args[0])

            handle = layer.temporal_attention.attention.register_forward_hook(record)
            hooks.callback(handle.remove)
        yield recorded


@torch.no_grad()
def eager_reference(model, pixel_values):
    """Logits, and per layer the whole spatial and temporal softmax, by transformers' own code.

    ``output_attentions`` returns the spatial one alone; for the temporal one, the model's own
    module is called again on what it was given.
    """
    with inputs_of_temporal_attention(model) as recorded:
        output = model(pixel_values=pixel_values, output_attentions=True)
    temporal = [
        module(hidden_states, output_attentions=True)[1]
        for module, hidden_states in (recorded[index] for index in sorted(recorded))
    ]
    return output.logits, output.attentions, temporal


def every_row(adapter):
    """What a capture of all layers wants: spatial CLS rows and temporal matrices."""
    wanted = {}
    for index, layer in enumerate(adapter.model.timesformer.encoder.layer):
        wanted[f"spatial {index}"] = (layer.attention.attention, first_row)
        wanted[f"temporal {index}"] = (layer.temporal_attention.attention, all_rows)
    return wanted


@pytest.mark.parametrize(("config", "n_clips"), SIZES)
def test_rows_and_logits_equal_the_eager_models(config, n_clips):
    eager = make_timesformer(**config)
    adapter = Timesformer(deepcopy(eager))
    clips = pixels(eager, n_clips)
    logits, spatial, temporal = eager_reference(eager, clips)

    with torch.no_grad(), capture(every_row(adapter)) as rows:
        sdpa_logits = adapter.model(pixel_values=clips).logits

    torch.testing.assert_close(sdpa_logits, logits, atol=1e-4, rtol=0)
    assert len(spatial) == len(temporal) == eager.config.num_hidden_layers
    for index in range(eager.config.num_hidden_layers):
        of_cls = spatial[index][:, :, :1]
        torch.testing.assert_close(rows[f"spatial {index}"], of_cls, atol=1e-5, rtol=0)
        torch.testing.assert_close(rows[f"temporal {index}"], temporal[index], atol=1e-5, rtol=0)


def test_the_reference_attends_unevenly():
    """Guard of the tests above: uniform rows would equal each other whatever is captured."""
    eager = make_timesformer(num_frames=8, image_size=24, num_hidden_layers=3)
    _, spatial, temporal = eager_reference(eager, pixels(eager, 2))
    for softmax in (*(matrix[:, :, :1] for matrix in spatial), *temporal):
        assert softmax.std(dim=-1).mean() > 0.3 / softmax.shape[-1]
        assert softmax.std(dim=0).max() > 0.01


@pytest.mark.parametrize("queries", [slice(0, 1), slice(1, None), slice(2, 4), slice(-1, None)])
def test_any_slice_of_queries_is_the_same_slice_of_the_softmax(queries):
    eager = make_timesformer()
    clips = pixels(eager, 2)
    _, spatial, _ = eager_reference(eager, clips)
    adapter = Timesformer(deepcopy(eager))
    module = adapter.model.timesformer.encoder.layer[1].attention.attention
    with torch.no_grad(), capture({"rows": (module, lambda scores: scores.rows(queries))}) as rows:
        adapter.model(pixel_values=clips)
    torch.testing.assert_close(rows["rows"], spatial[1][:, :, queries], atol=1e-5, rtol=0)


def bfloat16_model(adapter):
    adapter.model.to(torch.bfloat16)
    return torch.autocast("cpu", enabled=False)


def bfloat16_autocast(adapter):
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("precision", [bfloat16_model, bfloat16_autocast])
def test_in_bfloat16_the_softmax_is_float32_of_the_models_own_query_and_key(precision):
    """The reference is NumPy in float64 on the q and k that the model itself made in bfloat16.

    The eager model in float32 would be none: by the second layer its activations differ by more
    than the rows may. From the same q and k, nothing but the softmax is left to differ, so that
    rows made in bfloat16, which are 2e-3 off, fail.
    """
    adapter = Timesformer(make_timesformer(num_frames=8, image_size=24))
    context = precision(adapter)
    clips = pixels(adapter.model, 3).to(adapter.model.dtype)
    module = adapter.model.timesformer.encoder.layer[1].attention.attention
    projected = []
    module.qkv.register_forward_hook(lambda _, args, output: projected.append(output))
    with torch.no_grad(), context, capture({"rows": (module, first_row)}) as rows:
        adapter.model(pixel_values=clips)

    assert projected[0].dtype is torch.bfloat16
    n_frames, n_tokens = 24, 10
    qkv = projected[0].double().numpy().reshape(n_frames, n_tokens, 3, 2, 16)
    query, key = qkv[:, 0, 0], qkv[:, :, 1]
    scores = torch.from_numpy((query[:, None] * key).sum(-1) / 16**0.5)
    expected = scores.transpose(1, 2).softmax(dim=-1)[:, :, None].float()
    assert rows["rows"].dtype is torch.float32
    torch.testing.assert_close(rows["rows"], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(rows["rows"].sum(-1), torch.ones(24, 2, 1), atol=1e-6, rtol=0)


def test_rows_of_large_scores_stay_finite_in_half_precision():
    query = torch.full((1, 1, 1, 64), 200.0, dtype=torch.float16)
    key = torch.stack([torch.full((64,), 200.0), torch.full((64,), -200.0)]).half()[None, None]
    rows = first_row(Scores(query, key, scale=1.0))
    torch.testing.assert_close(rows, torch.tensor([[[[1.0, 0.0]]]]))


def test_another_model_and_the_class_of_transformers_are_undisturbed():
    forward = TimesformerSelfAttention.forward
    other = make_timesformer(seed=3)
    clips = pixels(other, 2)
    before = eager_reference(other, clips)
    adapter = Timesformer(make_timesformer(seed=4))
    with torch.no_grad(), capture(every_row(adapter)) as rows:
        adapter.model(pixel_values=clips)
        captured = rows["spatial 0"].clone()
        during = eager_reference(other, clips)
        assert torch.equal(rows["spatial 0"], captured)
    after = eager_reference(other, clips)
    for run in (during, after):
        torch.testing.assert_close(run, before, atol=0, rtol=0)
    assert TimesformerSelfAttention.forward is forward
    untouched = make_timesformer().timesformer.encoder.layer[0].attention.attention
    assert type(untouched) is TimesformerSelfAttention


def test_the_adapter_keeps_state_dict_and_parameters():
    model = make_timesformer()
    keys, parameters = list(model.state_dict()), list(model.parameters())
    Timesformer(model)
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


def test_a_saved_adapted_model_is_the_eager_one_when_it_is_loaded(tmp_path):
    eager = make_timesformer()
    clips = pixels(eager, 1)
    Timesformer(deepcopy(eager)).model.save_pretrained(tmp_path)
    loaded = TimesformerForVideoClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        # Where weights lie in memory decides how products are summed, and so the last bits.
        torch.testing.assert_close(loaded(clips).logits, eager(clips).logits, rtol=1e-6, atol=1e-6)


def test_gradients_equal_the_eager_models():
    eager = make_timesformer()
    adapter = Timesformer(deepcopy(eager))
    of_pixels = []
    for model in (eager, adapter.model):
        clips = pixels(eager, 2).requires_grad_()
        model(pixel_values=clips).logits[:, 1].sum().backward()
        of_pixels.append(clips.grad)
    torch.testing.assert_close(of_pixels[1], of_pixels[0], atol=1e-4, rtol=1e-3)
    assert of_pixels[0].abs().max() > 1e-3


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operations_of_our_own_are_as_torch_would_have_them(softcap, dtype):
    """Schema, and shapes, strides and dtypes that are told to torch.compile beforehand."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 5, 3, 8, generator=generator).to(dtype).transpose(1, 2)
    key, value = torch.randn(2, 2, 3, 7, 8, generator=generator).to(dtype)
    weights = torch.rand(2, 5, generator=generator)
    for operation, given in ((attention._weighted_row, weights), (attention._context, value)):
        torch.library.opcheck(operation, (query, key, given, 0.5, softcap))


class SdpaItems(TorchDispatchMode):
    """Notes how many items of a batch each kernel of SDPA is given."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "scaled_dot_product" in function.__name__:
            self.sizes.append(len(args[0]))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("at_once", "sizes"), [(7, [7, 7, 4]), (18, [18]), (65_535, [18])])
def test_a_batch_of_more_items_than_a_kernel_takes_is_split(at_once, sizes):
    given = torch.randn(3, 18, 2, 5, 8, generator=torch.Generator().manual_seed(3))
    module = torch.nn.Module()
    whole, _ = attend(module, *given, None, scaling=0.5)
    with torch.no_grad(), capture({"rows": (module, all_rows)}) as rows, SdpaItems() as noted:
        context, _ = attend(module, *given, None, scaling=0.5, items_at_once=at_once)
    assert noted.sizes == sizes
    torch.testing.assert_close(context, whole, atol=1e-6, rtol=0)
    # What is read is of all items.
    query, key, _ = given
    expected = (query @ key.transpose(2, 3) / 2).softmax(-1)
    torch.testing.assert_close(rows["rows"], expected, atol=1e-6, rtol=0)


def test_heads_are_averaged_where_rows_are_read():
    query, key = torch.randn(2, 2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    scores = Scores(query, key, scale=0.5)
    for read in (first_row, all_rows):
        rows = heads_averaged(read)(scores)
        expected = read(scores).double().numpy().mean(axis=1, keepdims=True)
        np.testing.assert_allclose(rows, expected, atol=1e-6)
        assert heads_averaged(read) is heads_averaged(read)


class InterruptedRunError(Exception):
    pass


@pytest.mark.parametrize("raised", [None, InterruptedRunError])
def test_after_the_context_nothing_is_captured_any_more(raised):
    adapter = Timesformer(make_timesformer())
    clips = pixels(adapter.model, 1)
    try:
        with torch.no_grad(), capture(every_row(adapter)) as rows:
            adapter.model(pixel_values=clips)
            kept = rows["temporal 1"].clone()
            if raised:
                raise raised
    except InterruptedRunError:
        pass
    with torch.no_grad():
        adapter.model(pixel_values=clips + 1)
    assert torch.equal(rows["temporal 1"], kept)
    with torch.no_grad(), capture(every_row(adapter)) as again:
        adapter.model(pixel_values=clips)
    assert torch.equal(again["temporal 1"], kept)


def test_the_last_forward_pass_is_the_one_that_is_kept():
    adapter = Timesformer(make_timesformer())
    first, second = pixels(adapter.model, 1, seed=1), pixels(adapter.model, 3, seed=2)
    with torch.no_grad(), capture(every_row(adapter)) as rows:
        adapter.model(pixel_values=first)
        adapter.model(pixel_values=second)
    assert rows["spatial 0"].shape[0] == 3 * adapter.model.config.num_frames


def test_a_second_capture_of_one_module_is_refused_and_the_first_goes_on():
    adapter = Timesformer(make_timesformer())
    wanted = every_row(adapter)
    with torch.no_grad(), capture(wanted) as rows:
        with (
            pytest.raises(RuntimeError, match="'mine' is already being captured"),
            capture({"mine": wanted["spatial 1"]}),
        ):
            pass
        adapter.model(pixel_values=pixels(adapter.model, 1))
    assert rows["spatial 1"].shape == (3, 2, 1, 5)


def test_a_refused_capture_leaves_no_tap_behind():
    adapter = Timesformer(make_timesformer())
    wanted = every_row(adapter)
    free, taken = wanted["spatial 0"], wanted["spatial 1"]
    with (
        capture({"taken": taken}),
        pytest.raises(RuntimeError, match="'taken'"),
        capture({"free": free, "taken": taken}),
    ):
        pass
    with capture({"free": free}):
        pass


def test_rows_before_a_forward_pass_are_refused_by_name():
    adapter = Timesformer(make_timesformer())
    with capture(every_row(adapter)) as rows:
        with pytest.raises(LookupError, match="'spatial 1' has captured nothing"):
            rows["spatial 1"]
        with pytest.raises(LookupError, match="unheard-of"):
            rows["unheard-of"]


def test_output_attentions_is_refused_with_what_to_use_instead():
    adapter = Timesformer(make_timesformer())
    with pytest.raises(ValueError, match="`capture`"):
        adapter.model(pixel_values=pixels(adapter.model, 1), output_attentions=True)


class SquareMatrices(TorchDispatchMode):
    """Counts the tensors of (..., n_tokens, n_tokens) that any operation returns."""

    def __init__(self, n_tokens):
        super().__init__()
        self.n_tokens, self.count = n_tokens, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        output = operation(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else [output]:
            shape = getattr(tensor, "shape", ())
            self.count += tuple(shape[-2:]) == (self.n_tokens, self.n_tokens)
        return output


def test_the_spatial_attention_matrix_is_never_formed():
    eager = make_timesformer(image_size=32, patch_size=4)
    clips = pixels(eager, 1)
    adapter = Timesformer(deepcopy(eager))
    with torch.no_grad(), SquareMatrices(n_tokens=65) as by_eager:
        eager(pixel_values=clips)
    with torch.no_grad(), capture(every_row(adapter)), SquareMatrices(65) as by_sdpa:
        adapter.model(pixel_values=clips)
    assert by_eager.count > 0
    assert by_sdpa.count == 0
