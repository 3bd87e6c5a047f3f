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


def test_views_of_a_video_are_no_further_evidence_for_a_class_or_a_score():
    rng = np.random.default_rng(3)
    covered, factor = rng.uniform(0.1, 0.4, 40), rng.normal(2, 0.5, 40)
    labels, videos = np.arange(40) % 2, np.array([f"video{index}" for index in range(40)])
    once = class_shares(covered * factor, covered, labels, videos)
    repeated = (np.repeat(each, 10) for each in (covered * factor, covered, labels, videos))
    several = class_shares(*repeated)
    for label in (0, 1):
        assert several[label].interval == pytest.approx(once[label].interval)
        assert (once[label].n_clips, several[label].n_clips) == (20, 200)
    values = np.append(factor, np.nan)
    error = score(values).standard_error
    assert score(np.repeat(values, 10)).standard_error < error / 2
    of_video = np.repeat(np.append(videos, "last"), 10)
    assert score(np.repeat(values, 10), of_video).standard_error == pytest.approx(error)


def test_a_class_of_few_videos_has_a_share_and_no_interval():
    share, covered = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.2, 0.1])
    found = class_shares(share, covered, np.array([0, 1, 1]))
    assert found[0].ratio == pytest.approx(2.5)
    assert np.isnan(found[0].interval).all()
    assert np.isnan(found[1].interval).all()
    views = class_shares(*(np.repeat(each, 10) for each in (share, covered, np.zeros(3, int))))
    assert np.isfinite(views[0].interval).all()
    of_videos = (np.repeat(each, 10) for each in (share, covered, np.zeros(3, int), np.arange(3)))
    assert np.isnan(class_shares(*of_videos)[0].interval).all()
