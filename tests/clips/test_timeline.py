"""When frames are shown: constant and variable rates, and segments of a file."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clips.timeline import Timeline

MS = Fraction(1, 1000)


def at_rate(n_frames, fps, tick_s=MS):
    times = np.rint(np.arange(n_frames) / fps / float(tick_s)).astype(np.int64)
    return Timeline.of_times(times, None, tick_s, fps)


@given(st.integers(3, 2000), st.sampled_from([5.0, 12.5, 23.976, 25.0, 29.97, 30.0, 59.94, 120.0]))
def test_times_that_were_rounded_to_a_tick_are_of_a_constant_rate(n_frames, fps):
    assert at_rate(n_frames, fps).is_constant


@given(st.integers(10, 200), st.data())
def test_a_frame_that_is_two_ticks_late_is_not(n_frames, data):
    ticks = np.arange(n_frames, dtype=np.int64) * 40
    late = data.draw(st.integers(1, n_frames - 2))
    ticks[late] += 3
    assert not Timeline.of_times(ticks, 40, MS, 25.0).is_constant


def test_seconds_count_from_the_first_frame():
    timeline = Timeline.of_times(np.array([1000, 1040, 1100]), 20, MS, 25.0)
    assert timeline.seconds(np.array([0, 2])).tolist() == [0.0, 0.1]
    assert timeline.end == 120


def test_without_any_time_there_are_no_seconds():
    timeline = Timeline.of_rate(5, None)
    assert np.isnan(timeline.seconds(np.arange(5))).all()
    assert np.isnan(timeline.rate)
    assert Timeline.of_rate(5, Fraction(25)).seconds(np.array([4])).tolist() == [0.16]


def test_a_rate_that_the_header_lacks_comes_from_the_times():
    timeline = Timeline.of_times(np.arange(50) * 40, 40, MS, float("nan"))
    assert timeline.rate == pytest.approx(25)


@pytest.mark.parametrize(
    ("told", "rate"),
    [(25.0, 25), (50.0, 25), (60_000.0, 25), (12.5, 25), (24.0, 24), (26.5, 26.5), (np.nan, 25)],
)
def test_a_rate_of_the_header_that_its_times_contradict_is_not_believed(told, rate):
    timeline = Timeline.of_times(np.arange(50) * 40, 40, MS, told)
    assert timeline.clock_rate == pytest.approx(rate)


def test_times_of_a_coarse_clock_do_not_contradict_the_header():
    ticks = np.rint(np.arange(3) * 100 / 30).astype(np.int64)
    assert Timeline.of_times(ticks, 3, Fraction(1, 100), 30.0).clock_rate == 30


@given(st.floats(0, 5), st.floats(0.05, 5))
def test_a_segment_has_the_frames_that_begin_in_it(start_s, length_s):
    timeline = at_rate(100, 29.97)
    segment, first = timeline.segment(start_s, start_s + length_s)
    times = timeline.seconds(np.arange(100))
    tolerance = 0.0005 + 1e-9
    inside = np.flatnonzero(
        (times >= start_s - tolerance) & (times < start_s + length_s - tolerance)
    )
    assert segment.n_frames == len(inside)
    if len(inside):
        assert first == inside[0]
        assert segment.ticks[0] == 0
        np.testing.assert_allclose(
            segment.seconds(np.arange(len(inside))), times[inside] - times[first], atol=1e-9
        )


@pytest.mark.parametrize("none", [None, float("nan")])
def test_bounds_that_are_not_given_are_the_files(none):
    timeline = at_rate(100, 25.0)
    assert timeline.segment(none, none)[0].n_frames == 100
    assert timeline.segment(1.0, none)[0].n_frames == 75
    assert timeline.segment(none, 1.0)[0].n_frames == 25


def test_a_segment_behind_the_end_has_no_frames():
    assert at_rate(100, 25.0).segment(50.0, 60.0)[0].n_frames == 0


def test_segments_side_by_side_share_no_frame_and_miss_none():
    timeline = at_rate(100, 29.97)
    bounds = [0.0, 0.7, 1.0, 1.3337, 2.5, None]
    parts = [timeline.segment(a, b) for a, b in pairwise(bounds)]
    assert sum(part.n_frames for part, _ in parts) == 100
    assert [first for _, first in parts][1:] == np.cumsum([p.n_frames for p, _ in parts])[
        :-1
    ].tolist()


@pytest.mark.parametrize(
    ("ticks", "end", "said"),
    [
        (np.array([0, 5, 5]), 9, "strictly"),
        (np.array([1, 2]), 9, "strictly"),
        (np.array([0, 9]), 9, "ends at 9"),
        (np.zeros((2, 2), np.int64), 9, "expected int64"),
    ],
)
def test_what_is_no_timeline_is_refused(ticks, end, said):
    with pytest.raises(ValueError, match=said):
        Timeline(ticks, end, MS, 25.0)
