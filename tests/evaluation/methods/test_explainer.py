"""The registry: every method on real small models of every family, one call for all."""

from dataclasses import replace

import pytest
import torch

from pipeline.errors import ConfigError, ModelError
from pipeline.evaluation.methods.explainer import METHODS, explain
from pipeline.models.checkpoint import load_adapter, read_checkpoint
from pipeline.models.videomae import VideoMAE
from pipeline.models.vivit import Vivit
from pipeline.synthetic.small_models import small_model
from tests.evaluation.models import random_timesformer
from tests.support.families import FAMILIES

pytestmark = pytest.mark.usefixtures("one_thread")

ADAPTERS = {"small vivit": Vivit, "small videomae": VideoMAE}


OTHERS = (
    *("timesformer joint", "timesformer space", "videomae without mean pooling"),
    *("vjepa2", "videoprism"),
)

FEW = {
    "FovEx": {"n_fixations": 2, "n_steps": 3},
    "RISE": {"n_masks": 24},
    "LIME": {"n_samples": 24},
    "KernelSHAP": {"n_samples": 24},
}
"""Gives methods of hundreds of passes fewer."""


def family(name, folder):
    if name in FAMILIES:
        saved = FAMILIES[name].save(folder)
        adapter = load_adapter(read_checkpoint(str(saved)), device="cpu")
        grid = adapter.grid
        return adapter, torch.randn(2, grid.n_frames, 3, *grid.input_size)
    if name == "timesformer":
        return random_timesformer(), torch.randn(2, 4, 3, 24, 24)
    torch.manual_seed(0)
    model = small_model(name.removeprefix("small "), 4, 0, tuple("abcde"), n_layers=2).eval()
    torch.nn.init.normal_(model.classifier.weight)
    return ADAPTERS[name](model), torch.randn(2, 4, 3, 96, 96)


@pytest.mark.parametrize("name", ["timesformer", "small vivit", "small videomae", *OTHERS])
def test_every_method_gives_a_map_that_is_of_the_class_where_it_says_so(name, tmp_path):
    torch.manual_seed(1)
    model, clips = family(name, tmp_path)
    one, other = torch.tensor([0, 1]), torch.tensor([3, 4])
    for method, known in METHODS.items():
        if method == "published attention" and name != "timesformer":
            with pytest.raises(ModelError, match="expected a TimeSformer"):
                explain(method, model, clips, one)
            continue
        few = FEW.get(method, {})
        value = explain(method, model, clips, one, **few)
        assert value.shape == (2, model.grid.n_times, model.grid.height * model.grid.width)
        assert value.dtype == torch.float32
        assert torch.equal(value, explain(method, model, clips, one, **few)), method
        changes = not torch.equal(value, explain(method, model, clips, other, **few))
        if method == "LIME" and name == "vjepa2" and not value.any():
            # A lasso finds nothing where the logits hardly move.
            continue
        assert changes == known.is_class_specific, method
        assert all(parameter.grad is None for parameter in model.model.parameters()), method


class OfAnotherGrid:
    """A model that gives its maps another grid than it says."""

    def __init__(self, adapter, grid):
        self._adapter, self.grid = adapter, grid

    def __getattr__(self, name):
        return getattr(self._adapter, name)


def test_a_method_that_is_not_there_or_gives_something_else_is_named():
    model = random_timesformer()
    clips, target = torch.zeros(1, 4, 3, 24, 24), torch.tensor([0])
    with pytest.raises(ConfigError, match="'gradcam' is not one of random, uniform"):
        explain("gradcam", model, clips, target)
    smaller = OfAnotherGrid(model, replace(model.grid, width=2))
    with pytest.raises(ValueError, match=r"\(1, 4, 9\), expected finite values \(1, 4, 6\)"):
        explain("staa", smaller, clips, target)
    for parameter in model.model.parameters():
        parameter.data.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"\(1, 4, 9\), expected finite values \(1, 4, 9\)"):
        explain("staa", model, clips, target)
