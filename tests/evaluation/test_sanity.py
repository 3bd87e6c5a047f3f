"""Randomised models, other classes and noise: what must change, what must not, and Captum."""

import numpy as np
import pytest
import torch
from captum.metrics import sensitivity_max
from scipy.stats import pearsonr, spearmanr

from pipeline.evaluation.sanity import (
    cascade_depths,
    cascading_randomisation,
    class_sensitivity,
    largest_change,
    max_sensitivity,
    pearson,
    randomised,
    spearman,
    stages,
)
from pipeline.models.checkpoint import load_adapter, read_checkpoint
from pipeline.synthetic.hand_set_model import contributions
from pipeline.synthetic.small_models import small_model
from tests.evaluation.models import hand_set, random_timesformer
from tests.support.families import FAMILIES

pytestmark = pytest.mark.usefixtures("one_thread")


def clips_for(model, n_clips=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_clips, 4, 3, 24, 24, generator=generator)


def gradient_map(model):
    def explain(pixel_values):
        with torch.enable_grad():
            pixels = pixel_values.clone().requires_grad_()
            model.predict(pixels)[:, 0].sum().backward()
        parts = (pixels.grad * pixels).detach().reshape(len(pixels), 4, 3, 3, 8, 3, 8)
        return parts.sum(dim=(2, 4, 6)).flatten(2).numpy()

    return explain


def test_stages_go_from_the_classifier_to_the_embeddings_and_hold_every_parameter_once():
    model = random_timesformer().model
    names = [name for name, _ in stages(model)]
    assert names[0] == "classifier.weight" or names[0].startswith("classifier")
    assert names[-1] == "timesformer.embeddings"
    blocks = [name for name in names if "layer." in name]
    assert blocks == ["timesformer.encoder.layer.1", "timesformer.encoder.layer.0"]
    held = [parameter for _, group in stages(model) for parameter in group]
    assert len(held) == len({id(parameter) for parameter in held}) == len(list(model.parameters()))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_block_of_every_family_is_a_stage(name, tmp_path):
    adapter = load_adapter(read_checkpoint(str(FAMILIES[name].save(tmp_path))), device="cpu")
    found = stages(adapter.model)
    names = [stage for stage, _ in found]
    assert "classifier" in names[0]
    paths = {module: path for path, module in adapter.model.named_modules()}
    of_block = []
    for block in adapter.blocks().values():
        parameters = {id(parameter) for parameter in block.attention.parameters()}
        held = [n for n, group in found if parameters & {id(each) for each in group}]
        assert len(held) == 1, paths[block.attention]
        of_block.append(held[0])
    # From the output to the input, each by itself.
    assert len(set(of_block)) == len(of_block)
    assert [stage for stage in names if stage in of_block] == of_block[::-1]


def test_a_model_is_noise_while_it_is_randomised_and_as_before_afterwards():
    model = random_timesformer()
    clips = clips_for(model)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    with torch.no_grad():
        logits = model.predict(clips)
    with randomised(model.model, 0, n_stages=1) as names, torch.no_grad():
        assert all(name.startswith("classifier") for name in names)
        other = model.predict(clips)
        assert not torch.allclose(other, logits, atol=0.1)
        changed = [
            name
            for name, value in model.model.state_dict().items()
            if not torch.equal(value, before[name])
        ]
        assert all(name.startswith("classifier") for name in changed)
    with randomised(model.model, 0, n_stages=1), torch.no_grad():
        torch.testing.assert_close(model.predict(clips), other)
    with pytest.raises(RuntimeError), randomised(model.model, 1):
        raise RuntimeError
    for name, value in model.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_map_of_the_model_changes_with_it_and_one_of_the_clip_does_not():
    model = random_timesformer()
    clips = clips_for(model, 4)
    of_model = cascading_randomisation(model.model, gradient_map(model), clips)
    assert list(of_model) == [name for name, _ in stages(model.model)]
    assert np.abs(of_model["timesformer.embeddings"]).mean() < 0.5

    def of_clip(pixel_values):
        return pixel_values.abs().mean(dim=(2, 3, 4))[..., None].expand(-1, -1, 9).numpy()

    for value in cascading_randomisation(model.model, of_clip, clips).values():
        np.testing.assert_allclose(value, 1)


def test_a_bounded_cascade_is_of_the_classifier_and_blocks_with_both_ends():
    model = small_model("timesformer", 4, 0, tuple("ab"), n_layers=7)
    names = [name for name, _ in stages(model)]
    every = cascade_depths(model, 99)
    assert every[0] == 1
    assert [names[depth - 1] for depth in every[1:]] == [
        f"timesformer.encoder.layer.{number}" for number in range(7)[::-1]
    ]
    few = cascade_depths(model, 4)
    assert (len(few), few[0], few[-1]) == (4, every[0], every[-1])
    assert set(few) <= set(every)


def test_correlations_are_scipys_and_constants_have_an_answer():
    rng = np.random.default_rng(0)
    one, other = rng.random((3, 2, 5)), rng.random((3, 2, 5))
    for clip in range(3):
        flat = one[clip].ravel(), other[clip].ravel()
        assert pearson(one, other)[clip] == pytest.approx(pearsonr(*flat).statistic)
        assert spearman(one, other)[clip] == pytest.approx(spearmanr(*flat).statistic)
    constant = np.full_like(one, 0.1)
    np.testing.assert_array_equal(pearson(one, constant), 0)
    np.testing.assert_array_equal(pearson(constant, 2 * constant), 1)
    np.testing.assert_array_equal(spearman(one, constant), 0)


def test_class_sensitivity_is_1_of_a_blind_map_and_low_of_true_ones():
    _, clips, true = hand_set(8)
    every = contributions(clips.pixel_values)
    other = every[np.arange(8), clips.runners_up]
    assert (class_sensitivity(true, other) < 0.1).all()
    blind = every.sum(axis=1)
    np.testing.assert_allclose(class_sensitivity(blind, blind), 1)


def test_max_sensitivity_is_captums_for_the_same_noise():
    model = random_timesformer()
    clips, explain = clips_for(model, 3), gradient_map(model)
    ours = max_sensitivity(explain, clips, radius=0.05, n_samples=4, seed=7)
    generator = torch.Generator().manual_seed(7)
    drawn = [(2 * torch.rand(clips.shape, generator=generator) - 1) * 0.05 for _ in range(4)]

    def explain_as_captum_wants(inputs):
        given = inputs[0] if isinstance(inputs, tuple) else inputs
        return (torch.from_numpy(explain(given)),)

    # Captum asks for all samples of a clip at once, those of a clip beside each other.
    theirs = sensitivity_max(
        explain_as_captum_wants,
        clips,
        perturb_func=lambda inputs: inputs + torch.stack(drawn, dim=1).flatten(0, 1),
        n_perturb_samples=4,
        norm_ord="fro",
    )
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4)
    assert (ours > 0).all()


def test_a_map_that_does_not_look_at_the_clip_is_not_sensitive():
    clips = torch.rand(2, 4, 3, 24, 24)
    for value in (0.0, 0.3):
        constant = np.full((2, 4, 9), value)
        np.testing.assert_array_equal(max_sensitivity(lambda _, c=constant: c, clips), 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_a_number_is_no_correlation_and_no_change(value):
    rng = np.random.default_rng(20261130)
    one, other = rng.random((3, 4, 9)), rng.random((3, 4, 9))
    bad = other.copy()
    bad[1, 2, 3] = value
    for values in (pearson(one, bad), pearson(bad, one), pearson(np.ones_like(one), bad)):
        assert np.isnan(values).tolist() == [False, True, False]
    np.testing.assert_array_equal(pearson(one, bad)[[0, 2]], pearson(one, other)[[0, 2]])
    if np.isnan(value):
        # Also where other noise has given numbers.
        assert np.isnan(largest_change(one, [bad, other])).tolist() == [False, True, False]


@pytest.mark.filterwarnings("error")
def test_nothing_is_relative_to_a_map_of_zeros():
    true = np.zeros((3, 2, 2))
    true[2] = 1.0
    moved = np.zeros((3, 2, 2))
    moved[1:, 0, 0] = 2.0
    changes = largest_change(true, [true, moved])
    np.testing.assert_array_equal(np.isnan(changes), [False, True, False])
    assert changes[0] == 0
    assert changes[2] == pytest.approx(np.linalg.norm(moved[2] - 1) / 2)
