"""The Grad-CAM family, against the formulas on the untouched eager models' tokens."""

import numpy as np
import pytest
import torch

from pipeline.evaluation.methods.class_activation import (
    grad_cam,
    grad_cam_plus_plus,
    hi_res_cam,
    layer_cam,
)
from tests.models.test_evidence import NAMES, on_grid, pair

pytestmark = pytest.mark.usefixtures("one_thread")


def last_norm(model):
    """LayerNorm of the untouched model whose output the last attention takes in."""
    return {
        "timesformer": lambda: model.timesformer.encoder.layer[-1].layernorm_before,
        "vivit": lambda: model.vivit.layers[-1].layernorm_before,
        "videomae": lambda: model.videomae.encoder.layer[-1].layernorm_before,
        "vjepa2": lambda: model.pooler.cross_attention_layer.layer_norm1,
        "videoprism_vision_model": lambda: model.vision_model,
    }[model.config.model_type]()


@pytest.mark.parametrize("name", NAMES)
def test_class_activations_are_those_of_the_eager_models_tokens(name, tmp_path):
    two = pair(name, tmp_path)
    clips, target = two.clips(2), torch.tensor([2, 3])
    kept = []

    def keep(module, inputs, output):
        kept.append(getattr(output, "last_hidden_state", output))

    handle = last_norm(two.eager).register_forward_hook(keep)
    logits = two.eager(**{two.input_name: clips}).logits
    handle.remove()
    logits = logits.reshape(2, -1, logits.shape[-1]).mean(1)
    (gradient,) = torch.autograd.grad(logits[[0, 1], target].sum(), kept[0])
    # (clips, channels, T, P)
    activation, gradient = (
        on_grid(two, values.detach().transpose(1, 2)) for values in (kept[0], gradient)
    )
    weights = gradient.mean(axis=(2, 3), keepdims=True)
    expected = {
        grad_cam: np.maximum((activation * weights).sum(1), 0),
        hi_res_cam: np.maximum((activation * gradient).sum(1), 0),
        layer_cam: np.maximum((activation * np.maximum(gradient, 0)).sum(1), 0),
    }
    square = gradient**2
    alpha = square / (2 * square + (activation * gradient**3).sum(axis=(2, 3), keepdims=True))
    weights = (alpha * np.maximum(gradient, 0)).sum(axis=(2, 3), keepdims=True)
    expected[grad_cam_plus_plus] = np.maximum((activation * weights).sum(1), 0)
    size = np.abs(activation * gradient).sum(axis=1).max()
    for method, values in expected.items():
        # More than rounding: activation and gradient aren't at right angles.
        assert values.max() > 1e-3 * size, method
        got = method(two.adapter, clips, target).numpy()
        limit = 2e-2 if method is grad_cam_plus_plus else 1e-3
        np.testing.assert_allclose(got / values.max(), values / values.max(), atol=limit)
    assert not clips.requires_grad
