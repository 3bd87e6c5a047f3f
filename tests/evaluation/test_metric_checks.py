"""Metrics on corrupted truths: those of quality prefer the truth, others are flagged."""

import numpy as np
import pytest

from pipeline.evaluation import transport
from pipeline.evaluation.benchmark.metrics import flags
from pipeline.evaluation.complexity import entropy, gini
from pipeline.evaluation.faithfulness import drops, gap
from pipeline.evaluation.localisation import auroc, average_precision, relevance_rank
from pipeline.evaluation.metric_checks import CORRUPTIONS, check_metric, corrupted
from pipeline.evaluation.perturbation import Probe
from pipeline.evaluation.published import monotonicity
from pipeline.evaluation.scores import COMPLEXITY, LOCALISATION, TRANSPORT
from pipeline.evaluation.shapley import frame_shapley, rank_agreement
from pipeline.store.measured import FLAGGED, marked
from tests.evaluation.benchmark.subjects import hand_set_subject
from tests.evaluation.models import hand_set

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def known():
    model, clips, true = hand_set(16)
    return Probe(model, clips.pixel_values, batch_size=64), clips.labels, true


def test_corruptions_do_what_they_say():
    truth = np.zeros((2, 3, 50))
    truth[:, 1, :40] = np.random.default_rng(0).normal(size=(2, 40))
    rng = np.random.default_rng(1)
    noisy = corrupted(truth, "noise put in", 0.3, rng)
    assert 0.2 < (noisy != truth).mean() < 0.4
    assert (noisy >= truth).all()
    out = corrupted(truth, "parts taken out", 0.3, rng)
    assert 0.1 < (out != truth)[:, 1, :40].mean() < 0.5
    assert (out[out != truth] == 0).all()
    turned = corrupted(truth, "signs turned", 1.0, rng)
    np.testing.assert_array_equal(turned, -truth)
    assert corrupted(truth, "random", 0.3, rng).std() > 0
    with pytest.raises(ValueError, match="'blurred' is not one of noise put in"):
        corrupted(truth, "blurred", 0.3, rng)


def test_metrics_of_quality_prefer_the_truth(known):
    probe, labels, true = known
    metrics = {
        "ap": lambda maps: average_precision(maps, true > 0),
        "auroc": lambda maps: auroc(maps, true > 0),
        "rank": lambda maps: relevance_rank(maps, true > 0),
        "gap": lambda maps: gap(
            probe,
            maps,
            labels,
            unit="patches",
            fill="mean",
            generator=np.random.default_rng(0),
            n_steps=5,
        ),
        "drop": lambda maps: drops(
            probe,
            maps,
            labels,
            fill="mean",
            generator=np.random.default_rng(0),
            fractions=(0.02,),
        ).removed[0],
    }
    for name, metric in metrics.items():
        check = check_metric(name, metric, true)
        assert check.flagged == (), (name, check)
        assert len(check.comparisons) == 10
        assert set(check.comparisons) >= {"random", "noise put in, 10%", "signs turned, 60%"}
        assert check.comparisons["random"].gain < -0.1


def test_a_metric_that_prefers_a_corrupted_truth_is_flagged_with_how_often(known):
    probe, labels, true = known
    of_tau = check_metric(
        "tau",
        lambda maps: monotonicity(
            probe, maps, labels, fill="mean", generator=np.random.default_rng(0)
        ),
        true,
    )
    assert "random" in of_tau.flagged
    assert of_tau.comparisons["random"].preferred > 0.5
    assert marked("paper's tau") == "paper's tau !"
    # Concentration says nothing of the truth: what is taken out of it concentrates the rest.
    of_gini = check_metric("gini", gini, true)
    assert "parts taken out, 30%" in of_gini.flagged


def test_clips_that_are_undefined_are_left_out_of_a_comparison():
    true = np.random.default_rng(0).random((4, 2, 3))

    def metric(maps):
        value = -np.abs(maps - true).sum(axis=(1, 2))
        value[0] = np.nan
        return value

    check = check_metric("distance", metric, true)
    assert check.truth == 0
    assert all(each.gain < 0 and each.n_clips == 3 for each in check.comparisons.values())
    assert check.flagged == ()
    assert set(CORRUPTIONS) >= {"random"}


OF_BENCHMARK = {
    "average_precision": "AP",
    "auroc": "AUROC",
    "relevance_rank": "rank",
    "pointing": "pointing",
    "emd_space": "EMD space",
    "gini": "Gini",
    "entropy": "entropy",
}
"""Metrics of `jobs.evaluate` that the leaderboard calls otherwise, or alike."""
FAITHFULNESS = (
    *(f"gap {unit}" for unit in ("patches", "frames", "tubes")),
    *(f"{which} {share}%" for which in ("removed", "kept") for share in (2, 5, 10, 20)),
    *("CAM entropy", "paper's faithfulness", "paper's tau"),
)


@pytest.mark.slow
def test_what_is_marked_is_what_the_check_flags_of_all_that_is_shown():
    """On the eight clips of the leaderboard; most of these ask the model hundreds of times."""
    subject, truth, rival = hand_set_subject(8)
    names = (*OF_BENCHMARK.values(), *FAITHFULNESS, "mass")
    flagged = {
        name for name, each in flags(names, subject.single, truth, rival).items() if each.flagged
    }
    ours = {name: OF_BENCHMARK.get(name, name) for name in (*OF_BENCHMARK, *FAITHFULNESS)}
    assert {name for name, theirs in ours.items() if theirs in flagged} == FLAGGED
    # The lift of a clip is its mass over what is covered, whatever the map.
    assert "mass" not in flagged


def test_nothing_else_that_is_shown_is_flagged(known):
    probe, labels, true = known
    grid = (len(labels), 6, 6, 6)
    covered, of_all = (true > 0).astype(float).reshape(grid), np.ones((len(labels), 6), bool)
    reference = frame_shapley(probe, labels)

    def positive(maps):
        return np.maximum(maps, 0).reshape(grid)

    metrics = {
        "emd_time": lambda maps: transport.emd_time(
            positive(maps).sum((2, 3)), covered.sum((2, 3)), of_all
        ),
        "emd_space_time": lambda maps: transport.emd_space_time(positive(maps), covered, of_all),
        "T of the map": lambda maps: rank_agreement(positive(maps).sum((2, 3)), reference),
    }
    for name, metric in metrics.items():
        assert check_metric(name, metric, true).flagged == ()
        assert marked(name) == name
    assert {*LOCALISATION, *TRANSPORT, *COMPLEXITY} == {*OF_BENCHMARK, "emd_time", "emd_space_time"}


def test_concentration_is_marked_since_the_check_flags_it(known):
    for name, metric in (("entropy", lambda maps: -entropy(maps)), ("gini", gini)):
        assert check_metric(name, metric, known[2]).flagged
        assert marked(name) == f"{name} !"
    # The page's Gini is of the map summed over time.
    assert check_metric(
        "gini", lambda maps: gini(maps.sum(axis=1, keepdims=True)), known[2]
    ).flagged
