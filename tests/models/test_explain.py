"""What comes with an explanation whatever the method; evidence itself is in test_evidence.py."""

import pytest
import torch

from pipeline.attribution.method import Method
from pipeline.models.checkpoint import load_adapter, read_checkpoint
from pipeline.models.explain import explain
from tests.support.families import FAMILIES

METHODS = ("staa", "evidence", "rollout", "contribution", "libragrad")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_the_classifier_makes_the_logits_of_what_is_pooled(name, method, tmp_path, one_thread):
    adapter = load_adapter(read_checkpoint(str(FAMILIES[name].save(tmp_path))), device="cpu")
    shape = (3, adapter.grid.n_frames, 3, *adapter.grid.input_size)
    clips = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        explanation = explain(adapter, clips, Method(name=method))
        logits = adapter.model.classifier(explanation.pooled)
    assert explanation.pooled.shape == (3, adapter.n_channels(adapter.model.config))
    torch.testing.assert_close(logits, explanation.logits, atol=1e-4, rtol=1e-4)


def test_what_is_pooled_is_of_the_pass_that_predicts_not_of_one_behind_it(tmp_path, one_thread):
    adapter = load_adapter(read_checkpoint(str(FAMILIES["vivit"].save(tmp_path))), device="cpu")
    shape = (2, adapter.grid.n_frames, 3, *adapter.grid.input_size)
    clips = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    plain = explain(adapter, clips, Method(name="staa-paper"))
    for importance in ("gradient", "insertion"):
        again = explain(adapter, clips, Method(name="staa-paper", frame_importance=importance))
        torch.testing.assert_close(again.pooled, plain.pooled)
