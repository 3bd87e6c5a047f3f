"""Plans of interventions, and what outcomes make of findings; the model is simulated here."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.audit.audit import audit
from analysis.audit.finding import Place
from analysis.audit.interventions import (
    COLUMNS,
    FILLS,
    has_control,
    has_room,
    plan_interventions,
    prove,
    random_place,
)
from pipeline.errors import StoreError
from tests.analysis.simulated_runs import ALL, CLASS_NAMES, LOGO, simulated

SEED = int(datetime.now(UTC).strftime("%Y%m%d"))


@pytest.fixture(scope="module")
def planned():
    print("seed", SEED)
    evidence = simulated(SEED, ALL).evidence()
    found = audit(evidence)
    return found, plan_interventions(found, evidence, clips_per_finding=12)


def outcomes_of(plan, drops):
    """Simulated answers: the class's probability falls by ``drops`` of each arm, and noise."""
    rng = np.random.default_rng(SEED)
    noise = rng.normal(0, 0.01, len(plan))
    return plan.assign(probability=0.8 - plan["arm"].map({"none": 0, **drops}) + noise)


def test_a_plan_has_each_clip_unchanged_as_named_and_at_random(planned):
    found, plan = planned
    assert tuple(plan.columns) == COLUMNS
    provable = {f.key for f in found if f.scope == "class" and f.proof.state == "not tried"}
    assert set(plan["finding"]) == provable
    logo = plan[plan["finding"] == f"logo:{CLASS_NAMES[LOGO]}"]
    assert (logo["target"] == LOGO).all()
    for _, clip in logo.groupby("row"):
        assert sorted(clip["arm"]) == ["named"] * 3 + ["none"] + ["random"] * 3
        assert set(clip.loc[clip["arm"] == "named", "fill"]) == set(FILLS)
        sizes = (clip["y1"] - clip["y0"]) * (clip["x1"] - clip["x0"])
        assert sizes[clip["arm"] != "none"].nunique() == 1
    static = plan[plan["finding"].str.startswith("static")]
    assert set(static["action"]) == {"keep", "freeze", "shuffle"}


@pytest.mark.parametrize(
    ("drops", "state"),
    [
        ({"named": 0.4, "random": 0.05}, "confirmed"),
        ({"named": 0.05, "random": 0.05}, "not confirmed"),
        ({"named": 0.0, "random": 0.3}, "not confirmed"),
    ],
)
def test_a_region_is_confirmed_if_it_matters_more_than_a_random_one(planned, drops, state):
    found, plan = planned
    proven = {f.key: f for f in prove(found, outcomes_of(plan, drops))}
    logo = proven[f"logo:{CLASS_NAMES[LOGO]}"]
    assert logo.proof.state == state
    assert logo.proof.n_clips == 12
    assert logo.proof.change == pytest.approx(-drops["named"], abs=0.02)
    assert logo.proof.low <= -drops["named"] + drops["random"] + 0.02
    kept = [f for f in proven.values() if f.kind == "near_duplicate"]
    assert kept
    assert all(f.proof.state == "not applicable" for f in kept)


def test_a_static_class_is_confirmed_if_it_loses_nothing_by_freezing(planned):
    found, plan = planned
    static = next(f.key for f in found if f.kind == "static")
    for drop, state in ((0.0, "confirmed"), (0.5, "not confirmed")):
        outcomes = outcomes_of(plan, {"named": drop, "random": 0.3})
        proven = {f.key: f for f in prove(found, outcomes)}
        assert proven[static].proof.state == state


def test_outcomes_that_lack_a_part_are_refused(planned):
    found, plan = planned
    with pytest.raises(StoreError, match="no column 'probability'"):
        prove(found, plan)
    outcomes = outcomes_of(plan, {"named": 0.1, "random": 0.1})
    with pytest.raises(StoreError, match="expected each clip unchanged"):
        prove(found, outcomes[outcomes["arm"] != "random"])


def ranges(size):
    return st.tuples(st.integers(0, size), st.integers(0, size)).filter(lambda ab: ab[0] < ab[1])


@given(
    grid=st.tuples(st.integers(1, 8), st.integers(1, 9), st.integers(1, 9)),
    data=st.data(),
    seed=st.integers(0, 2**32),
)
def test_where_there_is_room_a_random_place_never_overlaps(grid, data, seed):
    given_place = {
        name: data.draw(st.none() | ranges(size))
        for name, size in zip(("time", "y", "x"), grid, strict=True)
    }
    place = Place(**given_place)
    rng = np.random.default_rng(seed)
    if not has_room(place, grid):
        with pytest.raises(ValueError, match="no room"):
            random_place(place, grid, rng)
        return
    assert has_control(place, grid)
    moved = random_place(place, grid, rng)
    covered = []
    for one in (place, moved):
        where = np.zeros(grid, bool)
        where[tuple(slice(*bounds) if bounds else slice(None) for bounds in vars(one).values())] = 1
        covered.append(where)
    assert covered[0].sum() == covered[1].sum()
    assert not (covered[0] & covered[1]).any()


@pytest.mark.parametrize("side", [4, 7, 8, 14, 16])
def test_what_is_compared_with_the_middle_lies_around_it(clean, side):
    n = len(clean.table)
    middle = replace(
        clean,
        maps=np.full((n, side * side), 1 / side**2, np.float32),
        grid=(clean.grid[0], side, side),
    )
    (found,) = [f for f in audit(simulated(SEED, ALL).evidence()) if f.kind == "logo"][:1]
    found = replace(found, kind="centre_only", place=Place())
    plan = plan_interventions([found], middle)
    assert set(plan.loc[plan["arm"] == "random", "action"]) == {"surround"}
    assert plan.loc[plan["arm"] == "random", "seed"].nunique() > 10


def test_a_place_that_leaves_nothing_to_compare_with_is_not_tried(planned, clean):
    found, _ = planned
    logo = next(f for f in found if f.kind == "logo")
    wide = replace(logo, place=Place(y=(0, 7), x=(0, 7)))
    assert not has_control(wide.place, clean.grid)
    assert plan_interventions([wide], clean).empty


def test_a_random_place_has_the_size_and_is_elsewhere():
    rng = np.random.default_rng(SEED)
    for _ in range(200):
        place = random_place(Place(y=(0, 2), x=(6, 8)), (8, 8, 8), rng)
        assert place.y[1] - place.y[0] == place.x[1] - place.x[0] == 2
        assert place.y[0] >= 2 or place.x[1] <= 6
        assert 0 <= place.y[0] < place.y[1] <= 8
        time = random_place(Place(time=(0, 1)), (8, 8, 8), rng).time
        assert time[0] > 0
