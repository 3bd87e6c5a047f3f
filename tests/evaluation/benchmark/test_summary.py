"""Means, intervals and the decision, on values whose answer is known."""

import numpy as np
import pytest

from pipeline.evaluation.benchmark.cells import Cell
from pipeline.evaluation.benchmark.metrics import DECIDING, GUARDING
from pipeline.evaluation.benchmark.subject import Cost
from pipeline.evaluation.benchmark.summary import Draws, Results, decide, figure

MODELS, SEEDS, N_CLIPS = ("a", "b"), (1, 2), 40


def results_of(means, *, n_clips=N_CLIPS, noise=0.1, seed=20261128, **lacking):
    """Cells whose metrics have some means, by method and then metric, with noise of clips.

    The noise is that of the clip, the same for each method.
    """
    rng = np.random.default_rng(seed)
    of_clip = {
        key: rng.normal(0, noise, n_clips) for key in [(m, s) for m in MODELS for s in SEEDS]
    }
    cells = {
        (model, scene_seed, method): Cell(
            model,
            scene_seed,
            method,
            {
                metric: mean + of_clip[model, scene_seed]
                for metric, mean in of_metrics.items()
                if (method, model) != lacking.get("lacks")
            },
            Cost(0.02, 0.01, 1.0),
        )
        for method, of_metrics in means.items()
        for model in MODELS
        for scene_seed in SEEDS
    }
    return Results(cells, MODELS, SEEDS, tuple(means), n_clips)


def figures_of(ap, drop, share, classifier):
    names = (*DECIDING, *GUARDING)
    return dict(zip(names, (ap, drop, share, classifier), strict=True))


def test_the_interval_is_the_standard_error_of_clustered_clips():
    rng = np.random.default_rng(20261128)
    n_seeds, n_clips = 30, 20
    of_seed = rng.normal(0, 0.5, (n_seeds, 1))
    values = of_seed + rng.normal(0, 1, (n_seeds, n_clips))
    got = figure({"a": values}, Draws(n_seeds, n_clips))
    assert got.mean == pytest.approx(values.mean())
    # Means of seeds vary by both; treating clips as independent would be half as wide.
    error = values.mean(axis=1).std(ddof=1) / np.sqrt(n_seeds)
    assert (got.high - got.low) / 3.92 == pytest.approx(error, rel=0.2)
    assert got.n_clips == 600
    assert got.n_undefined == 0


def test_models_count_the_same_and_what_is_undefined_is_counted():
    of_models = {"a": np.full((1, 4), 1.0), "b": np.full((1, 2), 3.0)}
    of_models["a"][0, 3] = np.nan
    got = figure(of_models, Draws(1, 4))
    assert got.mean == got.low == got.high == 2
    assert (got.n_clips, got.n_undefined) == (5, 1)
    assert got.of_models == {"a": 1.0, "b": 3.0}
    assert figure({"a": np.full((1, 3), np.nan)}, Draws(1, 3)) is None
    assert figure({}, Draws(1, 3)) is None


def test_infinity_is_in_no_mean_as_it_is_in_no_interval():
    values = np.array([[1.0, np.inf, 3.0, np.nan]])
    got = figure({"a": values}, Draws(1, 4))
    assert got.mean == 2
    assert got.low <= got.mean <= got.high
    assert (got.n_clips, got.n_undefined) == (2, 2)


def test_the_best_that_passes_the_guards_wins_if_its_gain_is_more_than_chance():
    old = figures_of(0.3, 0.0, 0.5, 1.0)
    means = {
        "staa": old,
        "evidence": figures_of(0.5, 0.4, 0.9, 0.2),
        # Better, and it fails a guard each.
        "net evidence": figures_of(0.8, 0.8, 0.7, 0.2),
        "signed evidence": figures_of(0.8, 0.9, 0.9, 0.6),
        # Better, and it takes a backward pass.
        "Chefer": figures_of(0.9, 0.9, 0.9, 0.1),
    }
    decision = decide(results_of(means))
    assert decision.winner == "evidence"
    assert [each.method for each in decision.candidates] == [
        *("signed evidence", "net evidence", "evidence", "staa")
    ]
    by_name = {each.method: each for each in decision.candidates}
    assert by_name["evidence"].gain.mean == pytest.approx(0.3)
    # Of the same clips: the noise that both share is no part of it.
    assert by_name["evidence"].gain.high == pytest.approx(0.3)
    assert by_name["staa"].gain.mean == 0


def test_a_tie_keeps_the_old_default():
    rng = np.random.default_rng(20261128)
    means = {"staa": figures_of(0.3, 0.3, 0.9, 0.1), "evidence": figures_of(0.3, 0.3, 0.9, 0.1)}
    results = results_of(means)
    for (_, _, method), cell in results.cells.items():
        if method == "evidence":
            for values in cell.values.values():
                values += rng.normal(0.0, 0.3, len(values))
    assert decide(results).winner == "staa"


def test_a_method_that_lacks_a_model_is_no_candidate_and_no_old_default_no_decision():
    means = {"staa": figures_of(0.3, 0, 0.5, 1), "evidence": figures_of(0.5, 0.5, 0.9, 0.1)}
    decision = decide(results_of(means, lacks=("evidence", "b")))
    assert [each.method for each in decision.candidates] == ["staa"]
    assert decision.winner == "staa"
    assert decide(results_of({"evidence": means["evidence"]})) is None
    assert decide(results_of({"staa": {"AP": 0.3}})) is None
    ranked = {name: means["staa"][name] for name in DECIDING}
    assert decide(results_of({"staa": ranked})) is None
