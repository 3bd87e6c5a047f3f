"""Which class is shown: by a margin, or some windows in a row, and not before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stream.viewer.hysteresis import ClassHysteresis


def shown(hysteresis, *windows):
    return [hysteresis.update(i, top).label for i, top in enumerate(windows)]


A, B, C = (("a", 0.5), ("b", 0.4)), (("b", 0.5), ("a", 0.4)), (("c", 0.4), ("b", 0.3), ("a", 0.3))
SURE_OF_B = (("b", 0.9), ("a", 0.1))


def test_a_single_window_changes_nothing_and_three_in_a_row_do():
    assert shown(ClassHysteresis(), A, B, A, B, B, B, A) == ["a"] * 5 + ["b"] * 2


def test_a_clear_win_is_shown_at_once():
    assert shown(ClassHysteresis(), A, SURE_OF_B, A) == ["a", "b", "b"]


def test_windows_in_a_row_are_of_one_class():
    assert shown(ClassHysteresis(), A, B, C, B, C, C, C) == ["a"] * 6 + ["c"]


def test_who_is_leading_and_how_sure_the_shown_class_is():
    hysteresis = ClassHysteresis()
    first = hysteresis.update(0, A)
    assert (first.probability, first.leading) == (0.5, None)
    second = hysteresis.update(1, B)
    assert (second.label, second.probability, second.leading) == ("a", 0.4, "b")
    third = hysteresis.update(2, (("b", 0.2), ("c", 0.1)))
    assert (third.label, third.probability, third.leading) == ("a", None, "b")


@pytest.mark.parametrize(("margin", "n"), [(0, 3), (1.5, 3), (0.3, 0), (float("nan"), 3)])
def test_margins_and_numbers_that_mean_nothing_are_refused(margin, n):
    with pytest.raises(ValueError, match="margin is"):
        ClassHysteresis(margin=margin, n_in_a_row=n)
    with pytest.raises(ValueError, match="window 4 has no classes"):
        ClassHysteresis().update(4, ())


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60))
def test_without_clear_wins_what_is_shown_changes_only_after_a_run_of_three(best):
    windows = [((label, 0.4), *((o, 0.3) for o in "abc" if o != label)) for label in best]
    labels = shown(ClassHysteresis(), *windows)
    for i in range(1, len(labels)):
        if labels[i] != labels[i - 1]:
            assert best[i - 2 : i + 1] == [labels[i]] * 3
        # And no run of three goes unshown.
        if i >= 3 and len(set(best[i - 2 : i + 1])) == 1:
            assert labels[i] == best[i]
