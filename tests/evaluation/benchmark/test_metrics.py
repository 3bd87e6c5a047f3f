"""The registry of metrics: known answers of the truth, of blind maps and of degenerate ones."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from pipeline.errors import ConfigError
from pipeline.evaluation.benchmark.metrics import (
    DECIDING,
    GUARDING,
    METRICS,
    chosen_metrics,
    flags,
)
from pipeline.evaluation.benchmark.subject import Explained, counted_passes
from pipeline.evaluation.faithfulness import contrastive_drop, drops, gap, random_drops, random_gap
from pipeline.evaluation.localisation import average_precision
from pipeline.evaluation.methods.explainer import explain
from pipeline.evaluation.perturbation import FILLS
from pipeline.evaluation.published import SHARES
from pipeline.evaluation.sanity import cascading_randomisation
from tests.evaluation.benchmark.subjects import hand_set_subject

pytestmark = pytest.mark.usefixtures("one_thread")


NANS = [np.nan, np.nan]


@pytest.fixture(scope="module")
def known():
    return hand_set_subject()


def value(name, scenes, maps):
    return METRICS[name].of_maps(scenes, np.asarray(maps, np.float64))


def test_the_truth_has_the_best_order_and_one_side_only(known):
    subject, truth, rival = known
    for name in ("AP", "AUROC", "rank", "pointing", "mass"):
        np.testing.assert_allclose(value(name, subject.single, truth), 1)
    both = np.concatenate([truth, rival])
    np.testing.assert_allclose(value("two-actor share", subject.double, both), 1)
    swapped = np.concatenate([rival, truth])
    np.testing.assert_allclose(value("two-actor share", subject.double, swapped), 0)
    assert (value("contrastive drop", subject.double, both) > 0).all()


def test_a_map_that_is_blind_to_the_class_has_a_half_and_nothing(known):
    subject, truth, rival = known
    blind = np.tile(np.random.default_rng(20261128).random(truth.shape), (2, 1, 1))
    np.testing.assert_allclose(value("contrastive drop", subject.double, blind), 0, atol=1e-9)
    finds_both = np.tile(truth + rival, (2, 1, 1))
    shares = value("two-actor share", subject.double, finds_both)
    np.testing.assert_allclose(shares, 0.5)
    np.testing.assert_allclose(value("contrastive drop", subject.double, finds_both), 0, atol=1e-9)


def test_faithfulness_is_the_mean_over_fills_less_random_orders(known):
    subject, truth, _ = known
    scenes = subject.single
    probe, labels = scenes.probe, scenes.labels
    gaps, falls = [], []
    for fill in FILLS:
        rng = np.random.default_rng(scenes.seed)
        own = gap(probe, truth, labels, unit="patches", fill=fill, generator=rng)
        gaps.append(own - random_gap(probe, labels, unit="patches", fill=fill, seed=0))
        rng = np.random.default_rng(scenes.seed)
        own = drops(probe, truth, labels, fill=fill, generator=rng).kept[1]
        falls.append(own - random_drops(probe, labels, fill=fill, seed=0).kept[1])
    np.testing.assert_allclose(value("gap patches", scenes, truth), np.mean(gaps, axis=0))
    np.testing.assert_allclose(value("kept 5%", scenes, truth), np.mean(falls, axis=0))


def test_the_contrastive_drop_is_that_of_both_classes(known):
    subject, truth, rival = known
    scenes = subject.double
    expected = [
        contrastive_drop(
            scenes.probe, maps, one, other, fill=fill, generator=np.random.default_rng(0)
        )
        for fill in FILLS
        for maps, one, other in (
            (truth, scenes.labels, scenes.rivals),
            (rival, scenes.rivals, scenes.labels),
        )
    ]
    got = value("contrastive drop", scenes, np.concatenate([truth, rival]))
    np.testing.assert_allclose(got, np.mean(expected, axis=0))


@pytest.mark.filterwarnings("error")
def test_a_constant_map_has_a_defined_answer(known):
    subject, truth, _ = known
    for name, metric in METRICS.items():
        if metric.of_maps is None:
            continue
        shape = (8 if metric.on == "double" else 4, *truth.shape[1:])
        for level in (0.0, 1.0):
            got = value(name, getattr(subject, metric.on), np.full(shape, level))
            assert got.shape == (4,), name
            assert np.isfinite(got).all(), name


def test_what_needs_more_than_maps_is_of_the_explained_method(known):
    subject, _, _ = known
    blind, specific = (Explained(subject, name) for name in ("staa", "evidence"))
    for name in ("class sensitivity", "random classifier"):
        np.testing.assert_allclose(METRICS[name].of(blind), 1, atol=1e-6)
        assert METRICS[name].of(specific).min() < 0.99
    assert (METRICS["max-sensitivity"].of(Explained(subject, "centre")) == 0).all()
    assert (METRICS["max-sensitivity"].of(Explained(subject, "frame difference")) > 0).all()
    # The frame's own contribution is what there is: the truth's profile is the reference.
    agreement = METRICS["frames' Shapley"].of(Explained(subject, "evidence"))
    assert agreement.mean() > METRICS["frames' Shapley"].of(Explained(subject, "uniform")).mean()
    ap = average_precision(
        blind.single.reshape(subject.single.covered.shape), subject.single.covered > 0
    )
    np.testing.assert_allclose(METRICS["AP"].of(blind), ap)


def test_the_cascade_is_the_mean_over_the_classifier_and_each_block_and_costs_little(known):
    subject, _, _ = known
    adapter, scenes = subject.adapter, subject.single
    labels = torch.from_numpy(scenes.labels)

    def explained_by_evidence(pixel_values):
        return explain("evidence", adapter, pixel_values, labels).numpy()

    of_stages = cascading_randomisation(
        adapter.model, explained_by_evidence, scenes.pixel_values, seed=1000 * subject.seed
    )
    of_blocks = [of_stages[name] for name in of_stages if name == "classifier" or "layer." in name]
    assert 2 <= len(of_blocks) <= 4
    explained = Explained(subject, "evidence")
    for name in ("random classifier", "random blocks"):
        METRICS[name].of(explained)
    with counted_passes(adapter) as seen:
        got = METRICS["cascade"].of(explained)
    np.testing.assert_allclose(got, np.mean(of_blocks, axis=0), atol=1e-6)
    # The maps of both ends were there.
    assert seen == [scenes.n_clips * (len(of_blocks) - 2)]
    # What doesn't look at the model never changes.
    np.testing.assert_allclose(METRICS["cascade"].of(Explained(subject, "centre")), 1)


def stub(maps, covered=None, spliced=None, planted=None):
    """An explained subject of four clips of four steps and nine patches."""
    splices = None if planted is None else SimpleNamespace(planted=planted)
    single = SimpleNamespace(covered=covered, n_clips=len(maps))
    return SimpleNamespace(
        single=maps, spliced=spliced, subject=SimpleNamespace(single=single, spliced=splices)
    )


def test_a_moment_is_found_in_the_step_that_alone_shows_the_class():
    covered = np.zeros((4, 4, 3, 3), np.float32)
    # The class shows in one step of the first two, in several of the third, in none of the last.
    covered[0, 2, 1, 1] = covered[1, 0, 0, 0] = covered[2, :3, 1, 1] = 0.4
    maps = np.zeros((4, 4, 9))
    maps[:, 2, 3] = 1
    # What speaks against the class counts as none.
    maps[:, 0, 0] = -5
    np.testing.assert_array_equal(METRICS["moment found"].of(stub(maps, covered)), [1, 0, *NANS])


def test_a_splice_is_found_by_the_map_of_the_class_that_was_put_in():
    maps, planted = np.zeros((2, 4, 9)), np.zeros((2, 4), np.bool_)
    planted[:, 1] = True
    maps[0, 1], maps[1, 2] = 1, 1
    explained = stub(maps[::-1], spliced=maps, planted=planted)
    np.testing.assert_allclose(METRICS["splice excess"].of(explained), [0.75, -0.25])
    np.testing.assert_array_equal(METRICS["splice excess"].of(stub(maps)), NANS)


def test_legacy_forms_are_of_bytes_at_the_start_of_the_clip_whatever_the_patches(known):
    subject, _, _ = known
    scenes, explained = subject.single, Explained(subject, "staa")
    clean = scenes.probe.clean_logits()
    changes = []
    for share in SHARES:
        pixels = scenes.pixel_values.permute(0, 1, 3, 4, 2).contiguous()
        for clip, of_clip in zip(pixels, explained.single, strict=True):
            upper = np.argsort(of_clip.ravel())[-int(share * of_clip.size) :]
            clip.view(-1)[torch.from_numpy(upper.copy())] = 0
        with torch.inference_mode():
            logits = subject.adapter.predict(pixels.permute(0, 1, 4, 2, 3)).double().numpy()
        changes.append(np.abs(logits - clean).mean(axis=1))
    half = METRICS["legacy faithfulness"].of(explained)
    np.testing.assert_allclose(half, 1 - changes[SHARES.index(0.5)], atol=1e-6)
    expected = [kendalltau(SHARES, of_clip).statistic for of_clip in np.transpose(changes)]
    np.testing.assert_allclose(METRICS["legacy tau"].of(explained), expected, atol=1e-6)


def test_flags_are_of_metrics_that_rank_a_corrupted_truth_above_it(known):
    subject, truth, rival = known
    found = flags(
        ("AP", "contrastive drop", "paper's tau", "Gini", "entropy", "random classifier"),
        subject.single,
        truth,
        rival,
    )
    assert set(found) == {"AP", "contrastive drop", "paper's tau", "Gini", "entropy"}
    assert found["AP"].flagged == ()
    assert "random" not in found["contrastive drop"].flagged
    assert "random" in found["paper's tau"].flagged
    # Lower entropy is better, and taking parts out concentrates the rest.
    assert "parts taken out, 60%" in found["entropy"].flagged
    assert "parts taken out, 60%" in found["Gini"].flagged


def test_metrics_are_chosen_by_name_and_by_group():
    assert chosen_metrics(["all"]) == tuple(METRICS)
    assert set(chosen_metrics(["decision"])) == {*DECIDING, *GUARDING}
    assert chosen_metrics(["Gini", "time"]) == (
        *("frames' Shapley", "Shapley's own", "moment found", "splice excess", "Gini"),
    )
    with pytest.raises(ConfigError, match="metrics: 'ap' is not one of all, decision"):
        chosen_metrics(["ap"])
