"""Prometheus metrics of a live engine, read when they are asked for."""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipeline.stream.explained import SourceState, StreamStatus


class StreamMetrics(Collector):
    """What each stream does, and what was recorded.

    Parameters
    ----------
    states
        Says how each stream is doing, as `Engine.states`.
    recorded
        Windows that were written so far, and that were left out.
    """

    def __init__(
        self,
        states: Callable[[], Sequence[StreamStatus]],
        recorded: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self._states, self._recorded = states, recorded

    def collect(self) -> Iterator[Metric]:
        """Give the metrics as they are now."""
        windows = CounterMetricFamily(
            "staa_live_windows", "Windows that were explained", labels=["stream"]
        )
        skipped = CounterMetricFamily(
            "staa_live_windows_skipped",
            "Windows that were due and not explained",
            labels=["stream"],
        )
        age = GaugeMetricFamily("staa_live_age_seconds", "Age of the newest map", labels=["stream"])
        rate = GaugeMetricFamily(
            "staa_live_windows_per_second", "Explained windows per second", labels=["stream"]
        )
        state = GaugeMetricFamily(
            "staa_live_state", "1 for the state that the source is in", labels=["stream", "state"]
        )
        for status in self._states():
            windows.add_metric([status.stream], status.windows)
            skipped.add_metric([status.stream], status.skipped)
            rate.add_metric([status.stream], status.rate)
            if status.age_s is not None:
                age.add_metric([status.stream], status.age_s)
            for each in SourceState:
                state.add_metric([status.stream, str(each)], float(status.state is each))
        yield from (windows, skipped, age, rate, state)
        n_written, n_lost = self._recorded()
        yield CounterMetricFamily(
            "staa_live_windows_recorded", "Windows in the store", value=n_written
        )
        yield CounterMetricFamily(
            "staa_live_windows_lost", "Windows that the storage was too slow for", value=n_lost
        )


def registry_of(collector: Collector) -> CollectorRegistry:
    """Make a registry of these metrics alone."""
    registry = CollectorRegistry()
    registry.register(collector)
    return registry
