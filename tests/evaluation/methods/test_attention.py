"""Maps of attention: those of a run by the method's name, and what the authors have published."""

import numpy as np
import pytest
import torch

from pipeline.attribution.method import Method
from pipeline.errors import ModelError
from pipeline.evaluation.methods import attention
from pipeline.evaluation.methods.attention import published_attention
from pipeline.models.explain import explain
from pipeline.models.vivit import Vivit
from pipeline.synthetic.small_models import small_model
from tests.evaluation.models import random_timesformer

pytestmark = pytest.mark.usefixtures("one_thread")


def clips_of(seed=5):
    return torch.randn(2, 4, 3, 24, 24, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("staa", Method(name="staa-paper")),
        ("first_layer", Method(name="staa-paper", layers=(0,))),
        ("middle_layer", Method(name="staa-paper", layers=(1,))),
        ("space", Method(name="space")),
        ("rollout", Method(name="rollout")),
        ("contribution", Method(name="contribution")),
        ("rollout_contribution", Method(name="rollout-contribution")),
    ],
)
def test_a_map_is_that_of_a_run_with_the_method(name, method):
    model, clips = random_timesformer(), clips_of()
    with torch.inference_mode():
        expected = explain(model, clips, method).attribution
    one, other = torch.tensor([0, 1]), torch.tensor([2, 3])
    for target in (one, other):
        torch.testing.assert_close(getattr(attention, name)(model, clips, target), expected)


def test_the_middle_layer_of_three_is_the_second():
    torch.manual_seed(0)
    model = Vivit(small_model("vivit", 4, 0, tuple("ab"), n_layers=3).eval())
    clips = torch.randn(1, 4, 3, 96, 96)
    with torch.inference_mode():
        of_all = explain(model, clips, Method(name="staa-paper", layers="all")).joint[0]
    got = attention.middle_layer(model, clips, torch.tensor([0]))[0]
    torch.testing.assert_close(got, of_all[1])
    assert not any(torch.allclose(got, of_all[other]) for other in (0, 2))


def test_all_layers_are_the_mean_of_each():
    model, clips = random_timesformer(), clips_of()
    with torch.inference_mode():
        of_each = [
            explain(model, clips, Method(name="staa-paper", layers=(k,))).attribution
            for k in (0, 1)
        ]
    got = attention.all_layers(model, clips, torch.tensor([0, 1]))
    torch.testing.assert_close(got, torch.stack(of_each).mean(0))


def test_published_attention_is_of_divided_attention_and_of_no_more_frames_than_patches():
    torch.manual_seed(0)
    other = Vivit(small_model("vivit", 4, 0, tuple("ab"), n_layers=2).eval())
    with pytest.raises(ModelError, match="expected a TimeSformer with divided attention"):
        published_attention(other, torch.zeros(1, 4, 3, 96, 96), torch.tensor([0]))


def test_published_attention_is_the_row_of_a_patch_of_the_first_frame():
    model = random_timesformer()
    clips = torch.randn(2, 4, 3, 24, 24, generator=torch.Generator().manual_seed(5))
    value = published_attention(model, clips, torch.tensor([0, 0]))
    eager = type(model.model)(model.model.config).eval()
    eager.load_state_dict(model.model.state_dict())
    with torch.no_grad():
        attention = eager(pixel_values=clips, output_attentions=True).attentions[-1].mean(1)
    for clip in range(2):
        rows = attention.reshape(2, 4, 10, 10)[clip, 0, 1:5, 1:]
        np.testing.assert_allclose(value[clip], rows / rows.sum(), atol=1e-6)
