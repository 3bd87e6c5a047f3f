from pipeline.stream.explained import SourceState
from pipeline.stream.health import Health, Patience

PATIENCE = Patience(stall_s=3, freeze_s=5, late_s=1)


def played(n_frames, *, lag_s=0.0, picture=None, health=None, start_s=100.0):
    """Frames at 10 a second, from a time on."""
    health = health or Health(PATIENCE)
    for number in range(n_frames):
        now = start_s + number / 10
        health.frame(now + lag_s, number / 10, number if picture is None else picture)
    return health


def test_frames_that_come_in_time_are_live():
    assert played(10).state(101.0) == (SourceState.LIVE, "")


def test_without_a_frame_a_source_is_stalled_and_then_live_again():
    health = played(10)
    state, reason = health.state(105.0)
    assert state is SourceState.STALLED
    assert reason == "no new frame for 4 s"
    health.frame(105.1, 5.1, 77)
    # It comes in time by its own clock.
    assert health.state(105.2)[0] is SourceState.LIVE


def test_before_the_first_frame_it_is_stalled():
    assert Health(PATIENCE).state(0.0)[0] is SourceState.STALLED


def test_a_picture_that_stays_is_a_stall_though_frames_come():
    state, reason = played(60, picture=1).state(106.0)
    assert state is SourceState.STALLED
    assert "same picture" in reason
    assert played(40, picture=1).state(104.0)[0] is SourceState.LIVE


def test_frames_that_fall_behind_their_times_are_late_until_they_catch_up():
    health = played(10)
    health.frame(103.0, 1.0, 500)
    state, reason = health.state(103.0)
    assert state is SourceState.LATE
    assert "2.0 s later" in reason
    health.frame(103.1, 3.1, 501)
    assert health.state(103.2)[0] is SourceState.LIVE


def test_after_a_jump_lags_from_before_mean_nothing():
    health = played(10)
    health.jumped()
    health.frame(101.0, 9.0, 500)
    health.frame(101.1, 9.1, 501)
    assert health.state(101.2)[0] is SourceState.LIVE
    health.frame(103.3, 9.2, 502)
    assert health.state(103.3)[0] is SourceState.LATE


def test_lost_and_ended_stay_until_a_frame_comes_or_for_good():
    health = played(3)
    health.lost("refused")
    assert health.state(100.5) == (SourceState.LOST, "refused")
    health.frame(101.0, 1.0, 9)
    assert health.state(101.0)[0] is SourceState.LIVE
    health.ended("over")
    health.frame(102.0, 2.0, 10)
    assert health.state(102.0) == (SourceState.ENDED, "over")
