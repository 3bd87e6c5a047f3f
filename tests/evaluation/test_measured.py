"""What was measured, averaged: less random orders, over clips that were measured, by class."""

import numpy as np
import pytest

from pipeline.evaluation.measured import _measured, _of_clips
from pipeline.evaluation.perturbation import FILLS


def test_figures_are_less_random_orders_and_of_the_right_unit_and_share():
    rng = np.random.default_rng(20261128)
    values = {
        name: rng.random((5, 3, size))
        for name, size in (("gap", 3), ("removed", 4), ("kept", 4))
        for name in (name, f"random_{name}")
    }
    values |= {name: rng.random((5, 3)) for name in ("cam_entropy", "paper_faithfulness")}
    values["paper_tau"] = rng.random((5, 3))
    figures = _of_clips(values)
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
    once = _measured(np.repeat(of_video, 3, axis=1), np.arange(200), 0)
    error = of_video.std(ddof=1) / np.sqrt(200)
    assert once.mean == pytest.approx(of_video.mean())
    assert (once.high - once.low) / 3.92 == pytest.approx(error, rel=0.1)
    assert tuple(once.of_fills) == FILLS
    views = np.repeat(np.repeat(of_video, 3, axis=1), 4, axis=0)
    several = _measured(views, np.repeat(np.arange(200), 4), 0)
    assert several.n_clips == 800
    assert several.low == pytest.approx(once.low)
    assert several.high == pytest.approx(once.high)


@pytest.mark.filterwarnings("error")
def test_no_clip_has_no_figure():
    empty = _measured(np.zeros((0, 3)), np.zeros(0, int), 0)
    assert np.isnan(empty.mean)
    assert empty.n_clips == 0


def test_of_few_videos_there_is_a_mean_and_no_interval():
    few = _measured(np.random.default_rng(0).random((40, 3)), np.repeat(np.arange(4), 10), 0)
    assert np.isfinite(few.mean)
    assert np.isnan([few.low, few.high]).all()
    assert few.n_clips == 40
