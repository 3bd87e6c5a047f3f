import numpy as np
import pytest

from pipeline.stream.correlation import autocorrelation_times, in_order, limits


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


def test_limits_hold_what_so_many_steps_may_be_wrong_by():
    random = np.random.default_rng(2)
    held = []
    for _ in range(60):
        scene = np.cumsum(random.random(1500) < 1 / 4)
        values = random.normal(size=(scene[-1] + 1, 1))[scene]
        low, high = limits(autocorrelation_times(values), len(values))
        held.append(low[0] <= 7 <= high[0])
    assert np.mean(held) > 0.9
