import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stream.correlation import MAX_LAG, autocorrelation_times, in_order, limits


@pytest.mark.parametrize("tau", [1.0, 5.0, 20.0])
def test_autocorrelation_times_are_those_of_an_autoregression(tau):
    random = np.random.default_rng(int(tau))
    phi, noise = (tau - 1) / (tau + 1), random.normal(size=(20000, 3))
    values = np.empty_like(noise)
    values[0] = noise[0]
    for t in range(1, len(noise)):
        values[t] = phi * values[t - 1] + np.sqrt(1 - phi**2) * noise[t]
    values[random.random(values.shape) < 0.1] = np.nan
    np.testing.assert_allclose(autocorrelation_times(values), tau, rtol=0.25)
    assert (autocorrelation_times(np.ones((300, 2))) == 1).all()
    assert (autocorrelation_times(np.full((300, 2), np.nan)) == 1).all()


@pytest.mark.parametrize("every", [2, 4])
def test_windows_that_were_skipped_shorten_no_time(every):
    random = np.random.default_rng(every)
    scene = np.cumsum(random.random(50_000) < 1 / 15)
    values = random.normal(size=(scene[-1] + 1, 2))[scene]
    values[np.arange(len(values)) % every > 0] = np.nan
    np.testing.assert_allclose(autocorrelation_times(values), 29, rtol=0.25)


def test_that_of_scenes_is_twice_their_mean_length_less_one():
    random = np.random.default_rng(0)
    scene = np.cumsum(random.random(50_000) < 1 / 15)
    values = random.normal(size=(scene[-1] + 1, 2))[scene]
    np.testing.assert_allclose(autocorrelation_times(values), 29, rtol=0.2)


def test_rows_are_put_where_they_were_and_gaps_are_unknown():
    rows = in_order(np.array([[1.0], [2.0], [3.0]]), np.array([7, 5, 9]))
    np.testing.assert_array_equal(rows[:, 0], [2, np.nan, 1, np.nan, 3])
    assert in_order(np.empty((0, 2)), np.empty(0, np.int64)).shape == (0, 2)


def whole(values, place):
    """Rows at their places, with every gap as long as it was."""
    rows = np.full((place.max() - place.min() + 1, values.shape[1]), np.nan)
    rows[place - place.min()] = values
    return rows


@given(
    st.lists(st.tuples(st.integers(1, 80), st.integers(1, 5 * MAX_LAG)), min_size=1, max_size=6),
    st.integers(0, 2**32 - 1),
)
def test_closed_gaps_leave_the_estimate_as_it_is(parts, seed):
    random = np.random.default_rng(seed)
    steps = np.concatenate([[gap] + [1] * (n_rows - 1) for n_rows, gap in parts])
    place = random.integers(-1000, 1000) + np.cumsum(steps)
    values = np.cumsum(random.normal(size=(len(place), 2)), axis=0)
    values[random.random(values.shape) < 0.1] = np.nan
    shuffled = random.permutation(len(place))
    closed = in_order(values[shuffled], place[shuffled])
    np.testing.assert_allclose(
        autocorrelation_times(closed), autocorrelation_times(whole(values, place)), rtol=1e-9
    )


def test_a_gap_takes_no_more_room_however_long_it_is():
    values = np.arange(8.0).reshape(4, 2)
    sizes = {in_order(values, np.array([0, 1, gap, gap + 1])).shape for gap in (10**3, 10**15)}
    assert len(sizes) == 1
    many = in_order(np.ones((100, 2)), np.arange(100) * 10**15)
    assert len(many) <= 100 * (MAX_LAG + 1)


def test_limits_hold_what_so_many_steps_may_be_wrong_by():
    random = np.random.default_rng(2)
    held = []
    for _ in range(60):
        scene = np.cumsum(random.random(1500) < 1 / 4)
        values = random.normal(size=(scene[-1] + 1, 1))[scene]
        low, high = limits(autocorrelation_times(values), len(values))
        held.append(low[0] <= 7 <= high[0])
    assert np.mean(held) > 0.9
