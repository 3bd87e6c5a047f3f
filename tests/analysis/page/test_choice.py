"""Which clips are shown, against a loop over each class."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis.page.choice import REASONS, choose_clips, in_order_of_interest

N_CLASSES = 5


def finding(kind, *rows):
    return SimpleNamespace(kind=kind, examples=[SimpleNamespace(row=row) for row in rows])


@pytest.fixture
def table():
    """Clips of several classes; the index is the run's row, and skips some."""
    rng = np.random.default_rng(5)
    n = 60
    return pd.DataFrame(
        {
            "class_agreement": rng.random(n).round(1),
            "probability": rng.random(n).round(1),
            "correct": pd.array(rng.choice([True, False, None], n), dtype="boolean"),
            "group": rng.integers(-1, N_CLASSES, n),
        },
        index=pd.Index(np.arange(n) * 3, name="row"),
    )


def by_hand(table, n):
    chosen = {}
    for index in range(N_CLASSES):
        of_class = table[table["group"] == index]
        taken = {
            "typical": of_class.sort_values("class_agreement", ascending=False, kind="stable"),
            "odd": of_class.sort_values("class_agreement", kind="stable"),
            "right": of_class[of_class["correct"].fillna(True)],
            "wrong": of_class[~of_class["correct"].fillna(True)],
        }
        for reason, clips in taken.items():
            if reason in ("right", "wrong"):
                clips = clips.sort_values("probability", ascending=False, kind="stable")
            for row in clips.index[:n]:
                chosen.setdefault(index, {}).setdefault(row, []).append(reason)
    return chosen


@pytest.mark.parametrize("n", [0, 1, 3, 100])
def test_the_first_clips_for_each_reason_are_taken(table, n):
    groups = table["group"].to_numpy()
    assert choose_clips(table, groups, [], clips_per_class=n) == by_hand(table, n)


def test_examples_of_findings_are_always_taken(table):
    groups = table["group"].to_numpy()
    found = [finding("logo", 0, 3), finding("label_suspect", 3), finding("logo", 3, 10_000)]
    chosen = choose_clips(table, groups, found, clips_per_class=0)
    merged = {row: why for of_class in chosen.values() for row, why in of_class.items()}
    assert merged == {0: ["example"], 3: ["example", "suspect"]}
    assert all(row in chosen[table["group"][row]] for row in merged)


def test_nothing_is_chosen_of_no_clips(table):
    none = table.iloc[:0]
    assert choose_clips(none, none["group"].to_numpy(), [], clips_per_class=2) == {}


def test_frames_go_to_examples_first_and_then_to_classes_in_turn():
    chosen = {0: {1: [], 2: [], 3: []}, 1: {7: [], 8: []}, -1: {9: []}}
    found = [finding("logo", 8, 9), finding("logo", 55)]
    assert in_order_of_interest(chosen, found, 2).tolist() == [8, 9]
    assert in_order_of_interest(chosen, found, 4).tolist() == [1, 7, 8, 9]
    assert in_order_of_interest(chosen, found, 99).tolist() == [1, 2, 3, 7, 8, 9]
    assert in_order_of_interest(chosen, found, 0).tolist() == []


def test_each_reason_is_explained():
    assert {"typical", "odd", "right", "wrong", "suspect", "example"} == set(REASONS)
