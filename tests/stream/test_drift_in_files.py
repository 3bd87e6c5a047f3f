"""The alarm for drift from files to events, two seeds; 20 are `study_of_drift_in_files`."""

import pytest

from tests.stream.drift_in_files import (
    DRIFT_AT_S,
    DRIFTS,
    MAX_WINDOWS,
    delay,
    explain,
    first_affected,
    usual,
)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.slow,  # test_drift.py has the detector, on simulated streams
]

SEEDS = (1, 2)


@pytest.fixture(scope="module")
def against(tmp_path_factory):
    return usual(tmp_path_factory.mktemp("usual"))


@pytest.mark.parametrize("seed", SEEDS)
# In these scenes a camera on its side sees what it saw: they have no up and no down.
@pytest.mark.parametrize("drift", DRIFTS[:3])
def test_planted_drift_is_found_within_50_windows(against, tmp_path, drift, seed):
    length_s = DRIFT_AT_S + MAX_WINDOWS + 5
    alarms = explain(tmp_path, "camera", length_s, seed, drift, against=against)
    print([event["said"] for event in alarms])
    assert all(event["to_window"] >= first_affected() for event in alarms)
    assert delay(alarms) is not None
    assert delay(alarms) <= MAX_WINDOWS


def test_a_camera_on_its_side_is_found_where_there_is_an_up_and_a_down(tmp_path):
    against = usual(tmp_path, sky=True)
    for seed in SEEDS:
        length_s = DRIFT_AT_S + MAX_WINDOWS + 5
        alarms = explain(
            tmp_path, f"{seed}", length_s, seed, "camera on its side", sky=True, against=against
        )
        print([event["said"] for event in alarms])
        assert delay(alarms) is not None
        assert delay(alarms) <= MAX_WINDOWS


@pytest.mark.parametrize("seed", SEEDS)
def test_without_drift_there_is_no_alarm(against, tmp_path, seed):
    assert explain(tmp_path, "camera", 300.0, seed + 1000, against=against) == []
