import json

import pytest

from pipeline.stream.alarm import CLASS_FREQUENCY, Alarm
from pipeline.stream.reference import AGREEMENT, DISTANCE


def alarm(score, **changes):
    values = {
        "stream": "yard",
        "label": "spin",
        "score": score,
        "effect": 2.5,
        "before_value": 0.05,
        "value": 0.4,
        "from_window": 61,
        "to_window": 80,
        "before": (50, 52),
        "after": (70, 71),
        "also": ("entropy",),
        "false_alarm_probability": 0.1,
        "horizon_windows": 3600,
    }
    return Alarm(**values | changes)


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (
            "top_right_mass",
            "In spin the upper right corner's share of the map is 0.40 since window 61, and 0.05 "
            "in the run's clips: 2.5 standard deviations more",
        ),
        (
            AGREEMENT,
            "In spin the map's agreement with the usual one is 0.40 since window 61, and 0.05 in "
            "the run's clips: 2.5 standard deviations more",
        ),
        (
            "border_mass",
            "In spin the border mass is 0.40 since window 61, and 0.05 in the run's clips: 2.5 "
            "standard deviations more",
        ),
        (
            DISTANCE,
            "In spin the map lies elsewhere since window 61 than in the run's clips: all scores "
            "together are 2.5 standard deviations from theirs",
        ),
        (
            "upside down",
            "In spin the map lies since window 61 as if the picture were upside down: by 2.5 "
            "standard deviations more than in the run's clips",
        ),
        (
            CLASS_FREQUENCY,
            "spin is predicted for 40% of windows since window 61, and for 5% of the run's clips",
        ),
    ],
)
def test_it_is_said_in_a_sentence(score, said):
    assert alarm(score).said == said


def test_its_event_is_plain():
    event = json.loads(json.dumps(alarm("entropy", effect=-3.0).event()))
    assert (event["kind"], event["class"], event["effect_unit"]) == ("drift", "spin", "sd")
    assert event["said"].endswith("3.0 standard deviations less")
    assert event["before"] == [50, 52]
    assert alarm(CLASS_FREQUENCY).event()["effect_unit"] == "of windows"
