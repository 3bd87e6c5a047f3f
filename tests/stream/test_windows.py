from fractions import Fraction

import numpy as np
import pytest

from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.errors import ConfigError
from pipeline.stream.ring import FrameRing, RingFrame
from pipeline.stream.windows import WindowCutter, WindowPlan, window_of

PREPROCESSING = Preprocessing(shortest_edge=8, crop=(8, 8))


def plan(**changes):
    values = {
        "sampling": Sampling("uniform", 2),
        "preprocessing": PREPROCESSING,
        "input_size": (8, 8),
        "window_s": 1.0,
        "hop_s": 0.5,
    }
    return WindowPlan(**values | changes)


def add(ring, first, stop, fps=10):
    for number in range(first, stop):
        image = np.zeros((8, 8, 3), np.uint8)
        ring.add(RingFrame(number * 1000 // fps, number, image, float(number)))


def test_windows_overlap_and_come_once_each():
    cutter, ring = WindowCutter("a", plan()), FrameRing(Fraction(1, 1000), 10.0, 100)
    seen = []
    for number in range(40):
        add(ring, number, number + 1)
        seen += cutter.due(ring)
    assert [window.number for window in seen] == list(range(6))
    assert [window.start_s for window in seen] == [0.5 * k for k in range(6)]
    assert all(window.end_s == window.start_s + 1 for window in seen)
    # What no later window needs is let go of.
    assert len(ring) <= 11


def test_windows_with_too_few_frames_are_counted_and_keep_their_number():
    cutter, ring = WindowCutter("a", plan()), FrameRing(Fraction(1, 1000), 10.0, 100)
    add(ring, 0, 12)
    windows = cutter.due(ring)
    add(ring, 40, 60)
    windows += cutter.due(ring)
    assert [window.number for window in windows] == [0, 6, 7, 8, 9] or cutter.n_too_short
    numbers = [window.number for window in windows]
    assert len(numbers) + cutter.n_too_short == max(numbers) + 1


def test_after_a_break_windows_begin_behind_it_on_the_stream_s_clock():
    cutter, ring = WindowCutter("a", plan()), FrameRing(Fraction(1, 1000), 10.0, 100)
    cutter.resume_at(3.2)
    add(ring, 0, 20)
    windows = cutter.due(ring, offset_s=3.2)
    # The frames lie from 3.2 to 5.1 s.
    assert [(window.number, window.start_s) for window in windows] == [(7, 3.5), (8, 4.0)]
    for window in windows:
        assert (window.frame_time_s >= window.start_s).all()
        assert (window.frame_time_s < window.end_s).all()


def test_frames_are_fitted_as_clips_are():
    frame = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert np.array_equal(plan().fit(frame), PREPROCESSING.resize_and_crop(frame[None])[0])
    with pytest.raises(ValueError, match="30x20 pixels become 12x8, the model takes 8x8"):
        plan(preprocessing=Preprocessing(shortest_edge=8, crop=None)).fit(frame)


def test_the_length_of_a_window_is_the_model_s_own():
    strided = Sampling("strided", 8, stride=32)
    assert window_of(strided, None) == pytest.approx(8 * 32 / 30)
    assert window_of(strided, 10.0) == 10
    with pytest.raises(ConfigError, match=r"window: 2 s, expected 8\.53333 s or more"):
        window_of(strided, 2.0)
    assert window_of(Sampling("uniform", 8), 3.0) == 3
    with pytest.raises(ConfigError, match="--window 3s"):
        window_of(Sampling("uniform", 8), None)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_hop_is_a_time(value):
    with pytest.raises(ConfigError, match="hop"):
        plan(hop_s=value)


def test_windows_that_do_not_fit_into_memory_are_refused():
    # 30 frames a second of 192 bytes.
    plan(window_s=10.0).check_memory(2, 2 * 10 * 30 * 192 * 2)
    with pytest.raises(
        ConfigError, match=r"10 s of 2 streams at 30 frames/s .* expected 5 s or le"
    ):
        plan(window_s=10.0).check_memory(2, 10 * 30 * 192 * 2)
