"""What values per clip come to: undefined ones are counted, classes have intervals."""

import numpy as np
import pytest

from pipeline.evaluation.scores import class_shares, score


def test_undefined_values_are_counted_and_not_averaged():
    value = score(np.array([1.0, np.nan, 3.0, np.nan, 2.0]))
    assert (value.mean, value.n_clips, value.n_undefined) == (2.0, 3, 2)
    assert value.standard_error == pytest.approx(1 / np.sqrt(3))
    none = score(np.full(4, np.nan))
    assert np.isnan(none.mean)
    assert (none.n_clips, none.n_undefined) == (0, 4)
    assert np.isnan(score(np.array([1.0])).standard_error)


def test_the_human_share_of_a_class_has_an_interval_that_holds_it():
    rng = np.random.default_rng(0)
    covered = rng.uniform(0.1, 0.4, 3000)
    labels = rng.integers(-1, 3, 3000)
    factor = np.array([1.0, 2.0, 0.5])[labels]
    share = covered * factor * rng.uniform(0.5, 1.5, 3000)
    share[:50] = np.nan
    covered[50:80] = 0
    found = class_shares(share, covered, labels)
    assert list(found) == [0, 1, 2]
    for label, expected in ((0, 1.0), (1, 2.0), (2, 0.5)):
        of_class = found[label]
        low, high = of_class.interval
        assert low < of_class.ratio < high
        assert low - 0.05 < expected < high + 0.05
        assert high - low < 0.2
        chosen = (labels == label) & np.isfinite(share) & (covered > 0)
        assert of_class.n_clips == chosen.sum()
        assert of_class.ratio == pytest.approx(share[chosen].mean() / covered[chosen].mean())
    assert class_shares(np.full(5, np.nan), covered[:5], labels[:5]) == {}
