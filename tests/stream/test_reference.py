"""How clips of a run score: normal scores by class, and a file without pickle."""

import contextlib
import io
from random import Random

import numpy as np
import pytest
from scipy.stats import kstest, norm

from pipeline.errors import StoreError
from pipeline.stream.reference import DISTANCE, MIN_CLIPS, Reference
from tests.support.mutations import mutated_bytes, seed_of_the_day


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


def test_it_is_kept_in_a_file(tmp_path):
    reference, random = made()
    url = str(tmp_path / "reference.npz")
    reference.save(url)
    again = Reference.load(url)
    assert (again.scores, again.class_names) == (reference.scores, reference.class_names)
    values = np.stack(list(correlated(random, 20).values()), axis=1)
    np.testing.assert_array_equal(z_of(again, 0, values), z_of(reference, 0, values))


def test_a_file_that_is_damaged_or_has_a_pickle_is_refused(tmp_path):
    reference, _ = made(n=400)
    url = tmp_path / "reference.npz"
    reference.save(str(url))
    data, random = url.read_bytes(), Random(seed_of_the_day())
    for _ in range(100):
        url.write_bytes(mutated_bytes(data, random))
        said = "is no reference for streams"
        with contextlib.suppress(StoreError):
            Reference.load(str(url))
            said = None
        if said:
            with pytest.raises(StoreError, match=said):
                Reference.load(str(url))
    written = io.BytesIO()
    np.savez(written, format=np.array([{"a": 1}], object))
    url.write_bytes(written.getvalue())
    with pytest.raises(StoreError, match="is no reference"):
        Reference.load(str(url))
