"""What is measured of a clip: values of the metrics, each version asked about once."""

from contextlib import nullcontext
from datetime import UTC, datetime
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import pearsonr, spearmanr

from pipeline.attribution.method import Method
from pipeline.evaluation import faithfulness, published
from pipeline.evaluation.measures import (
    MEASURES,
    change_profile,
    faithfulness_of_clip,
    measures_of,
    sanity_of_clip,
    time_of_clip,
)
from pipeline.evaluation.perturbation import FILLS, UNITS, Probe
from pipeline.evaluation.sanity import max_sensitivity, randomised, stages
from pipeline.evaluation.shapley import shifted
from pipeline.evaluation.stage import Model
from pipeline.models.checkpoint import load_adapter, read_checkpoint
from pipeline.models.explain import explain
from pipeline.models.geometry import Geometry
from pipeline.store.measured import GROUPS
from tests.analysis.stores import small_layout
from tests.evaluation.models import Linear, hand_set, random_timesformer
from tests.support.families import FAMILIES

pytestmark = pytest.mark.usefixtures("one_thread")


def test_values_are_those_of_the_metrics_on_the_clip_alone():
    model, clips, truth = hand_set(2)
    maps = np.maximum(truth, 0) + 1e-3 * np.random.default_rng(20261128).random(truth.shape)
    grid = (6, 6, 6)
    for clip in range(2):
        pixels, target = clips.pixel_values[clip : clip + 1], int(clips.labels[clip])
        got = faithfulness_of_clip(
            Probe(model, pixels), maps[clip].reshape(grid), target, n_random=2, seed=clip
        )
        probe, classes = Probe(model, pixels), np.array([target])
        for i, fill in enumerate(FILLS):
            given = {"fill": fill, "generator": np.random.default_rng(5)}
            of_clip = maps[clip : clip + 1]
            for j, unit in enumerate(UNITS):
                own = faithfulness.gap(probe, of_clip, classes, unit=unit, **given)
                assert got["gap"][i, j] == pytest.approx(own[0], abs=1e-9)
                chance = faithfulness.random_gap(
                    probe, classes, unit=unit, fill=fill, seed=clip, n_random=2
                )
                assert got["random_gap"][i, j] == pytest.approx(chance[0], abs=1e-9)
            own = faithfulness.drops(probe, of_clip, classes, **given)
            np.testing.assert_allclose(got["removed"][i], own.removed[:, 0], atol=1e-9)
            np.testing.assert_allclose(got["kept"][i], own.kept[:, 0], atol=1e-9)
            for name, formula in (
                ("paper_faithfulness", published.faithfulness),
                ("paper_tau", published.monotonicity),
            ):
                assert got[name][i] == pytest.approx(
                    formula(probe, of_clip, classes, **given)[0], abs=1e-9
                )
        # The truth is found: more is gained by it than by chance.
        assert (got["gap"][:, 0] > got["random_gap"][:, 0]).all()


@pytest.mark.parametrize("n_random", [1, 3])
def test_a_clip_goes_through_the_model_no_more_often_than_it_has_versions(n_random):
    grid = Geometry(n_times=8, height=5, width=5, patch_size=4)
    model = Linear(grid, 4)
    pixels = torch.randn(1, 8, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    versions, asked = set(), 0

    class Noting(Probe):
        def logits(self, removed, fill):
            nonlocal asked
            asked += len(removed)
            versions.update((fill if mask.any() else "", mask.tobytes()) for mask in removed[:, 0])
            return super().logits(removed, fill)

    attribution = np.random.default_rng(20261128).random((8, 5, 5))
    probe = Noting(model, pixels, batch_size=7)
    values = faithfulness_of_clip(probe, attribution, 2, n_random=n_random, seed=0)
    assert model.n_seen == probe.n_forward <= 1.1 * len(versions)
    # What metrics share is asked about once: they want a good deal more than there is.
    assert asked > 1.2 * len(versions)
    shapes = {measure.name: measure.shape for measure in MEASURES}
    for name, value in values.items():
        assert value.shape == shapes[name]
        assert np.isfinite(value).all()


def test_a_constant_map_has_a_defined_answer():
    model, clips, _ = hand_set(1)
    probe = Probe(model, clips.pixel_values)
    values = faithfulness_of_clip(probe, np.ones((6, 6, 6)), 0, n_random=1, seed=0)
    assert all(np.isfinite(value).all() for value in values.values())


def drawn_seed():
    seed = int(datetime.now(UTC).strftime("%Y%m%d"))
    print(f"seed {seed}")
    return seed


def test_arrays_are_those_of_the_groups_that_are_asked_for_and_of_the_runs_grid():
    layout = small_layout(4)
    assert measures_of(["faithfulness"], layout) == MEASURES
    every = {measure.name: measure for measure in measures_of(GROUPS, layout)}
    assert every["shapley"].shape == (layout.n_times,)
    assert {"run_row", "gap", "temporal_agreement", "max_sensitivity"} <= set(every)
    assert "importance_agreement" not in every
    assert [measure.name for measure in measures_of(["sanity"], layout)][:4] == [
        *("run_row", "target", "n_forward", "recomputed")
    ]


def shapley_by_every_order(model, pixels, target):
    """Mean gain of each frame over all orders, by the definition, one version at a time."""
    median = np.median(pixels.numpy(), axis=1, keepdims=True)
    n_times = pixels.shape[1]

    def value(present):
        shown = np.repeat(median, n_times, axis=1)
        shown[:, sorted(present)] = pixels.numpy()[:, sorted(present)]
        with torch.no_grad():
            logits = model.predict(torch.from_numpy(shown).float())[0].double().numpy()
        return logits[target] - logsumexp(np.delete(logits, target))

    known = {}
    gains = np.zeros(n_times)
    orders = list(permutations(range(n_times)))
    for order in orders:
        for place, step in enumerate(order):
            for present in (frozenset(order[:place]), frozenset(order[: place + 1])):
                if present not in known:
                    known[present] = value(present)
            gains[step] += known[frozenset(order[: place + 1])] - known[frozenset(order[:place])]
    return gains / len(orders)


def test_time_is_the_rank_agreement_with_shapley_values_by_their_definition():
    seed = drawn_seed()
    model, rng = random_timesformer(seed % 1000), np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.normal(size=(1, 4, 3, 24, 24)).astype(np.float32))
    temporal, importance, change = rng.random(4), rng.random(4), change_profile(model, pixels)
    difference = np.abs(pixels.numpy() - np.median(pixels.numpy(), axis=1, keepdims=True))
    assert spearmanr(change, difference[0].mean(axis=(1, 2, 3))).statistic == pytest.approx(1)
    probe, moved = Probe(model, pixels), Probe(model, shifted(pixels))
    values = time_of_clip(probe, moved, 2, change=change, temporal=temporal, importance=importance)
    expected = shapley_by_every_order(model, pixels, 2)
    again = shapley_by_every_order(model, shifted(pixels), 2)
    np.testing.assert_allclose(values["shapley"], expected, atol=1e-4)
    np.testing.assert_allclose(values["shapley_shifted"], again, atol=1e-4)
    for name, profile in (
        ("shapley_agreement", again),
        ("temporal_agreement", temporal),
        ("change_agreement", change),
        ("importance_agreement", importance),
    ):
        assert values[name] == pytest.approx(spearmanr(profile, expected).statistic, abs=1e-6)
    # Every coalition of both clips, once.
    assert (probe.n_forward, moved.n_forward) == (16, 16)


@pytest.mark.parametrize("n_times", [6, 10])
def test_frames_are_asked_about_no_more_often_than_there_are_versions(n_times):
    """Also where orders are sampled, and where faithfulness has asked before."""
    grid = Geometry(n_times=n_times, height=2, width=2, patch_size=4)
    model = Linear(grid, 3)
    pixels = torch.randn(1, n_times, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    versions = set()

    class Noting(Probe):
        def logits(self, removed, fill):
            versions.update(
                (id(self), fill if mask.any() else "", mask.tobytes()) for mask in removed[:, 0]
            )
            return super().logits(removed, fill)

    attribution = np.random.default_rng(20261128).random((n_times, 2, 2))
    probe, moved = Noting(model, pixels, batch_size=7), Noting(model, shifted(pixels))
    faithfulness_of_clip(probe, attribution, 1, n_random=1, seed=0)
    profile = attribution.sum(axis=(1, 2))
    values = time_of_clip(probe, moved, 1, change=profile, temporal=profile)
    assert model.n_seen == probe.n_forward + moved.n_forward <= 1.1 * len(versions)
    assert all(np.isfinite(value).all() for value in values.values())


def test_one_frame_and_a_still_clip_have_a_defined_answer():
    for n_times, still in ((1, False), (4, True)):
        grid = Geometry(n_times=n_times, height=2, width=2, patch_size=4)
        model = Linear(grid, 3)
        pixels = torch.rand(1, 1, 3, 8, 8).repeat(1, n_times, 1, 1, 1)
        flat = np.full(n_times, 1 / n_times)
        values = time_of_clip(
            Probe(model, pixels),
            Probe(model, shifted(pixels)),
            0,
            change=change_profile(model, pixels),
            temporal=flat,
        )
        # A profile that is constant orders nothing; one step agrees with itself.
        assert values["temporal_agreement"] == (0 if still else 1)
        assert all(np.isfinite(value).all() for value in values.values())


BLIND = ("staa-paper", "space", "contribution", "rollout", "rollout-contribution")


@pytest.fixture(scope="module", params=["timesformer joint", "videomae", "vjepa2"])
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return read_checkpoint(str(FAMILIES[request.param].save(folder)))


def clip_for(checkpoint, seed):
    geometry = checkpoint.geometry
    shape = (1, geometry.n_frames, 3, *geometry.input_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seen_by(model):
    """Clips that go through a model, counted by itself."""
    seen = []
    adapter = model._adapter
    adapter.model.register_forward_pre_hook(
        lambda module, args, given: seen.append(len(given[adapter.input_name])), with_kwargs=True
    )
    return seen


def test_sanity_of_evidence_is_that_of_maps_that_are_computed_one_by_one(checkpoint):
    seed = drawn_seed()
    method = Method(name="evidence", target="label")
    model = Model(checkpoint, method, device="cpu", precision="float32", batch_size=2)
    pixels = clip_for(checkpoint, seed)
    adapter = load_adapter(checkpoint, device="cpu")

    def map_of(target, pixels=pixels):
        with torch.inference_mode():
            return explain(adapter, pixels, method, torch.tensor([target])).attribution.numpy()

    with torch.inference_mode():
        order = adapter.predict(pixels)[0].argsort(descending=True).tolist()
    target, runner_up = order[1], order[0]
    own = map_of(target)
    stored = np.random.default_rng(seed).random(own.shape[1:])
    seen = seen_by(model)
    values = sanity_of_clip(model, pixels, stored, target, seed=7)
    # The clip for two classes, three times with noise, and of four models of noise.
    assert model.n_explained == sum(seen) == 9
    assert values["recomputed"] == pytest.approx(pearsonr(stored.ravel(), own.ravel())[0])
    of_other = pearsonr(own.ravel(), map_of(runner_up).ravel()).statistic
    assert values["class_sensitivity"] == pytest.approx(of_other, abs=1e-5)
    of_noise = []
    for number in range(3):
        with randomised(adapter.model, 21 + number, n_stages=1):
            of_noise.append(pearsonr(own.ravel(), map_of(target).ravel()).statistic)
    assert values["random_classifier"] == pytest.approx(np.mean(of_noise), abs=1e-5)
    with randomised(adapter.model, 0, n_stages=len(stages(adapter.model)) - 1):
        of_blocks = pearsonr(own.ravel(), map_of(target).ravel()).statistic
    assert values["random_blocks"] == pytest.approx(of_blocks, abs=1e-5)
    moved = max_sensitivity(lambda x: map_of(target, x), pixels, n_samples=3, seed=7)
    assert values["max_sensitivity"] == pytest.approx(moved[0], rel=1e-3)
    # The model is what it was.
    np.testing.assert_allclose(model.maps(pixels, np.array([target]))[0], own, atol=1e-6)


@pytest.mark.parametrize("name", BLIND)
def test_what_is_1_by_construction_is_1_when_it_is_computed(checkpoint, name):
    model = Model(checkpoint, Method(name=name), device="cpu", precision="float32", batch_size=4)
    pixels = clip_for(checkpoint, 3)
    own, _ = model.maps(pixels, np.array([0]))
    for classifier in (nullcontext(), model.with_classifier_of_noise(5)):
        with classifier:
            maps, _ = model.maps(pixels, np.array([1]))
        np.testing.assert_array_equal(maps, own)
    before = model.n_explained
    values = sanity_of_clip(model, pixels, own, 0, seed=1)
    assert values["class_sensitivity"] == values["random_classifier"] == 1
    assert values["recomputed"] == pytest.approx(1)
    assert model.n_explained - before == 5
    assert values["random_blocks"] < 0.999


def test_a_model_that_gives_no_number_has_no_sanity():
    class Broken:
        is_of_class = True

        def maps(self, pixel_values, classes):
            return np.ones((1, 2, 4)), np.full((1, 3), np.nan)

    assert (
        sanity_of_clip(Broken(), torch.ones(1, 2, 3, 8, 8), np.ones((2, 2, 2)), 0, seed=0) is None
    )
