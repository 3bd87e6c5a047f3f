"""The stage's model: maps of the run's method, in its precision, in parts that fit."""

import numpy as np
import pytest
import torch

from pipeline.attribution.method import Method
from pipeline.evaluation.stage import Model
from pipeline.models.checkpoint import load_adapter, read_checkpoint
from pipeline.models.explain import explain
from tests.support.families import FAMILIES

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return read_checkpoint(str(FAMILIES["vivit"].save(tmp_path_factory.mktemp("vivit"))))


def clips_for(checkpoint, n_clips):
    geometry = checkpoint.geometry
    shape = (n_clips, geometry.n_frames, 3, *geometry.input_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["evidence", "libragrad"])
@pytest.mark.parametrize("target", ["predicted", "top2"])
def test_maps_are_of_the_classes_that_are_given_whatever_the_run_has_explained(
    checkpoint, name, target
):
    method = Method(name=name, target=target, frame_importance="gradient")
    model = Model(checkpoint, method, device="cpu", precision="float32", batch_size=2)
    clips, classes = clips_for(checkpoint, 3), np.array([2, 0, 1])
    maps, logits = model.maps(clips, classes)
    assert model.is_of_class
    assert model.n_explained == 3
    of_label = Method(name=name, target="label")
    with torch.inference_mode():
        expected = explain(
            load_adapter(checkpoint, device="cpu"), clips, of_label, torch.from_numpy(classes)
        )
        predicted = model.predict(clips)
    np.testing.assert_allclose(maps, expected.attribution.numpy(), atol=1e-6)
    np.testing.assert_allclose(logits, expected.logits.numpy(), atol=1e-5)
    np.testing.assert_allclose(predicted.numpy(), logits, atol=1e-5)


def test_noise_is_gone_once_it_is_closed_also_by_an_error(checkpoint):
    model = Model(
        checkpoint, Method(name="evidence"), device="cpu", precision="float32", batch_size=2
    )
    clips, classes = clips_for(checkpoint, 1), np.array([1])
    before = model.maps(clips, classes)
    for noise in (lambda: model.with_classifier_of_noise(1), model.with_blocks_of_noise):
        with noise():
            assert not np.allclose(model.maps(clips, classes)[1], before[1], atol=1e-3)
        with pytest.raises(RuntimeError), noise():
            raise RuntimeError
        for now, then in zip(model.maps(clips, classes), before, strict=True):
            np.testing.assert_array_equal(now, then)


def test_maps_that_do_not_fit_together_are_computed_in_halves(checkpoint):
    model = Model(
        checkpoint, Method(name="rollout"), device="cpu", precision="float32", batch_size=8
    )
    clips, classes = clips_for(checkpoint, 5), np.zeros(5, int)
    sizes = []

    def limit(module, args, given):
        sizes.append(len(given["pixel_values"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with torch.inference_mode():
        expected = explain(load_adapter(checkpoint, device="cpu"), clips, Method(name="rollout"))
    handle = model._adapter.model.register_forward_pre_hook(limit, with_kwargs=True)
    maps, _ = model.maps(clips, classes)
    assert sizes == [5, 2, 2, 1]
    assert model.n_explained == 5
    np.testing.assert_allclose(maps, expected.attribution.numpy(), atol=1e-6)
    handle.remove()
    model._adapter.model.register_forward_pre_hook(
        lambda *given: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")),
        with_kwargs=True,
    )
    with pytest.raises(torch.OutOfMemoryError):
        model.maps(clips, classes)
