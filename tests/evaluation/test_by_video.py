"""Errors and intervals by video: against the usual ones, and whether they hold the truth."""

import numpy as np
import pytest

from pipeline.evaluation.by_video import LEAST_VIDEOS, interval, standard_error

N_VIDEOS, N_TRIALS = 12, 400


def clips_of(rng, n_views, n_videos=N_VIDEOS):
    """Shares, what is covered, and the video, of views that are nearly the same; the ratio is 2."""
    covered = np.repeat(rng.uniform(0.1, 0.4, n_videos), n_views)
    factor = np.repeat(rng.normal(2, 0.6, n_videos), n_views)
    noise = rng.normal(1, 0.02, n_videos * n_views)
    return covered * factor * noise, covered, np.repeat(np.arange(n_videos), n_views)


def covers(n_views, by_clip=False):
    """Share of simulated data sets whose interval holds the truth; by bootstrap, and by error."""
    held = []
    for trial in range(N_TRIALS):
        share, covered, videos = clips_of(np.random.default_rng(trial), n_views)
        videos = np.arange(len(share)) if by_clip else videos
        low, high = interval(share, covered, videos, seed=trial)
        away = abs(share.sum() / covered.sum() - 2)
        held.append((low <= 2 <= high, away <= 1.96 * standard_error(share, covered, videos)))
    return np.mean(held, axis=0)


def test_ten_views_of_a_video_cover_the_truth_as_often_as_one():
    once, several = covers(1), covers(10)
    assert (once > 0.86).all()
    assert several == pytest.approx(once, abs=0.03)
    # Views that count as clips of their own make intervals that hold it half of the time.
    assert (covers(10, by_clip=True) < 0.6).all()


def test_of_one_clip_each_the_error_is_the_usual_one():
    rng = np.random.default_rng(0)
    values, videos = rng.normal(1, 2, 30), rng.permutation(30).astype(str)
    error = standard_error(values, np.ones(30), videos)
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(30))


def test_the_error_is_that_of_the_bootstrap_where_videos_have_unequal_numbers_of_clips():
    rng = np.random.default_rng(1)
    videos = np.repeat(np.arange(200), rng.integers(1, 9, 200))
    covered = rng.uniform(0.1, 0.4, 200)[videos]
    share = covered * rng.normal(2, 0.5, 200)[videos]
    low, high = interval(share, covered, videos)
    assert (high - low) / 3.92 == pytest.approx(standard_error(share, covered, videos), rel=0.1)
    order = rng.permutation(len(videos))
    shuffled = interval(share[order], covered[order], videos[order].astype(str))
    assert shuffled == pytest.approx((low, high), rel=0.1)


@pytest.mark.filterwarnings("error")
def test_too_few_videos_have_no_interval_however_many_clips_they_have():
    for n_videos in (0, 1, LEAST_VIDEOS - 1):
        assert np.isnan(interval(*clips_of(np.random.default_rng(0), 10, n_videos))).all()
    assert np.isfinite(interval(*clips_of(np.random.default_rng(0), 1, LEAST_VIDEOS))).all()
    assert np.isnan(standard_error(*clips_of(np.random.default_rng(0), 10, 1)))
    assert np.isfinite(standard_error(*clips_of(np.random.default_rng(0), 1, 2)))
