"""What was measured, averaged: less random orders, over clips that were measured, by class."""

import numpy as np
import pytest

from pipeline.evaluation import faithfulness, perturbation
from pipeline.store.measured import (
    FILLS,
    FLAGGED,
    SHARES,
    UNITS,
    Sample,
    averaged,
    faithfulness_figures,
    marked,
)


def test_figures_are_less_random_orders_and_of_the_right_unit_and_share():
    rng = np.random.default_rng(20261128)
    values = {
        name: rng.random((5, 3, size))
        for name, size in (("gap", 3), ("removed", 4), ("kept", 4))
        for name in (name, f"random_{name}")
    }
    values |= {name: rng.random((5, 3)) for name in ("cam_entropy", "paper_faithfulness")}
    values["paper_tau"] = rng.random((5, 3))
    figures = faithfulness_figures(values)
    np.testing.assert_allclose(
        figures["gap frames"], values["gap"][:, :, 1] - values["random_gap"][:, :, 1]
    )
    np.testing.assert_allclose(
        figures["kept 20%"], values["kept"][:, :, 3] - values["random_kept"][:, :, 3]
    )
    assert list(figures)[:5] == [
        *("gap patches", "gap frames", "gap tubes", "removed 2%", "removed 5%")
    ]


def test_the_interval_is_over_videos_and_views_of_one_are_no_further_evidence():
    rng = np.random.default_rng(20261128)
    of_video = rng.normal(0.3, 0.1, (200, 1))
    once = averaged(np.repeat(of_video, 3, axis=1), np.arange(200))
    error = of_video.std(ddof=1) / np.sqrt(200)
    assert once.mean == pytest.approx(of_video.mean())
    assert (once.high - once.low) / 3.92 == pytest.approx(error, rel=0.1)
    assert tuple(once.of_fills) == FILLS
    views = np.repeat(np.repeat(of_video, 3, axis=1), 4, axis=0)
    several = averaged(views, np.repeat(np.arange(200), 4))
    assert several.n_clips == 800
    assert several.low == pytest.approx(once.low)
    assert several.high == pytest.approx(once.high)


@pytest.mark.filterwarnings("error")
def test_no_clip_has_no_figure():
    empty = averaged(np.zeros((0, 3)), np.zeros(0, int))
    assert np.isnan(empty.mean)
    assert empty.n_clips == 0


def test_of_few_videos_there_is_a_mean_and_no_interval():
    few = averaged(np.random.default_rng(0).random((40, 3)), np.repeat(np.arange(4), 10))
    assert np.isfinite(few.mean)
    assert np.isnan([few.low, few.high]).all()
    assert few.n_clips == 40


def test_a_figure_without_fills_is_averaged_as_it_is():
    values = np.random.default_rng(20261128).random(30)
    figure = averaged(values, np.arange(30))
    by_fill = averaged(np.repeat(values[:, None], 3, axis=1), np.arange(30))
    assert figure.mean == pytest.approx(values.mean())
    assert (figure.low, figure.high) == pytest.approx((by_fill.low, by_fill.high))
    assert figure.of_fills == {}
    assert np.isnan(averaged(values[:0], np.zeros(0, int)).mean)


def test_dimensions_are_in_the_order_in_which_they_are_measured():
    assert (FILLS, UNITS) == (perturbation.FILLS, perturbation.UNITS)
    assert SHARES == faithfulness.FRACTIONS


def test_a_flagged_metric_is_marked_under_any_name():
    assert marked("gini", "Gini index") == "Gini index !"
    assert marked("gap patches") == "gap patches"
    for name in ("gap frames", "entropy", "CAM entropy", "paper's faithfulness", "paper's tau"):
        assert marked(name) == f"{name} !"
    # The check has found these, and no more; a slow test asks it again.
    assert len(FLAGGED) == 6


def sample_of_classes(labels, **changes):
    n_clips = len(labels)
    given = {
        "rows": np.arange(n_clips),
        "videos": np.arange(n_clips),
        "labels": labels,
        "class_names": ("a", "b", "c", "never"),
        "figures": {"faithfulness": {}, "time": {}, "sanity": {}},
        "repeatability": None,
        "recomputed": None,
        "is_of_class": True,
        "failed": {},
        "n_forward": 1.0,
    }
    return Sample(**(given | changes))


def test_what_nobody_sees_in_the_figures_of_sanity_is_said():
    labels = np.zeros(4, int)
    figures = {"faithfulness": {}, "time": {}, "sanity": {"class sensitivity": np.ones(4)}}
    same, other = np.full(4, 0.9995), np.array([1, 1, 1, 0.9])
    assert sample_of_classes(labels, figures=figures, recomputed=same).notes_on_sanity() == []
    blind = sample_of_classes(labels, figures=figures, recomputed=other, is_of_class=False)
    construction, elsewhere = blind.notes_on_sanity()
    assert "the first two are 1 by construction" in construction
    assert "correlate with the run's at 0.975 only" in elsewhere
    alone = sample_of_classes(labels, figures=figures, recomputed=same, class_names=("a",))
    assert alone.notes_on_sanity() == ["The model has one class: the first is 1 by construction."]
    # Nothing was asked, so nothing is said.
    assert sample_of_classes(labels, is_of_class=False).notes_on_sanity() == []


def test_classes_are_averaged_over_their_own_clips():
    rng = np.random.default_rng(20261129)
    values, labels = rng.random((60, 3)), rng.integers(-1, 3, 60)
    figures = {"faithfulness": {"gap patches": values}, "time": {}, "sanity": {}}
    sample = sample_of_classes(labels, figures=figures)
    classes = sample.by_class("faithfulness", "gap patches")
    assert list(classes) == ["a", "b", "c"]
    for label, name in enumerate(classes):
        assert classes[name].mean == pytest.approx(values[labels == label].mean())
        assert classes[name].n_clips == (labels == label).sum()
        assert classes[name].low < classes[name].mean < classes[name].high
    assert sample.by_class("time", "T of the map") == {}
    assert sample.averages("faithfulness")["gap patches"].n_clips == 60
