"""The model's stage: it says what transformers' own model says, and no clip touches another."""

import gc
import json
import os
import subprocess
import sys
import sysconfig
import warnings
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    TimesformerForVideoClassification,
    VideoMAEImageProcessorPil,
)

from pipeline.attribution.method import Method
from pipeline.errors import ConfigError
from pipeline.models.attributor import Attributor
from pipeline.models.checkpoint import load_adapter, read_checkpoint
from pipeline.models.explain import explain
from pipeline.status import Status
from pipeline.store.schema import StoreLayout
from tests.support.checkpoints import CLASS_NAMES, save_timesformer

N_CLIPS, N_RANKS = 4, 3
LAYOUT = StoreLayout(
    n_rows=N_CLIPS, rows_per_shard=N_CLIPS, n_frames=3, n_times=3, height=2, width=2, n_ranks=3
)

pytestmark = pytest.mark.usefixtures("one_thread")


def change_weights(folder, ending, change):
    file = folder / "model.safetensors"
    weights = load_file(file)
    changed = {name: change(w) for name, w in weights.items() if name.endswith(ending)}
    save_file(weights | changed, file, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = save_timesformer(tmp_path_factory.mktemp("model"))
    # Else every clip is of one class with one probability, and it would not show if two changed.
    change_weights(folder, "attention.output.dense.weight", lambda weight: 60 * weight)
    change_weights(folder, "classifier.weight", lambda weight: 30 * weight)
    return folder


def attributor_of(folder, **changes):
    given = {
        "method": Method(name="staa-paper"),
        "layout": LAYOUT,
        "device": "cpu",
        "precision": "float32",
    }
    return Attributor(read_checkpoint(str(folder)), **given | {"n_threads": 1} | changes)


@pytest.fixture(scope="module")
def attributor(model):
    return attributor_of(model)


def batch_of(failed=None, labels=(0, 4, 2, 1), seed=0):
    """A batch as `ClipLoader` and Ray give it: failed clips are zeros, arrays are read-only."""
    squares = np.random.default_rng(seed).integers(0, 256, (N_CLIPS, 3, 2, 2, 3), np.uint8)
    frames = squares.repeat(8, axis=2).repeat(8, axis=3)
    status = np.full(N_CLIPS, Status.OK, np.uint8)
    message = np.full(N_CLIPS, "", object)
    frame_index = np.tile(np.arange(3, dtype=np.int32), (N_CLIPS, 1))
    for clip, outcome in (failed or {}).items():
        frames[clip], status[clip], message[clip] = 0, outcome, f"clip {clip} is {outcome.label}"
        frame_index[clip] = -1
    batch = {
        "row": np.arange(N_CLIPS),
        "video_id": np.array([f"clip{clip}" for clip in range(N_CLIPS)], object),
        "start_time": np.zeros(N_CLIPS),
        "label": np.array(labels, np.int32),
        "frames": frames,
        "frame_index": frame_index,
        "status": status,
        "message": message,
    }
    for column in batch.values():
        column.flags.writeable = False
    return batch


def untouched_probabilities(folder, frames):
    """Softmax over transformers' own model of transformers' own preprocessing: (clips, classes)."""
    model = TimesformerForVideoClassification.from_pretrained(folder).eval()
    processor = VideoMAEImageProcessorPil.from_pretrained(folder)
    pixels = [
        processor(list(clip), return_tensors="pt", input_data_format="channels_last")
        for clip in frames
    ]
    with torch.inference_mode():
        logits = model(pixel_values=torch.cat([clip["pixel_values"] for clip in pixels])).logits
    return logits.softmax(dim=-1).numpy()


MODEL_COLUMNS = (
    *("spatial", "temporal", "prediction", "probability", "label_probability"),
    *("top_classes", "top_probabilities"),
)


def assert_empty(columns, clip):
    for name in MODEL_COLUMNS:
        values = columns[name][clip]
        empty = values == -1 if values.dtype.kind == "i" else np.isnan(values)
        assert np.all(empty), name


def test_what_comes_is_what_the_store_takes(attributor):
    columns = attributor(batch_of())
    templates = LAYOUT.arrays()
    assert set(columns) == {"row", *templates}
    for name, template in templates.items():
        assert columns[name].shape == (N_CLIPS, *template.shape)
        assert columns[name].dtype == (object if template.dtype == "str" else template.dtype), name


def test_the_prediction_is_the_untouched_models(model, attributor):
    batch = batch_of()
    columns = attributor(batch)
    expected = untouched_probabilities(model, batch["frames"])
    order = np.argsort(-expected, axis=1)
    assert len(set(order[:, 0])) > 1
    assert np.array_equal(columns["prediction"], order[:, 0])
    assert np.array_equal(columns["top_classes"], order[:, :N_RANKS])
    ranked = np.take_along_axis(expected, order, axis=1)
    np.testing.assert_allclose(columns["top_probabilities"], ranked[:, :N_RANKS], rtol=1e-4)
    np.testing.assert_array_equal(columns["probability"], columns["top_probabilities"][:, 0])
    of_label = expected[np.arange(N_CLIPS), batch["label"]]
    np.testing.assert_allclose(columns["label_probability"], of_label, rtol=1e-4)


def test_every_class_can_be_kept_and_they_sum_to_1(model):
    columns = attributor_of(model, layout=replace(LAYOUT, n_ranks=len(CLASS_NAMES)))(batch_of())
    np.testing.assert_allclose(columns["top_probabilities"].sum(axis=1), 1, atol=1e-6)
    assert (np.diff(columns["top_probabilities"], axis=1) <= 0).all()
    assert (np.sort(columns["top_classes"], axis=1) == np.arange(len(CLASS_NAMES))).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_attribution_sums_to_1_as_it_is_stored(model, precision):
    columns = attributor_of(model, precision=precision)(batch_of())
    assert columns["spatial"].dtype == np.float16
    spatial, temporal = columns["spatial"].astype(float), columns["temporal"].astype(float)
    np.testing.assert_allclose(spatial.sum(axis=(2, 3)), 1, atol=1e-3)
    np.testing.assert_allclose(temporal.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose((spatial * temporal[:, :, None, None]).sum((1, 2, 3)), 1, atol=1e-3)
    assert (spatial >= 0).all()
    assert (temporal >= 0).all()
    # Of a model that attends unevenly, else a map that is wrong would sum to 1 as well.
    assert spatial.std() > 0.02


def test_a_batch_is_left_alone_and_twice_gives_the_same_bits(attributor):
    batch = batch_of({2: Status.EMPTY})
    before = {name: column.copy() for name, column in batch.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = attributor(batch), attributor(batch)
    assert batch.keys() == before.keys()
    for name, column in before.items():
        np.testing.assert_array_equal(batch[name], column)
    for name, column in first.items():
        np.testing.assert_array_equal(column, second[name])


@pytest.mark.parametrize("failed", [(1,), (0, 2, 3)])
def test_a_clips_numbers_do_not_depend_on_its_neighbours_failure(attributor, failed):
    whole = attributor(batch_of())
    broken = attributor(batch_of(dict.fromkeys(failed, Status.TRUNCATED)))
    for clip in set(range(N_CLIPS)) - set(failed):
        for name in (*MODEL_COLUMNS, "status", "message"):
            assert np.array_equal(broken[name][clip], whole[name][clip]), name


def test_a_clip_that_failed_keeps_its_reason_and_has_no_attribution(attributor):
    failed = {0: Status.MISSING, 3: Status.TOO_SHORT}
    columns = attributor(batch_of(failed))
    assert columns["status"].tolist() == [Status.MISSING, Status.OK, Status.OK, Status.TOO_SHORT]
    assert columns["message"].tolist() == ["clip 0 is missing", "", "", "clip 3 is too_short"]
    assert columns["label"].tolist() == [0, 4, 2, 1]
    for clip in failed:
        assert_empty(columns, clip)
    assert np.isfinite(columns["spatial"][[1, 2]]).all()


def test_layers_and_heads_are_stored_beside_the_last_layer(model, attributor):
    method = Method(name="staa-paper", layers="all", heads="keep")
    layout = replace(LAYOUT, n_layers=2, n_heads=2)
    columns = attributor_of(model, method=method, layout=layout)(batch_of({1: Status.EMPTY}))
    last = attributor(batch_of({1: Status.EMPTY}))
    for name, spec in layout.arrays().items():
        assert columns[name].shape == (N_CLIPS, *spec.shape)
        if name in last:
            np.testing.assert_array_equal(columns[name], last[name])
    np.testing.assert_array_equal(columns["layer_spatial"][:, -1], columns["spatial"])
    np.testing.assert_array_equal(columns["layer_temporal"][:, -1], columns["temporal"])
    ok = [0, 2, 3]
    for prefix in ("layer", "head"):
        spatial, temporal = columns[f"{prefix}_spatial"], columns[f"{prefix}_temporal"]
        np.testing.assert_allclose(spatial[ok].sum(axis=(-2, -1), dtype=float), 1, atol=1e-3)
        np.testing.assert_allclose(temporal[ok].sum(axis=-1), 1, atol=1e-5)
        assert np.isnan(spatial[1]).all()
        assert np.isnan(temporal[1]).all()
    assert not np.array_equal(columns["layer_temporal"][0, 0], columns["layer_temporal"][0, 1])
    assert not np.array_equal(columns["head_temporal"][0, 1, 0], columns["head_temporal"][0, 1, 1])


EVIDENCE = replace(LAYOUT, optional=("target", "signed"))


def test_evidence_is_stored_with_its_class_and_what_speaks_against_it(model):
    method = Method(name="evidence", layers="all", target="label")
    columns = attributor_of(model, method=method, layout=EVIDENCE)(
        batch_of({1: Status.EMPTY}, labels=(0, 4, -1, 1))
    )
    prediction = columns["prediction"]
    assert columns["target"].tolist() == [0, -1, prediction[2], 1]
    assert columns["target"].dtype == np.int32
    assert columns["signed"].dtype == np.float16
    assert columns["signed"].shape == (N_CLIPS, 3, 2, 2)
    ok = [0, 2, 3]
    np.testing.assert_allclose(columns["temporal"][ok].sum(axis=1), 1, atol=1e-5)
    assert (columns["signed"][ok] < 0).any()
    assert (columns["signed"][ok] > 0).any()
    assert np.isnan(columns["signed"][1]).all()


def test_evidence_of_a_named_class_is_that_of_its_label(model):
    by_label = attributor_of(
        model, method=Method(name="evidence", target="label"), layout=EVIDENCE
    )(batch_of(labels=(3, 3, 3, 3)))
    for target in ("waving", "WAVING", "3"):
        method = Method(name="evidence", target=target)
        named = attributor_of(model, method=method, layout=EVIDENCE)(batch_of(labels=(3, 3, 3, 3)))
        for name, values in by_label.items():
            np.testing.assert_array_equal(named[name], values)
    predicted = attributor_of(model, method=Method(name="evidence"), layout=EVIDENCE)(batch_of())
    assert not np.array_equal(predicted["spatial"], by_label["spatial"])
    assert np.array_equal(predicted["target"], predicted["prediction"])


def test_the_runner_up_is_stored_beside(model):
    names = ("target", "signed", "runner_up_spatial", "runner_up_temporal")
    layout, method = replace(LAYOUT, optional=names), Method(name="evidence", target="top2")
    columns = attributor_of(model, method=method, layout=layout)(batch_of())
    second = Method(name="evidence", target="label")
    of_second = attributor_of(model, method=second, layout=EVIDENCE)(
        batch_of(labels=columns["top_classes"][:, 1])
    )
    for name in ("spatial", "temporal"):
        np.testing.assert_allclose(columns[f"runner_up_{name}"], of_second[name], atol=1e-3)
        assert not np.allclose(columns[f"runner_up_{name}"], columns[name], atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_libra_grad_predicts_as_evidence_does_to_the_bit(model, precision):
    given = {"layout": EVIDENCE, "precision": precision}
    failed = {1: Status.EMPTY}
    expected = attributor_of(model, method=Method(name="evidence"), **given)(batch_of(failed))
    columns = attributor_of(model, method=Method(name="libragrad"), **given)(batch_of(failed))
    for name in (*MODEL_COLUMNS[2:], "target"):
        np.testing.assert_array_equal(columns[name], expected[name])
    assert_empty(columns, 1)
    ok = [0, 2, 3]
    np.testing.assert_allclose(columns["temporal"][ok].sum(axis=1), 1, atol=1e-5)
    assert (columns["signed"][ok] < 0).any()
    assert (columns["signed"][ok] > 0).any()
    assert not np.allclose(columns["spatial"][ok], expected["spatial"][ok], atol=1e-2)


@pytest.mark.parametrize("name", ["evidence", "libragrad"])
def test_what_is_of_a_class_of_halves_is_that_of_the_whole(model, name):
    method = Method(name=name, target="label")
    explain_with, _ = fails_above(1, torch.OutOfMemoryError())
    whole = attributor_of(model, method=method, layout=EVIDENCE)
    short = attributor_of(model, method=method, layout=EVIDENCE, explain_with=explain_with)
    expected, halved = whole(batch_of()), short(batch_of())
    for name in ("spatial", "temporal", "signed"):
        np.testing.assert_allclose(halved[name], expected[name], atol=2e-3)
    assert np.array_equal(halved["target"], expected["target"])


def test_a_part_that_half_precision_can_not_hold_is_bounded(tmp_path):
    folder = save_timesformer(tmp_path)
    change_weights(folder, "classifier.weight", lambda weight: 1e9 * weight)
    columns = attributor_of(folder, method=Method(name="evidence"), layout=EVIDENCE)(batch_of())
    assert (columns["status"] == Status.OK).all()
    assert np.isfinite(columns["signed"]).all()
    assert np.abs(columns["signed"]).max() == np.finfo(np.float16).max


@pytest.mark.parametrize("name", ["frame_importance", "signed", "temporal", "runner_up_temporal"])
def test_a_clip_with_nan_in_any_array_failed(model, name):
    method = Method(name="evidence", target="top2", frame_importance="insertion")
    layout = replace(LAYOUT, optional=method.optional_arrays)

    def explain_one_as_nan(*given):
        explanation = explain(*given)
        key = {"temporal": "total", "runner_up_temporal": "runner_up"}.get(name, name)
        broken = getattr(explanation, key).clone()
        broken[2] = torch.nan
        return replace(explanation, **{key: broken})

    columns = attributor_of(model, method=method, layout=layout, explain_with=explain_one_as_nan)(
        batch_of()
    )
    assert columns["status"].tolist() == [*(Status.OK,) * 2, Status.MODEL_ERROR, Status.OK]
    assert columns["message"][2] == "the model gave NaN or infinity"
    assert_empty(columns, 2)
    for array in ("frame_importance", "signed", "runner_up_temporal"):
        assert np.isnan(columns[array][2]).all()
        assert np.isfinite(columns[array][[0, 1, 3]]).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("target", ["predicted", "top2"])
def test_of_equal_logits_the_first_class_is_predicted_and_explained(tmp_path, precision, target):
    names = {index: f"class {index}" for index in range(40)}
    folder = save_timesformer(tmp_path, id2label=names)
    for ending in ("classifier.weight", "classifier.bias"):
        change_weights(folder, ending, torch.zeros_like)
    method = Method(name="evidence", target=target)
    layout = replace(LAYOUT, optional=method.optional_arrays)
    given = {"method": method, "layout": layout, "precision": precision}
    columns = attributor_of(folder, **given)(batch_of())
    assert columns["top_classes"].tolist() == [[0, 1, 2]] * N_CLIPS
    assert columns["prediction"].tolist() == columns["target"].tolist() == [0] * N_CLIPS
    change_weights(folder, "classifier.bias", lambda bias: torch.arange(40.0))
    columns = attributor_of(folder, **given)(batch_of())
    assert columns["target"].tolist() == columns["prediction"].tolist() == [39] * N_CLIPS


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_below_float32_the_model_runs_under_autocast(model, precision):
    half = attributor_of(model, precision=precision)
    whole = attributor_of(model)
    columns, exact = half(batch_of()), whole(batch_of())
    assert (columns["status"] == Status.OK).all()
    for name in ("spatial", "temporal", "probability"):
        np.testing.assert_allclose(columns[name], exact[name], atol=0.05)
        assert not np.array_equal(columns[name], exact[name])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("method", ["staa", "space", "residual", "rollout"])
def test_weights_that_are_kept_narrow_change_no_bit(model, precision, method):
    given = {"precision": precision, "method": Method(name=method)}
    narrow = attributor_of(model, **given)
    kept = {parameter.dtype for parameter in narrow._adapter.model.parameters()}
    assert kept == {torch.float32, getattr(torch, precision)}
    of_float32 = load_adapter(read_checkpoint(str(model)), device="cpu")
    assert {weight.dtype for weight in of_float32.model.parameters()} == {torch.float32}
    wide = attributor_of(model, **given, explain_with=lambda _, *rest: explain(of_float32, *rest))
    got, expected = narrow(batch_of()), wide(batch_of())
    for name in MODEL_COLUMNS:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


@pytest.mark.parametrize("importance", ["gradient", "insertion"])
def test_which_times_matter_does_not_depend_on_the_method_beside(model, importance):
    found = []
    for name in ("staa", "rollout", "contribution", "evidence"):
        method = Method(name=name, frame_importance=importance)
        layout = replace(LAYOUT, optional=method.optional_arrays)
        columns = attributor_of(model, method=method, layout=layout, precision="bfloat16")(
            batch_of()
        )
        assert (columns["status"] == Status.OK).all()
        found.append(columns["frame_importance"])
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def test_methods_that_read_weights_themselves_have_them_in_float32(model):
    layout = replace(LAYOUT, optional=Method(name="evidence").optional_arrays)
    attributor = attributor_of(
        model, precision="bfloat16", method=Method(name="evidence"), layout=layout
    )
    assert {weight.dtype for weight in attributor._adapter.model.parameters()} == {torch.float32}


def test_what_is_expected_changes_no_bit(model):
    attributor = attributor_of(model)
    batches = [batch_of(seed=seed) for seed in range(3)]
    expected = [attributor(batch) for batch in batches]
    for index, batch in enumerate(batches):
        attributor.expect(batches[(index + 1) % 3]["frames"])
        got = attributor(batch)
        for name in MODEL_COLUMNS:
            np.testing.assert_array_equal(got[name], expected[index][name], err_msg=name)


@pytest.mark.parametrize(
    ("device", "variable", "reason"),
    [
        ("cpu", "CXX", r"needs a C\+\+ compiler, and there is no no-such on .* by CXX"),
        ("cuda", "CC", r"needs a C compiler, and there is no no-such on .* by CC"),
    ],
)
def test_a_model_is_not_compiled_where_there_is_no_compiler(
    model, device, variable, reason, monkeypatch
):
    monkeypatch.setenv(variable, "no-such")
    with pytest.raises(ConfigError, match=f"compile_model: torch.compile {reason}"):
        attributor_of(model, device=device, compile_model=True)
    monkeypatch.delenv(variable)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"there is no (g\+\+|gcc or clang) on"):
        attributor_of(model, device=device, compile_model=True)


@pytest.mark.skipif(sys.platform != "linux", reason="Python comes with its headers elsewhere")
def test_a_model_is_not_compiled_without_pythons_headers(model, tmp_path, monkeypatch):
    compiler = tmp_path / "compiler"
    compiler.touch(mode=0o700)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(sysconfig, "get_path", lambda name, scheme: str(tmp_path))
    with pytest.raises(ConfigError, match=rf"there is no {tmp_path}/Python\.h on"):
        attributor_of(model, compile_model=True)
    (tmp_path / "Python.h").touch()
    attributor_of(model, compile_model=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="bounds memory by RLIMIT_DATA")
def test_a_batch_that_does_not_fit_into_memory_goes_through_in_halves(tmp_path):
    folder = save_timesformer(
        tmp_path, image_size=224, patch_size=16, num_frames=8, hidden_size=64, intermediate_size=256
    )
    rooms = ("0", "60_000_000", "10_000_000_000")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.attributor_in_little_memory", str(folder), *rooms],
        # So that freed tensors go back to the system, and none is left to be had without asking.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=True,
    )
    nothing, halved, plenty = map(json.loads, done.stdout.splitlines())
    assert plenty["status"] == [Status.OK] * 8
    assert len({tuple(share) for share in plenty["temporal"]}) == 8

    assert halved["status"] == [Status.OK] * 8
    assert halved["same_again"]
    np.testing.assert_allclose(halved["temporal"], plenty["temporal"], atol=1e-6)
    assert halved["top_classes"] == plenty["top_classes"]
    # Once for each of the two: what fits is remembered, and the batch after begins with it.
    assert done.stderr.count("out of memory with 8 clips in a forward pass; trying 4") == 2

    assert nothing["status"] == [Status.MODEL_ERROR] * 8
    assert set(nothing["messages"]) == {"out of memory with 1 clip in a forward pass"}


def test_out_of_memory_leaves_nothing_of_the_failed_pass_behind(model):
    """Else the halves would have less memory than there is, until garbage is collected."""
    left, sizes = [], []

    def explain_two_at_most(adapter, pixel_values, method, classes):
        sizes.append(len(pixel_values))
        assert all(tensor() is None for tensor in left)
        if len(pixel_values) > 2:
            activations = pixel_values * 2
            left.extend((weakref.ref(pixel_values), weakref.ref(activations)))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return explain(adapter, pixel_values, method, classes)

    attributor = attributor_of(model, explain_with=explain_two_at_most)
    gc.disable()
    try:
        columns = attributor(batch_of())
    finally:
        gc.enable()
    assert sizes == [4, 2, 2]
    assert (columns["status"] == Status.OK).all()


def fails_above(n_fitting, error):
    """Explain passes of so many clips at most; gives that, and the sizes of the passes so far."""
    sizes = []

    def explain_as_fits(adapter, pixel_values, method, classes):
        sizes.append(len(pixel_values))
        if len(pixel_values) > n_fitting:
            raise error
        return explain(adapter, pixel_values, method, classes)

    return explain_as_fits, sizes


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(..)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_every_face_of_little_memory_halves_a_batch(model, attributor, error):
    explain_with, sizes = fails_above(1, error)
    short = attributor_of(model, explain_with=explain_with)
    columns = short(batch_of())
    assert sizes == [4, 2, 1, 1, 1, 1]
    assert (columns["status"] == Status.OK).all()
    np.testing.assert_allclose(columns["temporal"], attributor(batch_of())["temporal"], atol=1e-6)


def test_what_halves_leave_over_goes_through_as_well(model):
    explain_with, sizes = fails_above(2, torch.OutOfMemoryError())
    attributor = attributor_of(model, explain_with=explain_with)
    batch = {name: np.concatenate((column, column[:1])) for name, column in batch_of().items()}
    columns = attributor(batch)
    assert sizes == [5, 2, 2, 1]
    assert (columns["status"] == Status.OK).all()
    np.testing.assert_allclose(columns["temporal"][4], columns["temporal"][0], atol=1e-6)


def test_any_other_error_of_the_model_is_raised(model):
    explain_with, sizes = fails_above(0, RuntimeError("device-side assert triggered"))
    attributor = attributor_of(model, explain_with=explain_with)
    with pytest.raises(RuntimeError, match="device-side assert"):
        attributor(batch_of())
    assert sizes == [4]


def test_a_clip_without_a_label_has_no_probability_of_it(attributor):
    labelled = attributor(batch_of())
    columns = attributor(batch_of(labels=(-1, 4, 2, -1)))
    assert np.isnan(columns["label_probability"]).tolist() == [True, False, False, True]
    assert columns["status"].tolist() == [Status.OK] * N_CLIPS
    for name in set(MODEL_COLUMNS) - {"label_probability"}:
        np.testing.assert_array_equal(columns[name], labelled[name])


@pytest.mark.parametrize(
    "weights",
    ["classifier.weight", "0.intermediate.dense.bias", "1.attention.attention.qkv.weight"],
)
def test_a_model_that_gives_nan_is_a_model_error_and_no_crash(tmp_path, weights):
    folder = save_timesformer(tmp_path)
    change_weights(
        folder, weights, lambda weight: weight.index_fill(0, torch.tensor([1]), torch.nan)
    )
    columns = attributor_of(folder)(batch_of({1: Status.EMPTY}))
    error = Status.MODEL_ERROR
    assert columns["status"].tolist() == [error, Status.EMPTY, error, error]
    assert columns["message"][1] == "clip 1 is empty"
    assert all("NaN" in columns["message"][clip] for clip in (0, 2, 3))
    for clip in range(N_CLIPS):
        assert_empty(columns, clip)


def test_a_clip_that_breaks_the_model_leaves_its_neighbours_alone(tmp_path):
    folder = save_timesformer(tmp_path)
    # Without a mean, black stays 0 and any brighter clip overflows float32.
    VideoMAEImageProcessorPil(do_normalize=False, size=16, crop_size=16).save_pretrained(folder)
    change_weights(
        folder, "patch_embeddings.projection.weight", lambda weight: 1e38 * weight.sign()
    )
    batch = batch_of()
    frames = np.zeros_like(batch["frames"])
    alone = attributor_of(folder)({**batch, "frames": frames})
    frames[2] = 255
    columns = attributor_of(folder)({**batch, "frames": frames})
    ok = Status.OK
    assert columns["status"].tolist() == [ok, ok, Status.MODEL_ERROR, ok]
    assert_empty(columns, 2)
    for name in MODEL_COLUMNS:
        np.testing.assert_array_equal(columns[name][[0, 1, 3]], alone[name][[0, 1, 3]])
