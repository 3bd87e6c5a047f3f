"""How clips of a run score: normal scores by class, and how much they can vouch for."""

import numpy as np
import pytest
from scipy.stats import kstest, norm

from pipeline.errors import StoreError
from pipeline.stream.reference import AGREEMENT, DISTANCE, MIN_CLIPS, TURNS, Places, Reference


def correlated(random, n):
    """Three skewed scores, of which two go together."""
    a, b = random.normal(size=(2, n))
    return {"a": np.exp(a), "b": np.exp(0.9 * a + 0.4 * b), "c": random.random(n) ** 3}


def made(seed=0, n=4000):
    random = np.random.default_rng(seed)
    label = random.integers(0, 2, n)
    scores = correlated(random, n)
    scores["a"] = scores["a"] + 5 * label
    return Reference.of(scores, label, ("x", "y")), random


def z_of(reference, group, values):
    return np.array([reference.normal_scores(group, row)[0] for row in values])


def test_new_clips_of_the_same_kind_have_normal_scores():
    reference, random = made()
    assert reference.scores == ("a", "b", "c", DISTANCE)
    values = np.stack(list(correlated(random, 3000).values()), axis=1)
    z = z_of(reference, reference.group_of("x"), values)
    for column in z.T:
        assert kstest(column, norm.cdf).statistic < 0.05


def test_a_class_is_held_against_its_own_clips():
    reference, _ = made()
    values = np.array([[6.0, 1.0, 0.2]])
    assert z_of(reference, reference.group_of("x"), values)[0, 0] > 1.5
    assert z_of(reference, reference.group_of("y"), values)[0, 0] == pytest.approx(0, abs=0.1)


def test_classes_with_few_clips_or_unknown_ones_are_held_against_all():
    label = np.array([0] * 100 + [1] * (MIN_CLIPS - 1))
    scores = {"a": np.random.default_rng(0).random(len(label))}
    reference = Reference.of(scores, label, ("many", "few", "none"))
    assert reference.group_of("many") == 0
    assert {reference.group_of(name) for name in ("few", "none", "unheard of")} == {3}
    assert reference.share_at_most("none") > 0


def test_what_lies_beyond_all_clips_goes_on_and_is_cut_off():
    reference, _ = made()
    greatest = reference.knots[0, 0, -1]
    rising = np.stack([greatest * np.array([1.0, 1.2, 2, 50]), np.ones(4), np.full(4, 0.2)], axis=1)
    z = z_of(reference, 0, rising)[:, 0]
    assert (np.diff(z) >= 0).all()
    assert z[1] > z[0]
    assert z[3] == 4.5
    assert z_of(reference, 0, -rising)[3, 0] == -4.5


def test_two_scores_that_disagree_are_far_though_each_is_usual():
    reference, _ = made()
    # a and b go together: one high and the other low is unusual, both high isn't.
    usual, unusual = z_of(reference, 0, np.array([[4.0, 3.5, 0.2], [4.0, 0.4, 0.2]]))
    assert np.abs(unusual[:3]).max() < 2.5
    assert unusual[3] > 3 > usual[3] + 0.5


def test_equal_scores_share_the_middle_of_their_ranks():
    values = np.repeat([0.0, 1.0], [80, 20])
    reference = Reference.of({"a": values}, np.zeros(100, int), ("x",))
    low, high = z_of(reference, 0, np.array([[0.0], [1.0]]))[:, 0]
    assert low == pytest.approx(norm.ppf(0.4), abs=0.15)
    assert high == pytest.approx(norm.ppf(0.9), abs=0.15)
    assert reference.typical(0, 0) == 0


def test_scores_without_values_are_left_out_and_nan_says_nothing():
    scores = {"a": np.arange(100.0), "gone": np.full(100, np.nan)}
    reference = Reference.of(scores, np.zeros(100, int), ("x",))
    assert reference.scores == ("a", DISTANCE)
    assert np.isnan(z_of(reference, 0, np.array([[np.nan]]))).all()


@pytest.mark.parametrize("n", [0, MIN_CLIPS - 1])
def test_too_few_clips_are_refused(n):
    with pytest.raises(StoreError, match=f"the run has {n} clips with scores: expected at least"):
        Reference.of({"a": np.arange(float(n))}, np.zeros(n, int), ("x",))


def test_maps_are_held_against_the_usual_ones_of_their_class_by_others():
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 400)
    # Of one class the maps lie on the left patches, of the other on the right.
    weights = np.where(label[:, None] == np.arange(2), 9.0, 1.0).repeat(3, axis=1)
    maps = random.gamma(5 * weights).reshape(400, 1, 6)
    maps /= maps.sum(axis=(1, 2), keepdims=True)
    scores = {"a": random.normal(size=400)}
    reference = Reference.of(scores, label, ("left", "right"), maps=maps)
    assert reference.scores == ("a", AGREEMENT, *TURNS, DISTANCE)
    left, right = (maps[label == index] for index in (0, 1))
    np.testing.assert_allclose(reference.usual[:2], [left.mean(axis=0), right.mean(axis=0)])
    expected = np.sqrt(right[0] * left.mean(axis=0)).sum()
    unusual = reference.map_scores(0, right[0])
    assert unusual[AGREEMENT] == pytest.approx(expected)
    usual = reference.map_scores(0, left[0])
    z = z_of(reference, 0, np.array([[0.0, *of_map.values()] for of_map in (usual, unusual)]))
    assert (abs(z[0]) < 3).all()
    assert z[1, 1] == -4.5
    # What lay on the left lies on the right where the camera stands on its head.
    assert z[1, 1 + 1 + list(TURNS).index("upside down")] == 4.5
    # Of maps of another grid nothing is known.
    assert np.isnan(list(reference.map_scores(0, right[0].T).values())).all()


@pytest.mark.parametrize("grid", [(7, 7), (4, 6)])
def test_a_map_that_has_turned_agrees_best_with_the_usual_one_turned_so(grid):
    random = np.random.default_rng(4)
    height, width = grid
    # Most lies above, and some on the left.
    weights = np.linspace(9, 1, height)[:, None] + np.linspace(3, 0, width)
    maps = random.gamma(weights, size=(200, height, width))
    maps /= maps.sum(axis=(1, 2), keepdims=True)
    reference = Reference.of({"a": random.random(200)}, np.zeros(200, int), ("x",), maps=maps)
    usual = {name: reference.map_scores(0, weights / weights.sum())[name] for name in TURNS}
    assert max(usual.values()) < -0.02
    above_to = {"turned to the left": (slice(None), 0), "turned to the right": (slice(None), -1)}
    for name, edge in {**above_to, "upside down": (-1, slice(None))}.items():
        turned = np.full(grid, 1.0)
        turned[edge] = 6
        found = reference.map_scores(0, turned / turned.sum())
        assert max(TURNS, key=found.get) == name
        assert found[name] > 0.02


def test_clips_are_as_far_from_the_others_as_new_ones_are():
    random = np.random.default_rng(2)
    names, n = [f"s{i}" for i in range(12)], 80

    def drawn(n):
        return {name: random.normal(size=n) for name in names}

    z = []
    for _ in range(20):
        reference = Reference.of(drawn(n), np.zeros(n, int), ("x",))
        new = np.stack(list(drawn(50).values()), axis=1)
        z.append(z_of(reference, 0, new)[:, -1].mean())
    # Twelve scores of eighty clips: their own distances are 0.6 standard deviations less.
    assert abs(np.mean(z)) < 0.3


def test_clips_of_a_stream_count_as_often_as_they_are_independent():
    random = np.random.default_rng(3)
    scene = np.cumsum(random.random(4000) < 1 / 5)
    n_scenes = scene[-1] + 1
    scores = {name: random.normal(size=n_scenes)[scene] for name in "ab"}
    label = random.integers(0, 8, n_scenes)[scene]
    names = tuple("abcdefgh")
    shuffled = random.permutation(4000)
    given = {name: values[shuffled] for name, values in scores.items()}
    places = Places(shuffled, 0.5)
    stream = Reference.of(given, label[shuffled], names, places=places)
    # In steps of half a second, and with what the estimate may be wrong by.
    assert ((stream.correlation_s > 0.5 * 7) & (stream.correlation_s < 0.5 * 16)).all()
    np.testing.assert_allclose(stream.n_clips / stream.n_independent, 9, rtol=0.3)
    clips = Reference.of(scores, label, names)
    assert clips.correlation_s is None
    assert np.array_equal(clips.n_independent, clips.n_clips)
    assert stream.share_at_most("a") > clips.share_at_most("a")
