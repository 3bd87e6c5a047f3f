"""The Grad-CAM family, against the formulas on the eager model's hidden states."""

import numpy as np
import pytest
import torch

from pipeline.errors import ModelError
from pipeline.evaluation.methods.class_activation import (
    grad_cam,
    grad_cam_plus_plus,
    hi_res_cam,
    layer_cam,
)
from tests.evaluation.models import random_timesformer

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_a_family_whose_tokens_are_not_known_is_named():
    model = random_timesformer()
    model.model.config.model_type = "vjepa2"
    with pytest.raises(ModelError, match="vjepa2 is not known, expected one of timesformer"):
        grad_cam(model, torch.zeros(1, 4, 3, 24, 24), torch.tensor([0]))
