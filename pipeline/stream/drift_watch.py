"""Holds explained windows against a run, stream by stream, and tells alarms."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.errors import StoreError
from pipeline.status import Status
from pipeline.store.opening import Absent, find_store, open_store
from pipeline.store.pending import read_status
from pipeline.store.record import ModelFacts, RunIdentity, RunRecord, told_differences
from pipeline.store.run_folder import store_url
from pipeline.stream.alarm import Alarm
from pipeline.stream.drift import DriftDetector, DriftSettings
from pipeline.stream.explained import Explained, Picture, StreamStatus
from pipeline.stream.reference import Places, Reference
from pipeline.stream.scores import SCORES, window_scores
from pipeline.stream.session import read_facts
from pipeline.stream.sessions import urls_of

MAX_ROWS = 20_000
"""Rows of a run that it is known by; of more clips, as many are taken at even distances, and of
more windows the newest."""
PROBABILITY = "probability"
"""Name of the predicted class's probability as a score."""
_ASSUMED = 10.0
"""Autocorrelation time, in windows and in s, where none is known."""
_APART = 1_000
"""Steps between the streams of a session, more than any autocorrelation lasts."""
_DECIDING = ("sampling", "preprocessing", "views", "method", "attribution_version")
"""Parts of a run's identity, beside its model, without which the same frames have other maps."""


class DriftWatch:
    """A viewer that raises alarms.

    Parameters
    ----------
    alarm
        Is told each alarm, in the engine's thread.
    settings
        For all streams together: each gets its share of the probability of a false alarm.
    """

    def __init__(
        self,
        reference: Reference,
        streams: Sequence[str],
        alarm: Callable[[Alarm], None],
        settings: DriftSettings | None = None,
    ) -> None:
        settings = settings or DriftSettings()
        share = settings.false_alarm_probability / len(streams)
        of_each = replace(settings, false_alarm_probability=share)
        self._detectors = {name: DriftDetector(name, reference, of_each) for name in streams}
        self._alarm = alarm

    def shown(self, explained: Explained) -> None:
        """Hold a window against the run."""
        label, probability = explained.top[0]
        scores, where = window_scores(explained.spatial, explained.temporal)
        detector = self._detectors[explained.stream]
        alarm = detector.update(explained.window, label, scores | {PROBABILITY: probability}, where)
        if alarm is not None:
            self._alarm(alarm)

    def picture(self, picture: Picture) -> None:
        """Pictures say nothing about drift."""

    def status(self, status: StreamStatus) -> None:
        """Nor do states."""


def drift_settings(
    reference: Reference,
    window_s: float,
    hop_s: float,
    false_alarm_probability: float = DriftSettings.false_alarm_probability,
) -> DriftSettings:
    """Give settings for an hour of windows, a hop apart and as long as told, s.

    A recorded stream says for how long its windows resemble each other. Of clips that isn't known:
    ten windows, or ten seconds if that is more.
    """
    least = max(window_s / hop_s, 1.0)
    lasts = np.array(max(_ASSUMED, _ASSUMED / hop_s))
    if reference.correlation_s is not None:
        lasts = reference.correlation_s / hop_s
    return DriftSettings(
        horizon_windows=max(1, round(3600 / hop_s)),
        false_alarm_probability=false_alarm_probability,
        correlation_windows=tuple(np.atleast_1d(np.maximum(lasts, least)).tolist()),
        correlation_is_known=reference.correlation_s is not None,
    )


def told_event(alarm: Alarm) -> dict[str, Any]:
    """Give plain values of an alarm, with the names in the store of the windows to look at."""
    event = alarm.event()
    for name in ("before", "after"):
        windows = getattr(alarm, name)
        event[f"{name}_clips"] = [f"{alarm.stream}-{number:08d}" for number in windows]
    return event


def _has_store(session_url: str) -> bool:
    return not isinstance(find_store(store_url(session_url)), Absent)


def reference_of(run_url: str, record: RunRecord) -> Reference:
    """Read how a run's clips score; of a folder of sessions, its newest session's windows.

    Parameters
    ----------
    record
        Of the sessions of the streams that are held against it.

    Raises
    ------
    StoreError
        If there is no run, its clips would score otherwise than the streams' windows whatever they
        show (see `check_comparable`), or it has too few clips.
    """
    url = run_url
    if isinstance(find_store(store_url(url)), Absent):
        # The newest may not have a window yet.
        kept = (each for each in reversed(urls_of(url)) if _has_store(each))
        url = next(kept, url)
    store = open_store(store_url(url))
    check_comparable(url, store.record, record)
    rows = np.flatnonzero(read_status(store) == Status.OK)
    facts = read_facts(url)
    every = max(1, -(-len(rows) // MAX_ROWS))
    rows = rows[::every] if facts is None else rows[-MAX_ROWS:]
    names = ("spatial", "temporal", "prediction", "probability", "video_id")
    spatial, temporal, prediction, probability, ids = (
        store.array(name).get_orthogonal_selection((rows,)) for name in names
    )
    scored = [window_scores(s, t) for s, t in zip(spatial, temporal, strict=True)]
    scores = {name: np.array([of_clip[name] for of_clip, _ in scored]) for name in SCORES}
    return Reference.of(
        scores | {PROBABILITY: probability},
        prediction,
        store.record.class_names,
        maps=[where for _, where in scored],
        places=None if facts is None else _places(ids, float(facts["hop_s"])),
    )


def check_comparable(url: str, there: RunRecord, here: RunRecord) -> None:
    """Refuse a run whose maps are others than the streams' also where nothing has drifted.

    The manifest, the decoder, the precision and sizes of batches may be others.

    Raises
    ------
    StoreError
        Names what differs.
    """
    if there.class_names != here.class_names:
        raise StoreError(
            f"drift_against: {url} is of {there.model.name}, whose classes are others than "
            "those of the model that explains the streams"
        )
    if there.method_name != here.method_name or there.taken_in is not None:
        raise StoreError(
            f"drift_against: {url} is by {there.method_name}"
            f"{' of another tool' if there.taken_in else ''}, the streams are explained by "
            f"{here.method_name}: expected the same method"
        )
    if there.identity.model != here.identity.model:
        raise StoreError(
            f"drift_against: {url} is of the model {_name(there.model)}, the streams are explained "
            f"by {_name(here.model)}: expected the same weights and config"
        )
    compared = _without_what_is_stored_beside(there.identity)
    differing = [
        each
        for each in compared.differences(_without_what_is_stored_beside(here.identity))
        if each[0].partition(".")[0] in _DECIDING
    ]
    if differing:
        raise StoreError(
            f"drift_against: {url} was explained otherwise than the streams are: "
            f"{told_differences(differing)}"
        )


def _without_what_is_stored_beside(identity: RunIdentity) -> RunIdentity:
    """Leave out the options of a method that store more, and change no attribution."""
    return identity.model_copy(update={"method": identity.method.of_attribution()})


def _name(model: ModelFacts) -> str:
    revision = f" at {model.revision[:12]}" if model.revision else ""
    return f"{model.name}{revision} (weights {model.weights_digest[:12]})"


def _places(window_ids: Sequence[str], hop_s: float) -> Places:
    """Find where windows of a session lie, by their names."""
    parts = [str(name).rpartition("-") for name in window_ids]
    streams = sorted({stream for stream, _, _ in parts})
    of_stream = np.array([streams.index(stream) for stream, _, _ in parts], np.int64)
    place = np.array([int(number) for _, _, number in parts], np.int64)
    first = 0
    for stream in range(len(streams)):
        mine = of_stream == stream
        place[mine] += first - place[mine].min()
        first = int(place[mine].max()) + _APART
    return Places(place, hop_s)
