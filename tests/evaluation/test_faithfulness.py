"""Curves and drops on models whose contributions are known, and on degenerate ones."""

import numpy as np
import pytest
import torch

from pipeline.evaluation import published
from pipeline.evaluation.faithfulness import (
    cam_entropy,
    contrastive_drop,
    curves,
    drops,
    gap,
    random_drops,
    random_gap,
)
from pipeline.evaluation.perturbation import (
    FILLS,
    UNITS,
    Probe,
    fill_frames,
    probability_of,
    replace_patches,
    unit_scores,
)
from pipeline.models.geometry import Geometry
from pipeline.synthetic.hand_set_model import contributions
from tests.evaluation.models import Linear, hand_set

GRID = Geometry(n_times=3, height=3, width=3, patch_size=4)


pytestmark = pytest.mark.usefixtures("one_thread")


def rng():
    return np.random.default_rng(0)


def linear(n_clips=3):
    model = Linear(GRID, 4)
    clips = torch.randn(n_clips, 3, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    target = np.arange(n_clips) % 4
    return model, clips, target, model.contributions(clips, target)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("fill", FILLS)
def test_curves_are_those_of_a_loop_over_parts(unit, fill):
    model, clips, target, attribution = linear()
    result = curves(
        Probe(model, clips), attribution, target, unit=unit, fill=fill, generator=rng(), n_steps=4
    )
    scores, filled = unit_scores(attribution, unit), fill_frames(clips, fill)
    n_parts = scores.shape[1]
    for point, share in enumerate(result.shares):
        count = round(share * n_parts)
        for clip in range(len(clips)):
            chosen = np.zeros(n_parts, bool)
            chosen[np.argsort(-scores[clip])[:count]] = True
            masks = {
                "patches": lambda c: c.reshape(3, 9),
                "frames": lambda c: np.tile(c[:, None], (1, 9)),
                "tubes": lambda c: np.tile(c[None], (3, 1)),
            }
            mask = torch.from_numpy(masks[unit](chosen))[None]
            for removed, curve in ((mask, result.deletion), (~mask, result.insertion)):
                picture = replace_patches(
                    clips[clip : clip + 1], filled[clip : clip + 1], removed, GRID
                )
                expected = torch.softmax(model.predict(picture), -1)[0, target[clip]]
                assert curve[point, clip] == pytest.approx(float(expected), abs=1e-5)
    assert result.shares[0] == 0
    assert result.shares[-1] == 1
    np.testing.assert_allclose(result.deletion[0], result.insertion[-1])
    np.testing.assert_allclose(result.deletion[-1], result.insertion[0])
    areas = np.trapezoid(result.insertion, result.shares, axis=0)
    areas -= np.trapezoid(result.deletion, result.shares, axis=0)
    np.testing.assert_allclose(result.gap, areas)


@pytest.mark.parametrize("unit", UNITS)
def test_true_contributions_have_the_largest_gap_and_their_opposite_the_smallest(unit):
    model, clips, true = hand_set(8)
    probe = Probe(model, clips.pixel_values, batch_size=64)
    for fill in ("mean", "median"):
        options = {"unit": unit, "fill": fill, "generator": rng(), "n_steps": 5}
        best = gap(probe, true, clips.labels, **options)
        worst = gap(probe, -true, clips.labels, **options)
        chance = random_gap(probe, clips.labels, unit=unit, fill=fill, seed=0, n_steps=5)
        assert best.mean() > chance.mean() + 0.1
        assert worst.mean() < chance.mean() - 0.1


def test_a_constant_map_is_one_random_order_more():
    model, clips, _ = hand_set(40)
    probe = Probe(model, clips.pixel_values, batch_size=64)
    constant = np.ones((40, 6, 36))
    of_constant = gap(
        probe, constant, clips.labels, unit="patches", fill="mean", generator=rng(), n_steps=5
    )
    chance = random_gap(probe, clips.labels, unit="patches", fill="mean", seed=0, n_steps=5)
    error = np.std(of_constant - chance) / np.sqrt(40)
    assert abs((of_constant - chance).mean()) < 4 * error


def test_removing_and_keeping_the_true_patches():
    model, clips, true = hand_set(12)
    probe = Probe(model, clips.pixel_values, batch_size=64)
    of_truth = drops(probe, true, clips.labels, fill="mean", generator=rng())
    of_chance = random_drops(probe, clips.labels, fill="mean", seed=0)
    assert of_truth.removed.shape == of_truth.kept.shape == (4, 12)
    # Of 216 patches at most 6 contribute: 5 % take them all away.
    clean = probability_of(probe.clean_logits(), clips.labels)
    assert (of_truth.removed[1] > clean - 0.5).all()
    assert (of_truth.kept[1] < 0.05).all()
    assert of_truth.removed.mean() > of_chance.removed.mean() + 0.3
    assert of_truth.kept.mean() < of_chance.kept.mean() - 0.2
    one_frame = drops(
        probe, true, clips.labels, fill="mean", generator=rng(), unit="frames", fractions=(0.01,)
    )
    every = [
        drops(
            probe,
            np.repeat(np.eye(6)[[frame] * 12, :, None], 36, axis=2),
            clips.labels,
            fill="mean",
            generator=rng(),
            unit="frames",
            fractions=(0.01,),
        ).removed[0]
        for frame in range(6)
    ]
    np.testing.assert_allclose(one_frame.removed[0], np.max(every, axis=0))


def test_of_two_classes_only_the_map_of_the_right_one_takes_its_margin():
    model, clips, true = hand_set(12)
    probe = Probe(model, clips.pixel_values, batch_size=64)
    classes = clips.labels, clips.runners_up
    right = contrastive_drop(probe, true, *classes, fill="mean", generator=rng())
    of_other = contributions(clips.pixel_values)[np.arange(12), clips.runners_up]
    wrong = contrastive_drop(probe, of_other, *classes, fill="mean", generator=rng())
    blind = contrastive_drop(
        probe, (true > 0) | (of_other > 0), *classes, fill="mean", generator=rng()
    )
    logits = probe.clean_logits()
    # 5 % hold every patch that counts: what is left is what the fill has of its colour.
    of_label = logits[np.arange(12), clips.labels]
    assert (right > 0.6 * of_label).all()
    assert (right <= of_label).all()
    assert (right > blind).all()
    assert (blind > wrong).all()
    assert (wrong < 0.25).all()


def test_cam_entropy_keeps_the_smallest_half_of_the_map():
    model, clips, _, attribution = linear()
    positive = np.maximum(attribution, 0)
    result = cam_entropy(Probe(model, clips), positive, fill="mean", generator=rng())
    for clip in range(3):
        flat = positive[clip].ravel()
        order = np.argsort(-flat)
        count = int(np.searchsorted(np.cumsum(flat[order]), flat.sum() / 2)) + 1
        kept = np.zeros(27, bool)
        kept[order[:count]] = True
        picture = replace_patches(
            clips[clip : clip + 1],
            fill_frames(clips, "mean")[clip : clip + 1],
            torch.from_numpy(~kept.reshape(1, 3, 9)),
            GRID,
        )
        entropies = []
        for version in (picture, clips[clip : clip + 1]):
            p = torch.softmax(model.predict(version).double(), -1).numpy()[0]
            entropies.append(-(p * np.log(p)).sum())
        expected = (entropies[0] - entropies[1]) / np.log(4)
        assert result[clip] == pytest.approx(expected, abs=1e-5)


def test_degenerate_input_has_an_answer():
    model, clips, target, attribution = linear()
    for zeros in (np.zeros_like(attribution), np.ones_like(attribution)):
        assert np.isfinite(
            cam_entropy(Probe(model, clips), zeros, fill="mean", generator=rng())
        ).all()
    one_class = Linear(GRID, 1)
    none = np.zeros(3, int)
    probe = Probe(one_class, clips)
    np.testing.assert_array_equal(
        cam_entropy(probe, attribution**2, fill="mean", generator=rng()), 0
    )
    still = torch.full_like(clips, 0.3)
    unchanged = Probe(model, still)
    for unit in UNITS:
        options = {"unit": unit, "fill": "blur", "generator": rng()}
        np.testing.assert_allclose(gap(unchanged, attribution, target, **options), 0, atol=1e-6)
        np.testing.assert_allclose(gap(probe, attribution, none, **options), 0, atol=1e-12)
    fallen = drops(unchanged, attribution, target, fill="mean", generator=rng())
    np.testing.assert_allclose([fallen.removed, fallen.kept], 0, atol=1e-6)
    # One frame: the frame is all there is to remove.
    grid = Geometry(n_times=1, height=3, width=3, patch_size=4)
    one = Probe(Linear(grid, 4), clips[:, :1])
    options = {"unit": "frames", "fill": "mean", "generator": rng()}
    np.testing.assert_allclose(gap(one, attribution[:, :1], target, **options), 0, atol=1e-12)


def test_a_map_with_nan_orders_nothing():
    model, clips, target, attribution = linear()
    probe, bad = Probe(model, clips), attribution.copy()
    bad[1, 0, 4] = np.nan

    def asked(maps):
        for unit in UNITS:
            given = {"unit": unit, "fill": "median"}
            yield gap(probe, maps, target, generator=rng(), **given)
            fall = drops(probe, maps, target, generator=rng(), **given)
            yield from (*fall.removed, *fall.kept)
        given = {"fill": "median"}
        yield contrastive_drop(probe, maps, target, (target + 1) % 4, generator=rng(), **given)
        yield cam_entropy(probe, maps, generator=rng(), **given)
        yield published.faithfulness(probe, maps, target, generator=rng(), **given)
        yield published.monotonicity(probe, maps, target, generator=rng(), **given)

    for of_bad, of_good in zip(asked(bad), asked(attribution), strict=True):
        np.testing.assert_array_equal(of_bad, np.where(np.arange(3) == 1, np.nan, of_good))
