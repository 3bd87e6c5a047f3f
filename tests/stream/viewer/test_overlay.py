"""An attribution over playing pictures: levels, blends, and the moment on display."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from analysis.page.clips import levels_of as levels_of_a_run
from analysis.page.pictures import palette as palette_of_a_run
from pipeline.stream.viewer.overlay import (
    DrawnWindow,
    Playhead,
    Reel,
    blended,
    burnt_in,
    levels_of,
    palette,
    step_times,
)
from tests.stream.viewer.feeds import explained, picture


def window(start_s, end_s, *values):
    """Steps of constant levels, evenly over a window."""
    edges = np.linspace(start_s, end_s, len(values) + 1)
    levels = (
        np.full((len(values), 2, 2), 0, np.float32) + np.array(values, np.float32)[:, None, None]
    )
    return DrawnWindow(start_s, end_s, (edges[1:] + edges[:-1]) / 2, levels)


def test_levels_and_colours_are_those_of_a_runs_page():
    random = np.random.default_rng(0)
    where, when = random.random((4, 5, 6)), random.random(4)
    expected, _, _ = levels_of_a_run(where, when)
    np.testing.assert_allclose(levels_of(where, when), expected, atol=1e-6)
    assert palette().tobytes() == palette_of_a_run()


@given(
    hnp.arrays(np.float32, (2, 3, 3), elements=st.floats(width=32)),
    hnp.arrays(np.float32, 2, elements=st.floats(width=32)),
)
def test_whatever_a_model_gives_levels_are_finite_and_in_bounds(where, when):
    levels = levels_of(where, when)
    assert np.isfinite(levels).all()
    assert levels.min() >= 0
    assert levels.max() <= 1


def test_a_step_has_the_mean_time_of_its_frames():
    np.testing.assert_allclose(step_times(explained("a")), [0.25, 0.75, 1.25, 1.75])


def test_overlapping_windows_are_blended_by_triangles():
    early, late = window(0, 2, 0.0), window(1, 3, 1.0)
    for time_s, share in ((1.0, 0.001 / 1.001), (1.25, 0.25), (1.5, 0.5), (1.75, 0.75)):
        np.testing.assert_allclose(blended([early, late], time_s), share, atol=1e-6)
    # Where one covers it alone, that one is shown as it is, to its ends.
    np.testing.assert_allclose(blended([early, late], 3.0), 1)
    assert blended([early, late], 3.01) is None
    assert blended([], 1.0) is None


def test_each_moment_has_the_step_that_is_nearest():
    drawn = window(0, 4, 0.1, 0.2, 0.3, 0.4)
    found = [float(blended([drawn], t)[0, 0]) for t in (0.2, 1.4, 2.6, 4.0)]
    np.testing.assert_allclose(found, [0.1, 0.2, 0.3, 0.4], atol=1e-6)


def test_the_playhead_goes_as_fast_as_the_stream_and_never_beyond_what_is_explained():
    playhead, last = Playhead(), None
    assert playhead.at(0.0) is None
    positions = []
    for tick in range(400):
        now_s = tick * 0.05
        if tick % 20 == 0:
            # Windows end every second, and arrive with some jitter of the model.
            end_s = 2 + now_s
            playhead.window_arrived(end_s, now_s)
        position = playhead.at(now_s)
        assert position <= end_s
        assert last is None or position >= last
        last = position
        positions.append(position)
    late = np.array(positions[100:])
    np.testing.assert_allclose(np.diff(late), 0.05, atol=1e-3)
    # It is one hop behind the end of the newest window when that arrives.
    assert positions[380] == pytest.approx(2 + 19 - 1, abs=0.01)


def test_the_playhead_stands_when_no_window_comes_and_jumps_when_the_clock_does():
    playhead = Playhead()
    playhead.window_arrived(10.0, 0.0)
    playhead.at(0.0)
    assert playhead.at(5.0) == 10
    assert playhead.at(60.0) == 10
    playhead.window_arrived(2.0, 61.0)
    assert playhead.at(61.0) <= 2
    playhead.window_arrived(500.0, 62.0)
    assert 489 <= playhead.at(62.0) <= 500


def test_between_windows_far_apart_the_stream_plays_on():
    playhead = Playhead()
    positions = []
    for second in range(121):
        if second % 60 == 0:
            playhead.window_arrived(float(second), float(second))
        positions.append(playhead.at(float(second)))
    # Ten seconds behind, which are those of the window whose map has just come.
    assert positions[60:] == list(range(50, 111))


def test_a_reel_keeps_a_bounded_number_and_drops_what_was_before_a_jump_back():
    reel = Reel(n_windows=3, n_pictures=4)
    for i in range(9):
        reel.add_picture(float(i), np.zeros((2, 2, 3), np.uint8))
        reel.add_window(window(i, i + 2, 0.5))
    assert [w.start_s for w in reel.windows] == [6, 7, 8]
    assert [time_s for time_s, _ in reel.pictures] == [5, 6, 7, 8]
    assert reel.picture_at(6.5)[0] == 6
    assert reel.picture_at(1.0)[0] == 5
    assert reel.picture_at(None)[0] == 8
    reel.add_picture(0.5, np.zeros((2, 2, 3), np.uint8))
    reel.add_window(window(0, 1, 0.5))
    assert len(reel.pictures) == len(reel.windows) == 1


def test_what_is_burnt_in_leaves_alone_what_is_not_looked_at():
    image = picture("a").image
    levels = np.zeros((4, 4), np.float32)
    np.testing.assert_array_equal(burnt_in(image, levels), image)
    np.testing.assert_array_equal(burnt_in(image, None), image)
    levels[0, 0] = 1
    burnt = burnt_in(image, levels)
    assert (burnt[:20, :20] != image[:20, :20]).any()
    np.testing.assert_array_equal(burnt[100:], image[100:])
