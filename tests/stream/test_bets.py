import numpy as np
import pytest

from pipeline.stream.bets import CUT, LOG_MEAN, SIZES, Bets, Whitener


def test_bets_are_fair():
    z = np.random.default_rng(0).normal(size=1_000_000)
    for size, log_mean in zip(SIZES, LOG_MEAN, strict=True):
        wealth = np.exp(size * np.clip(z, -CUT, CUT) - log_mean)
        assert wealth.mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("gap", [1, 3])
def test_what_an_autoregression_repeats_pays_nothing_on_the_whole(gap):
    random = np.random.default_rng(gap)
    tau = np.array([1.0, 9.0])
    phi = (tau - 1) / (tau + 1)
    whitener, z, paid = Whitener(2), random.normal(size=2), []
    for window in range(12_000):
        z = phi * z + np.sqrt(1 - phi**2) * random.normal(size=2)
        if window % gap == 0:
            # So many clips leave no margin.
            paid.append(whitener.log_pay(window, z, tau, 1e12))
    means = np.exp(paid).mean(axis=0)
    np.testing.assert_allclose(means, 1, atol=0.1)
    few = Whitener(2).log_pay(0, np.array([2.0, np.nan]), tau, 16)
    assert few[0, 0, 0] == pytest.approx(SIZES[0] * min(2 - 2 / 4, CUT) - LOG_MEAN[0])
    assert np.isnan(few[1]).all()


def test_bets_since_any_window_add_up_by_their_weights():
    bets = Bets(np.array([[0.5], [0.25]]))
    paid = np.log(np.array([[2.0], [0.5]]))
    bets.bet(paid, 3)
    assert bets.mean() == pytest.approx(0.5 * 2 + 0.25 * 0.5)
    bets.bet(paid, 5)
    assert bets.mean() == pytest.approx(0.5 * 6 + 0.25 * 0.75)
    value, which, since = bets.best()
    assert (which, since) == (0, 3)
    assert value == pytest.approx(3)


def test_what_rests_or_is_unknown_keeps_what_it_has():
    bets = Bets(np.ones((2, 1)))
    bets.bet(np.log([[3.0], [3.0]]), 0)
    bets.rest(np.array([True, False]))
    bets.bet(np.log([[3.0], [np.nan]]), 1)
    assert bets.mean() == pytest.approx(6)
    bets.watch(np.array([True, False]))
    bets.bet(np.log([[3.0], [np.nan]]), 2)
    assert bets.mean() == pytest.approx(12 + 3)
    bets.restart()
    assert bets.mean() == 0
