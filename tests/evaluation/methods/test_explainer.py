"""The registry: every method on real small models of three families, one call for all."""

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, ModelError
from pipeline.evaluation.methods import explainer, fovex, perturbations
from pipeline.evaluation.methods.attention import published_attention
from pipeline.evaluation.methods.class_activation import (
    grad_cam,
    grad_cam_plus_plus,
    hi_res_cam,
    layer_cam,
)
from pipeline.evaluation.methods.explainer import METHODS, Explainer, explain
from pipeline.models.videomae import VideoMAE
from pipeline.models.vivit import Vivit
from pipeline.synthetic.small_models import small_model
from tests.evaluation.models import hand_set, random_timesformer

pytestmark = pytest.mark.usefixtures("one_thread")

ADAPTERS = {"vivit": Vivit, "videomae": VideoMAE}


@pytest.fixture
def quick(monkeypatch):
    """Give methods of hundreds of passes fewer."""
    monkeypatch.setattr(fovex, "N_FIXATIONS", 2)
    monkeypatch.setattr(fovex, "N_STEPS", 3)
    for name in ("rise", "lime", "kernel_shap"):
        method = getattr(perturbations, name)
        kept = {"n_masks": 24} if name == "rise" else {"n_samples": 24}
        monkeypatch.setitem(method.__kwdefaults__, *kept.popitem())


def family(name):
    if name == "timesformer":
        return random_timesformer(), torch.randn(2, 4, 3, 24, 24)
    torch.manual_seed(0)
    model = small_model(name, 4, 0, tuple("abcde"), n_layers=2).eval()
    torch.nn.init.normal_(model.classifier.weight)
    return ADAPTERS[name](model), torch.randn(2, 4, 3, 96, 96)


@pytest.mark.parametrize("name", ["timesformer", "vivit", "videomae"])
def test_every_method_gives_a_map_that_is_of_the_class_where_it_says_so(name, quick):
    torch.manual_seed(1)
    model, clips = family(name)
    one, other = torch.tensor([0, 1]), torch.tensor([3, 4])
    for method, known in METHODS.items():
        if method == "published attention" and name != "timesformer":
            with pytest.raises(ModelError, match="expected a TimeSformer"):
                explain(method, model, clips, one)
            continue
        value = explain(method, model, clips, one)
        assert value.shape == (2, model.grid.n_times, model.grid.height * model.grid.width)
        assert value.dtype == torch.float32
        assert torch.equal(value, explain(method, model, clips, one)), method
        changes = not torch.equal(value, explain(method, model, clips, other))
        assert changes == known.is_class_specific, method
        assert all(parameter.grad is None for parameter in model.model.parameters()), method


def test_class_activations_are_those_of_the_eager_models_hidden_states():
    model = random_timesformer()
    clips = torch.randn(2, 4, 3, 24, 24, generator=torch.Generator().manual_seed(6))
    target = torch.tensor([2, 3])
    eager = type(model.model)(model.model.config).eval()
    eager.load_state_dict(model.model.state_dict())
    output = eager(pixel_values=clips, output_hidden_states=True)
    entering = output.hidden_states[-2]
    (gradient,) = torch.autograd.grad(output.logits[[0, 1], target].sum(), entering)
    # Tokens of a patch lie together: (clips, patches, times, channels).
    activation, gradient = (
        value[:, 1:].reshape(2, 9, 4, -1).transpose(1, 2).detach().numpy()
        for value in (entering, gradient)
    )
    weights = gradient.mean(axis=(1, 2), keepdims=True)
    expected = {
        grad_cam: np.maximum((activation * weights).sum(-1), 0),
        hi_res_cam: np.maximum((activation * gradient).sum(-1), 0),
        layer_cam: np.maximum((activation * np.maximum(gradient, 0)).sum(-1), 0),
    }
    cubes = (activation * gradient**3).sum(axis=(1, 2), keepdims=True)
    alpha = gradient**2 / (2 * gradient**2 + cubes)
    weights = (alpha * np.maximum(gradient, 0)).sum(axis=(1, 2), keepdims=True)
    expected[grad_cam_plus_plus] = np.maximum((activation * weights).sum(-1), 0)
    for method, values in expected.items():
        assert values.max() > 0
        np.testing.assert_allclose(method(model, clips, target), values, rtol=1e-2, atol=1e-3)


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


def test_fovex_takes_a_pass_for_each_step_and_looks_at_what_decides():
    model, clips, _ = hand_set(1)
    passes = []

    class Counted:
        grid = model.grid

        def predict(self, pixel_values):
            passes.append(len(pixel_values))
            return model.predict(pixel_values)

    value = fovex.fovex(Counted(), clips.pixel_values, torch.from_numpy(clips.labels))
    assert len(passes) == 200
    assert value.shape == (1, 6, 36)
    assert (value >= 0).all()


def test_a_method_that_is_not_there_or_gives_something_else_is_named(monkeypatch):
    model = random_timesformer()
    clips, target = torch.zeros(1, 4, 3, 24, 24), torch.tensor([0])
    with pytest.raises(ConfigError, match="'gradcam' is not one of random, uniform"):
        explain("gradcam", model, clips, target)
    wrong = Explainer(lambda *_: torch.ones(1, 4, 8), "nothing", False)
    broken = Explainer(lambda *_: torch.full((1, 4, 9), torch.nan), "nothing", False)
    monkeypatch.setitem(explainer.METHODS, "wrong", wrong)
    monkeypatch.setitem(explainer.METHODS, "broken", broken)
    for name, shape in (("wrong", r"\(1, 4, 8\)"), ("broken", r"\(1, 4, 9\)")):
        with pytest.raises(ValueError, match=shape + r", expected finite values \(1, 4, 9\)"):
            explain(name, model, clips, target)
