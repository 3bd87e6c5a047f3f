"""Which frames are taken: order, range and symmetry, and two references written another way."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clips.sampling import Sampling, strided_frame_indices, uniform_frame_indices
from pipeline.clips.timeline import Timeline
from pipeline.errors import ConfigError
from pipeline.status import DecodeError, Status

sizes = st.integers(1, 64).flatmap(lambda n: st.tuples(st.integers(n, 5000), st.just(n)))
rates = st.sampled_from([1.0, 6.0, 12.0, 23.976, 25.0, 29.97, 30.0, 60.0, 119.88])


@given(sizes)
def test_uniform_takes_the_frame_over_each_segments_centre(size):
    n_frames, n_samples = size
    segment = Fraction(n_frames, n_samples)
    naive = [int(segment * i + segment / 2) for i in range(n_samples)]
    taken = uniform_frame_indices(n_frames=n_frames, n_samples=n_samples)
    assert taken.tolist() == naive
    assert taken.dtype == np.int64


@given(sizes)
def test_uniform_is_increasing_in_range_and_symmetric(size):
    n_frames, n_samples = size
    taken = uniform_frame_indices(n_frames=n_frames, n_samples=n_samples)
    assert (np.diff(taken) > 0).all()
    assert taken[0] >= 0
    assert taken[-1] < n_frames
    assert (np.abs(taken + taken[::-1] - (n_frames - 1)) <= 1).all()


@given(sizes, st.integers(1, 64), rates)
def test_strided_is_increasing_in_range_and_centred(size, stride, fps):
    n_frames, n_samples = size
    taken = strided_frame_indices(n_frames=n_frames, n_samples=n_samples, stride=stride, fps=fps)
    assert taken.dtype == np.int64
    assert (np.diff(taken) > 0).all()
    assert taken[0] >= 0
    assert taken[-1] < n_frames
    if n_samples > 1:
        assert abs(taken[0] + taken[-1] - (n_frames - 1)) <= 2


@given(st.integers(1, 32), st.integers(1, 32), st.integers(0, 500), rates)
def test_strided_is_timesformers_rule_where_the_window_fits(n_samples, stride, spare, fps):
    clip_size = stride * n_samples / 30.0 * fps
    if clip_size < n_samples:
        return
    n_frames = int(np.ceil(clip_size)) + spare
    start = (n_frames - clip_size) / 2
    end = start + clip_size - 1
    naive = [int(start)]
    naive += [int(start + i * (end - start) / (n_samples - 1)) for i in range(1, n_samples)]
    taken = strided_frame_indices(n_frames=n_frames, n_samples=n_samples, stride=stride, fps=fps)
    # The last bits of a float may decide on which side of a whole number an index falls.
    assert (np.abs(taken - naive) <= 1).all()
    assert (taken == naive).mean() > 0.5


def test_docstring_examples():
    assert uniform_frame_indices(n_frames=12, n_samples=4).tolist() == [1, 4, 7, 10]
    taken = strided_frame_indices(n_frames=20, n_samples=4, stride=4, fps=30.0)
    assert taken.tolist() == [2, 7, 12, 17]


def test_timesformer_sampling_of_a_kinetics_clip():
    taken = strided_frame_indices(n_frames=300, n_samples=8, stride=32, fps=30.0)
    assert taken.tolist() == [22, 58, 94, 131, 167, 204, 240, 277]


def test_a_window_longer_than_the_clip_becomes_the_clip():
    taken = strided_frame_indices(n_frames=100, n_samples=8, stride=32, fps=30.0)
    assert taken[0] == 0
    assert taken[-1] == 99


def test_a_slow_clip_gives_adjacent_frames_at_its_centre():
    taken = strided_frame_indices(n_frames=10, n_samples=4, stride=1, fps=6.0)
    assert taken.tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize("sampling", [Sampling("uniform", 8), Sampling("strided", 8, stride=4)])
def test_too_short_names_both_numbers(sampling):
    with pytest.raises(DecodeError, match=r"7 frames.* 8") as caught:
        sampling.indices(n_frames=7, fps=30.0)
    assert caught.value.status is Status.TOO_SHORT


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused_where_it_is_needed(fps):
    with pytest.raises(DecodeError, match="frame rate") as caught:
        Sampling("strided", 8, stride=4).indices(n_frames=100, fps=fps)
    assert caught.value.status is Status.UNREADABLE
    assert Sampling("uniform", 8).indices(n_frames=100, fps=fps).shape == (8,)


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        ({"kind": "random", "n_samples": 8}, "kind", "'random'"),
        ({"kind": "uniform", "n_samples": 0}, "n_samples", "0"),
        ({"kind": "strided", "n_samples": 8}, "stride", "None"),
        ({"kind": "strided", "n_samples": 8, "stride": 0}, "stride", "0"),
        ({"kind": "uniform", "n_samples": 8, "stride": 4}, "stride", "4"),
        ({"kind": "uniform", "n_samples": 8, "target_fps": 0.0}, "target_fps", "0.0"),
    ],
)
def test_a_bad_field_is_named_with_its_value(arguments, field, value):
    with pytest.raises(ConfigError, match=f"{field} is {value}"):
        Sampling(**arguments)


@given(st.integers(8, 2000), st.integers(1, 8), st.integers(1, 40), st.floats(0, 1))
def test_a_window_lies_where_its_position_says(n_frames, n_samples, stride, position):
    def taken(at):
        sampling = Sampling("strided", n_samples, stride=stride, position=at)
        return sampling.indices(n_frames=n_frames, fps=30)

    first, here, last = taken(0.0), taken(position), taken(1.0)
    assert first[0] == 0
    assert (first <= here).all()
    assert (here <= last).all()
    assert (np.diff(here) > 0).all()
    assert last[-1] < n_frames
    if n_samples > 1:
        assert last[-1] == n_frames - 1


def timeline_of(durations):
    times = np.cumsum([0, *durations[:-1]])
    return Timeline.of_times(np.array(times), durations[-1], Fraction(1, 1000), 25.0)


@given(sizes, st.sampled_from([5.0, 23.976, 25.0, 29.97, 59.94]), st.sampled_from([None, 1, 4, 32]))
def test_at_a_constant_rate_the_clock_takes_the_same_frames(size, fps, stride):
    n_frames, n_samples = size
    kind = "uniform" if stride is None else "strided"
    by_frame = Sampling(kind, n_samples, stride=stride, clock="frame")
    by_time = Sampling(kind, n_samples, stride=stride, clock="time")
    ticks = np.rint(np.arange(n_frames) / fps * 90_000).astype(np.int64)
    timeline = Timeline.of_times(ticks, None, Fraction(1, 90_000), fps)
    taken = by_time.take(timeline)
    assert taken.tolist() == by_frame.take(timeline).tolist()
    assert taken.tolist() == by_frame.indices(n_frames=n_frames, fps=fps).tolist()


@given(
    st.lists(st.integers(1, 400), min_size=8, max_size=200),
    st.integers(1, 8),
    st.sampled_from([None, 1, 8]),
    st.floats(0, 1),
)
def test_by_the_clock_frames_increase_and_no_sample_lies_far_from_its_time(
    durations, n_samples, stride, position
):
    timeline = timeline_of(durations)
    kind = "uniform" if stride is None else "strided"
    sampling = Sampling(kind, n_samples, stride=stride, position=position, clock="time")
    taken = sampling.take(timeline)
    assert (np.diff(taken) > 0).all()
    assert taken[0] >= 0
    assert taken[-1] < timeline.n_frames
    if stride is None and not timeline.is_constant:
        asked = [Fraction(2 * i + 1, 2 * n_samples) * timeline.end for i in range(n_samples)]
        naive = [max(k for k, t in enumerate(timeline.ticks.tolist()) if t <= at) for at in asked]
        if len(set(naive)) == n_samples:
            assert taken.tolist() == naive


def test_a_slow_part_and_a_fast_one_are_sampled_evenly_in_time():
    # 30 frames at 5 a second, then 60 at 60 a second: 7 s.
    timeline = timeline_of([200] * 30 + [17, 17, 16] * 20)
    seconds = timeline.seconds(Sampling("uniform", 7, clock="time").take(timeline))
    np.testing.assert_allclose(seconds, np.arange(7) + 0.5, atol=0.2)
    by_frame = timeline.seconds(Sampling("uniform", 7).take(timeline))
    assert (by_frame > 5.9).sum() == 5


def test_a_frame_that_lasts_for_several_samples_is_taken_once():
    timeline = timeline_of([3000, 1000, 1000])
    assert Sampling("uniform", 3, clock="time").take(timeline).tolist() == [0, 1, 2]


def test_a_window_is_as_long_as_asked_where_the_header_has_another_rate():
    timeline = Timeline.of_times(np.arange(200) * 40, 40, Fraction(1, 1000), 60_000.0)
    sampling = Sampling("strided", 8, stride=6, clock="time")
    seconds = timeline.seconds(sampling.take(timeline))
    # 8 samples, 6 frames of 1/30 s apart: a window of 1.6 s, to its last frame.
    assert seconds[-1] - seconds[0] == pytest.approx(1.6 - 0.04, abs=0.041)


def test_another_clock_is_refused():
    with pytest.raises(ConfigError, match="clock is 'sun'"):
        Sampling("uniform", 8, clock="sun")
