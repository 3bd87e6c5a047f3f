"""A window of the ring is a segment of the same timeline."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clips.sampling import Sampling
from pipeline.clips.timeline import Timeline
from pipeline.status import DecodeError
from pipeline.stream.ring import FrameRing, RingFrame

TICK = Fraction(1, 1000)


def filled(ticks, max_frames=1000, fps=25.0):
    ring = FrameRing(TICK, fps, max_frames)
    for number, tick in enumerate(ticks):
        image = np.full((1, 1, 3), number % 256, np.uint8)
        ring.add(RingFrame(tick, number, image, float(number)))
    return ring


@given(
    steps=st.lists(st.integers(1, 90), min_size=20, max_size=60),
    start_ms=st.integers(0, 500),
    length_ms=st.integers(50, 900),
    clock=st.sampled_from(["time", "frame"]),
    strided=st.booleans(),
)
def test_windows_are_segments_of_the_whole_whatever_the_rate(
    steps, start_ms, length_ms, clock, strided
):
    ticks = np.concatenate([[0], np.cumsum(steps)])
    whole = Timeline(ticks, int(ticks[-1]) + 40, TICK, 25.0)
    stride = {"kind": "strided", "stride": 2} if strided else {"kind": "uniform"}
    sampling = Sampling(n_samples=3, clock=clock, **stride)
    ring = filled(ticks.tolist())
    start, end = start_ms / 1000, (start_ms + length_ms) / 1000
    if not ring.holds_until(end):
        return
    segment, first = whole.segment(start, end)
    try:
        expected = sampling.take(segment) + first
    except DecodeError:
        with pytest.raises(DecodeError):
            ring.cut(start, end, sampling)
        return
    for forgotten in (False, True):
        if forgotten:
            ring.forget_before(start)
        cut = ring.cut(start, end, sampling)
        assert cut.frame_index.tolist() == expected.tolist()
        assert np.array_equal(cut.frame_time_s, whole.seconds(expected))
        assert cut.newest_s == expected[-1]


def test_a_window_is_whole_once_a_frame_behind_it_has_come_or_is_known():
    ring = filled(range(0, 1000, 40))
    assert ring.holds_until(0.96)
    assert not ring.holds_until(0.97)
    image = np.zeros((1, 1, 3), np.uint8)
    ring.add(RingFrame(1000, 25, image, 0.0), next_tick=1040)
    assert ring.holds_until(1.04)


def test_the_ring_never_holds_more_than_it_may():
    ring = filled(range(0, 100_000, 1), max_frames=50)
    assert len(ring) == 50
    ring.forget_before(99.99)
    assert len(ring) == 10
    ring.clear()
    assert len(ring) == 0
