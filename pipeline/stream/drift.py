"""An alarm when a stream's windows no longer score as the clips of an offline run do.

Each score of a window becomes its normal score z among the run's clips of the same predicted class
(`pipeline.stream.reference`), and bets on a shift; each class bets that it has become more frequent
(`pipeline.stream.bets`). The alarm rises once the weighted mean M of all bets reaches N / alpha.
Without drift E[e_t | past] <= 1, so M_t + N - t is a supermartingale, whatever the scores have to
do with each other, and by Ville's inequality an alarm within N windows has a probability of at most
alpha (Shin, Ramdas & Rinaldo 2022, 2203.03532).

Windows overlap and scenes last, so neighbours say the same thing again: what a window says is what
its neighbours don't, by their autocorrelation time. The run's own is taken if it is a recorded
stream, unless the stream surely has a longer one. Clips don't show it: `correlation_windows` is
taken, and the stream's own as soon as it may be longer. The promise is about autoregressions with
that time or a shorter one. Scenes whose lengths have a long tail are not quite that:
``python -m tests.stream.study_of_drift`` counts false alarms on simulated streams.
"""

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from pipeline.stream.alarm import CLASS_FREQUENCY, Alarm
from pipeline.stream.bets import SIZES, Bets, Whitener
from pipeline.stream.correlation import autocorrelation_times, in_order, limits
from pipeline.stream.reference import AGREEMENT, DISTANCE, TURNS, Reference

Float64Array = NDArray[np.float64]

_CLASS_SIZES = np.array([0.3, 0.7])
"""Shares of windows that a class is bet to have gained."""
_WEIGHTS = {"whole": 0.35, "turned": 0.2, "single": 0.4, "classes": 0.05}
"""Of bets on the map as a whole, on its turns, on single scores, and on classes."""
_HISTORY = 600
_SETTLED = 50
"""Windows that are too new for the correlation's estimate, as they may have drifted."""
_LEAST_FOR_ESTIMATE = 100
_ESTIMATE_EVERY = 25
_N_EXAMPLES = 3
_UP, _DOWN = 0, 1
_WHOLE = {DISTANCE: _UP, AGREEMENT: _DOWN, **dict.fromkeys(TURNS, _UP)}
"""Scores of the map as a whole, and whether they are bet to be more or less."""
_CLEAR = 1.5
"""Standard deviations from which a single score is named for the whole map."""
_MOVED = 1.0
"""Standard deviations from which a score is told to have moved with another."""
_CALM = 0.5
"""A score that has moved so far, or may have, rests after an alarm until it is back within it."""


@dataclass(frozen=True)
class DriftSettings:
    """When an alarm rises.

    Attributes
    ----------
    horizon_windows
        N: windows over which the probability of a false alarm is stated; an hour at one a second.
    false_alarm_probability
        alpha: the highest probability of a false alarm in ``horizon_windows`` of no drift. With
        several streams, divide it by their number.
    correlation_windows
        tau: integrated autocorrelation time in windows, 1 + 2 sum of rho, of all scores, or of each
        score of the reference. For scenes that last L windows on average it is about 2 L - 1;
        overlap alone gives a window's length divided by the hop. A shorter one finds drift sooner,
        and is wrong where scenes last longer.
    correlation_is_known
        Whether a recorded stream has shown it; else it is the least that is assumed.
    """

    horizon_windows: int = 3600
    false_alarm_probability: float = 0.02
    correlation_windows: float | tuple[float, ...] = 10.0
    correlation_is_known: bool = False

    def __post_init__(self) -> None:
        if self.horizon_windows < 1 or not 0 < self.false_alarm_probability < 1:
            raise ValueError(
                f"horizon_windows is {self.horizon_windows} and false_alarm_probability "
                f"{self.false_alarm_probability}, expected at least 1 and (0, 1)"
            )
        if not all(1 <= tau < math.inf for tau in np.atleast_1d(self.correlation_windows)):
            raise ValueError(
                f"correlation_windows is {self.correlation_windows}, expected at least 1"
            )

    @property
    def threshold(self) -> float:
        """What the mean of all bets has to reach: N / alpha."""
        return self.horizon_windows / self.false_alarm_probability


@dataclass(frozen=True)
class _Seen:
    window: int
    label: str
    z: Float64Array
    values: Float64Array


class DriftDetector:
    """Watch one stream.

    Parameters
    ----------
    stream
        Its name, for the alarms.
    """

    def __init__(
        self, stream: str, reference: Reference, settings: DriftSettings | None = None
    ) -> None:
        self._stream, self._reference = stream, reference
        self.settings = settings or DriftSettings()
        self._told = np.full(len(reference.scores), self.settings.correlation_windows, np.float64)
        self._tau = self._told
        self._whitener = Whitener(len(reference.scores))
        self._scores = Bets(_score_weights(reference.scores))
        shape = (len(reference.class_names), len(_CLASS_SIZES))
        self._classes = Bets(np.full(shape, _WEIGHTS["classes"] / math.prod(shape)))
        self._share = np.array([reference.share_at_most(name) for name in reference.class_names])
        self._history: deque[_Seen] = deque(maxlen=_HISTORY)
        self._class_seen_at: int | None = None
        self._alarm_at = -1
        self._n_seen = 0

    @property
    def evidence(self) -> float:
        """The mean of all bets, over what raises an alarm: 1 is an alarm."""
        return (self._scores.mean() + self._classes.mean()) / self.settings.threshold

    @property
    def correlation_windows(self) -> dict[str, float]:
        """Autocorrelation time of each score in windows, as it is used now."""
        return dict(zip(self._reference.scores, self._tau.tolist(), strict=True))

    def update(
        self,
        window: int,
        label: str,
        scores: Mapping[str, float],
        where: Float64Array | None = None,
    ) -> Alarm | None:
        """Take a window; give the alarm that it raises.

        Parameters
        ----------
        window
            Its number; skipped windows keep theirs.
        label
            The predicted class.
        scores
            By name; those that the reference doesn't have are passed over, and those that are
            missing or NaN say nothing.
        where
            (height, width), the map of the window, which is held against the usual one of its
            class.

        Raises
        ------
        ValueError
            When windows don't come in order.
        """
        if self._history and window <= self._history[-1].window:
            raise ValueError(
                f"window {window} comes after window {self._history[-1].window}, expected a "
                "larger number"
            )
        reference = self._reference
        group = reference.group_of(label)
        if where is not None:
            scores = {**scores, **reference.map_scores(group, where)}
        given = np.array([scores.get(n, np.nan) for n in reference.scores[:-1]], np.float64)
        z, distance = reference.normal_scores(group, given)
        self._history.append(_Seen(window, label, z, np.append(given, distance)))
        self._n_seen += 1
        n_clips = float(reference.n_independent[group])
        self._scores.bet(self._whitener.log_pay(window, z, self._tau, n_clips), window)
        self._bet_on_classes(window, label)
        if self._n_seen % _ESTIMATE_EVERY == 0:
            self._estimate_correlation()
            self._watch_again()
        return self._raise_alarm(window) if self.evidence >= 1 else None

    def _bet_on_classes(self, window: int, label: str) -> None:
        """Look at the class only so often that what is seen is nearly independent."""
        interval = 2 * float(self._tau.max())
        if label not in self._reference.class_names or (
            self._class_seen_at is not None and window - self._class_seen_at < interval
        ):
            return
        self._class_seen_at = window
        is_it = np.array([name == label for name in self._reference.class_names])
        ratio = np.where(is_it, 1 / self._share, 0.0)[:, None]
        self._classes.bet(np.log(1 - _CLASS_SIZES + _CLASS_SIZES * ratio), window)

    def _estimate_correlation(self) -> None:
        settled = list(islice(self._history, max(0, len(self._history) - _SETTLED)))
        if len(settled) < _LEAST_FOR_ESTIMATE:
            return
        first = settled[0].window
        place = np.array([seen.window - first for seen in settled])
        found = autocorrelation_times(in_order(np.array([seen.z for seen in settled]), place))
        sure, possible = limits(found, len(settled))
        if self.settings.correlation_is_known:
            self._tau = np.where(sure > self._told, found, self._told)
        else:
            self._tau = np.maximum(self._told, possible)

    def _watch_again(self) -> None:
        """Watch what has calmed down since the last alarm."""
        recent = [one for one in self._history if one.window > self._alarm_at][-_SETTLED:]
        if len(recent) < _SETTLED:
            return
        self._scores.watch(np.abs(_means(recent)) < _CALM)
        labels = Counter(seen.label for seen in recent)
        share = np.array([labels[n] / len(recent) for n in self._reference.class_names])
        self._classes.watch(share <= self._share + 0.15)

    def _raise_alarm(self, window: int) -> Alarm:
        reference = self._reference
        of_scores, of_classes = self._scores.best(), self._classes.best()
        in_classes = of_classes > of_scores
        _, which, since = max(of_scores, of_classes)
        seen = [one for one in self._history if one.window >= since] or [self._history[-1]]
        earlier = [one for one in self._history if one.window < seen[0].window]
        mean_z = _means(seen)
        labels = Counter(one.label for one in seen)
        moved = np.abs(mean_z) >= _MOVED
        if in_classes:
            label = reference.class_names[which]
            score, before = CLASS_FREQUENCY, float(reference.n_clips[which] / reference.n_clips[-1])
            value = labels[label] / len(seen)
            effect = value - before
            unusual = [float(one.label == label) for one in seen]
            usual = [float(one.label == label) for one in earlier]
            self._classes.rest(np.arange(len(reference.class_names)) == which)
        else:
            label = labels.most_common(1)[0][0]
            # One drift moves many scores: they are told at once, and don't raise one alarm each.
            rests = np.abs(mean_z) >= _CALM
            rests[which] = True
            self._scores.rest(rests | np.isin(reference.scores, list(_WHOLE)))
            which = _named(reference.scores, which, mean_z)
            if reference.scores[which] in TURNS:
                turned = [
                    each
                    for each, name in enumerate(reference.scores)
                    if name in TURNS and (each == which or (moved[each] and mean_z[each] > 0))
                ]
                which = _nearest_turn(turned, seen)
            score = reference.scores[which]
            before = reference.typical(reference.group_of(label), which)
            value = float(np.nanmean([one.values[which] for one in seen]))
            effect = float(mean_z[which])
            unusual = [float(np.nan_to_num(abs(one.z[which]))) for one in seen]
            usual = [float(np.nan_to_num(abs(one.z[which]), nan=np.inf)) for one in earlier]
        # A map that has turned agrees more with other turns, too, and one that moved with some.
        also = tuple(
            name
            for name, has_moved in zip(reference.scores, moved, strict=True)
            if has_moved and name != score and name not in TURNS
        )
        alarm = Alarm(
            stream=self._stream,
            label=label,
            score=score,
            effect=effect,
            before_value=before,
            value=value,
            from_window=seen[0].window,
            to_window=window,
            before=_examples(earlier[-_SETTLED:], usual[-_SETTLED:], most=False),
            after=_examples(seen, unusual, most=True),
            also=also,
            false_alarm_probability=self.settings.false_alarm_probability,
            horizon_windows=self.settings.horizon_windows,
        )
        self._scores.restart()
        self._classes.restart()
        self._alarm_at = window
        return alarm


def _score_weights(scores: tuple[str, ...]) -> Float64Array:
    """Share of each bet: (scores, up and down, sizes).

    More than half of what is bet on scores is on the map as a whole: that all scores together lie
    further away, that the map agrees less with the usual one, and more with the usual one turned.
    """
    weights = np.zeros((len(scores), 2, len(SIZES)))
    for kind, names in (("whole", (DISTANCE, AGREEMENT)), ("turned", tuple(TURNS))):
        known = [(i, _WHOLE[name]) for i, name in enumerate(scores) if name in names]
        for place in known:
            weights[place] = _WEIGHTS[kind] / len(known) / len(SIZES)
    single = np.array([name not in _WHOLE for name in scores])
    weights[single] = _WEIGHTS["single"] / max(1, int(single.sum())) / 2 / len(SIZES)
    return weights


def _named(scores: tuple[str, ...], which: int, mean_z: Float64Array) -> int:
    """Score to be named for the one that raised the alarm: of a whole map, the part that moved."""
    if scores[which] not in _WHOLE:
        return which
    # That a map agrees less with a turned one says nothing.
    shift = np.where(np.isin(scores, list(TURNS)), mean_z, np.abs(mean_z))
    shift[np.isin(scores, (DISTANCE, AGREEMENT))] = -np.inf
    most = int(shift.argmax())
    return most if shift[most] >= _CLEAR else which


def _nearest_turn(turns: list[int], seen: list[_Seen]) -> int:
    """Turn of the usual maps with which windows agree best, of those that they agree with more.

    Each class counts alike: a scene that lasts says over and over what another turn might say, too.
    """
    of_class: dict[str, list[Float64Array]] = {}
    for one in seen:
        if np.isfinite(one.values[turns]).all():
            of_class.setdefault(one.label, []).append(one.values[turns])
    # The windows that raised the alarm have values.
    means = [np.mean(values, axis=0) for values in of_class.values()]
    return turns[int(np.mean(means, axis=0).argmax())]


def _means(seen: list[_Seen]) -> Float64Array:
    """Mean normal scores; 0 for a score that none has."""
    z = np.array([one.z for one in seen])
    known = np.isfinite(z)
    mean: Float64Array = np.where(known, z, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return mean


def _examples(seen: list[_Seen], key: list[float], *, most: bool) -> tuple[int, ...]:
    order = np.argsort(key, kind="stable")
    chosen = order[::-1][:_N_EXAMPLES] if most else order[:_N_EXAMPLES]
    return tuple(sorted(seen[int(i)].window for i in chosen))
