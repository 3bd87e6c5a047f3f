"""The stage that measures faithfulness: values of the metrics, each version asked about once."""

import numpy as np
import pytest
import torch

from pipeline.evaluation import faithfulness, published
from pipeline.evaluation.perturbation import FILLS, UNITS, Probe
from pipeline.evaluation.stage import MEASURES, faithfulness_of_clip
from pipeline.models.geometry import Geometry
from tests.evaluation.models import Linear, hand_set

pytestmark = pytest.mark.usefixtures("one_thread")


def test_values_are_those_of_the_metrics_on_the_clip_alone():
    model, clips, truth = hand_set(2)
    maps = np.maximum(truth, 0) + 1e-3 * np.random.default_rng(20261128).random(truth.shape)
    grid = (6, 6, 6)
    for clip in range(2):
        pixels, target = clips.pixel_values[clip : clip + 1], int(clips.labels[clip])
        got = faithfulness_of_clip(
            Probe(model, pixels), maps[clip].reshape(grid), target, n_random=2
        )
        probe, classes = Probe(model, pixels), np.array([target])
        for i, fill in enumerate(FILLS):
            given = {"fill": fill, "generator": np.random.default_rng(5)}
            of_clip = maps[clip : clip + 1]
            for j, unit in enumerate(UNITS):
                own = faithfulness.gap(probe, of_clip, classes, unit=unit, **given)
                assert got["gap"][i, j] == pytest.approx(own[0], abs=1e-9)
                chance = faithfulness.random_gap(
                    probe, classes, unit=unit, fill=fill, seed=0, n_random=2
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
    values = faithfulness_of_clip(probe, attribution, 2, n_random=n_random)
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
    values = faithfulness_of_clip(probe, np.ones((6, 6, 6)), 0, n_random=1)
    assert all(np.isfinite(value).all() for value in values.values())
