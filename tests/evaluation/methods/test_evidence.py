"""Maps of evidence: those of a run with the method's options, for the class that is asked for."""

import pytest
import torch

from pipeline.attribution.method import Method
from pipeline.evaluation.methods import evidence
from pipeline.evaluation.methods.explainer import PRODUCT_DEFAULT
from pipeline.evaluation.methods.explainer import explain as explained_by
from pipeline.models.explain import explain
from pipeline.models.frame_importance import by_gradient, by_insertion
from pipeline.models.videomae import VideoMAE
from pipeline.synthetic.small_models import small_model
from tests.evaluation.models import random_timesformer

pytestmark = pytest.mark.usefixtures("one_thread")


TARGET = torch.tensor([3, 0])


def clips_of(seed=7):
    return torch.randn(2, 4, 3, 24, 24, generator=torch.Generator().manual_seed(seed))


def explained(model, clips, **options):
    with torch.inference_mode():
        spelled_out = {"clamp": "parts", "step_back": False, **options}
        method = Method(name="evidence", target="label", **spelled_out)
        return explain(model, clips, method, TARGET)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("evidence", {}),
        ("plain_evidence", {"derivative": "plain"}),
        ("last_evidence", {"layers": "last"}),
        ("net_evidence", {"clamp": "sum"}),
        ("plain_net_evidence", {"clamp": "sum", "derivative": "plain"}),
        ("changed_evidence", {"change_weighted": True}),
        ("changed_net_evidence", {"clamp": "sum", "change_weighted": True}),
        # CLS is the readout of this one: nothing is to be followed back.
        ("evidence_stepped_back", {}),
        ("net_evidence_stepped_back", {"clamp": "sum"}),
    ],
)
def test_a_map_is_that_of_a_run_with_these_options(name, options):
    model, clips = random_timesformer(), clips_of()
    got = getattr(evidence, name)(model, clips, TARGET)
    torch.testing.assert_close(got, explained(model, clips, **options).attribution)
    assert (got >= 0).all()


def test_the_method_that_tables_mark_is_that_of_a_run_without_options():
    torch.manual_seed(0)
    pooling = VideoMAE(small_model("videomae", 4, 0, tuple("abcde"), n_layers=2).eval())
    torch.nn.init.normal_(pooling.model.classifier.weight)
    assert pooling.pools_mean(pooling.model.config)
    for model, clips in (
        (random_timesformer(), clips_of()),
        (pooling, torch.randn(2, 4, 3, 96, 96)),
    ):
        with torch.inference_mode():
            expected = explain(model, clips, Method(), TARGET).attribution
        torch.testing.assert_close(explained_by(PRODUCT_DEFAULT, model, clips, TARGET), expected)


@pytest.mark.parametrize("name", ["signed_evidence", "plain_signed_evidence"])
def test_signed_evidence_is_the_runs_signed_array(name):
    model, clips = random_timesformer(), clips_of()
    derivative = "plain" if name.startswith("plain") else "frozen"
    got = getattr(evidence, name)(model, clips, TARGET)
    torch.testing.assert_close(got, explained(model, clips, derivative=derivative).signed)
    assert (got < 0).any()


def test_final_tokens_are_followed_back_where_their_mean_is_read():
    torch.manual_seed(0)
    model = VideoMAE(small_model("videomae", 4, 0, tuple("abcd"), n_layers=2).eval())
    torch.nn.init.normal_(model.model.classifier.weight)
    clips = torch.randn(2, 4, 3, 96, 96)
    back = evidence.evidence_stepped_back(model, clips, TARGET)
    torch.testing.assert_close(back, explained(model, clips, step_back=True).attribution)
    assert (back - evidence.evidence(model, clips, TARGET)).abs().max() > 1e-4


def test_positive_parts_from_the_median_frame_are_frame_importance():
    model, clips = random_timesformer(), clips_of()
    parts = evidence.libra_grad_from_median(model, clips, TARGET).clamp(min=0).sum(-1)
    torch.testing.assert_close(
        parts / parts.sum(-1, keepdim=True), by_gradient(model, clips, TARGET)
    )


def test_inserted_frames_are_frame_importance_alike_over_patches():
    model, clips = random_timesformer(), clips_of()
    got = evidence.inserted_frames(model, clips, TARGET)
    of_times = by_insertion(model, clips, TARGET)
    torch.testing.assert_close(got, of_times[:, :, None].expand_as(got))


@pytest.mark.parametrize("name", ["chefer", "libra_grad"])
def test_references_are_of_the_class(name):
    model, clips = random_timesformer(), clips_of()
    of = getattr(evidence, name)
    assert (of(model, clips, TARGET) - of(model, clips, TARGET.flip(0))).abs().max() > 1e-6
