"""Errors and intervals by video: against the usual ones, and whether they hold the truth."""

import numpy as np
import pytest

from pipeline.clips.sampling import Sampling
from pipeline.clips.views import ViewsConfig
from pipeline.store.by_video import LEAST_VIDEOS, interval, standard_error, videos_of_rows
from pipeline.store.opening import open_store
from pipeline.store.run_folder import store_url
from tests.analysis.stores import random_columns, small_layout, write_run

N_VIDEOS, N_TRIALS = 12, 400


@pytest.fixture
def same_stems(tmp_path):
    """Run of 12 clips in two views, of files of three names in four folders."""
    layout = small_layout(24)
    ids = np.array([f"{row // 2 % 3:04d}" for row in range(24)], object)
    columns = random_columns(layout, video_id=ids)
    views = {"views": ViewsConfig(clips=2), "sampling": Sampling("strided", 4, 2)}
    return lambda name, **identity: open_store(
        store_url(write_run(tmp_path / name, layout, columns, **views, **identity))
    )


def test_files_of_one_stem_are_videos_of_their_own_and_segments_of_one_id_are_not(same_stems):
    assert videos_of_rows(same_stems("files")).tolist() == [row // 2 for row in range(24)]
    of_segments = videos_of_rows(same_stems("segments", segments=True))
    assert of_segments.tolist() == [row // 2 % 3 for row in range(24)]


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
    assert once[0] > 0.9
    assert once[1] > 0.86
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


@pytest.mark.parametrize("n_videos", [LEAST_VIDEOS, 8, 20])
def test_of_few_videos_the_interval_of_a_skewed_figure_still_holds_the_truth(n_videos):
    held = []
    for trial in range(N_TRIALS):
        values = np.random.default_rng([20261130, trial]).beta(2, 5, n_videos)
        low, high = interval(values, np.ones(n_videos), np.arange(n_videos), seed=trial)
        held.append(low <= 2 / 7 <= high)
    # 95 % is what it says; between the usual percentiles 84 to 86 % held it of five.
    assert np.mean(held) > 0.91


def test_of_many_videos_the_ends_are_the_usual_percentiles():
    values = np.random.default_rng(20261130).normal(1, 2, 4000)
    low, high = interval(values, np.ones(4000), np.arange(4000))
    error = values.std() / np.sqrt(4000)
    assert (high - low) / error == pytest.approx(3.92, rel=0.06)
