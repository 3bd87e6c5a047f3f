from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.stream.explained import SourceState, StreamStatus
from pipeline.stream.metrics import StreamMetrics, registry_of


def test_metrics_are_what_the_states_say_when_they_are_asked_for():
    states = [
        StreamStatus("cam", SourceState.LATE, "slow", 1.5, 7, 2, 0.9),
        StreamStatus("door", SourceState.LOST, "refused", None, 0, 0, 0.0),
    ]
    registry = registry_of(StreamMetrics(lambda: states, lambda: (5, 1)))
    states.append(StreamStatus("new", SourceState.LIVE, "", 0.1, 1, 0, 1.0))
    values = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }
    assert values["staa_live_windows_total", "cam"] == 7
    assert values["staa_live_windows_skipped_total", "cam"] == 2
    assert values["staa_live_age_seconds", "cam"] == 1.5
    assert ("staa_live_age_seconds", "door") not in values
    assert values["staa_live_state", "cam", "late"] == 1
    assert values["staa_live_state", "cam", "live"] == 0
    assert values["staa_live_windows_total", "new"] == 1
    assert values["staa_live_windows_recorded_total",] == 5
    assert values["staa_live_windows_lost_total",] == 1
