"""An alarm when a stream's windows no longer score as the clips of an offline run do.

Each score of a window becomes its normal score z among the run's clips of the same predicted class
(`pipeline.stream.reference`). Windows overlap and scenes last, so that neighbours are correlated:
z is whitened as an autoregression of first order with phi = (tau - 1) / (tau + 1),

    r_t = (z_t - phi^k z_{t-k}) / sqrt(1 - phi^2k)      k windows after the last one that was scored

with tau the integrated autocorrelation time in windows. That of the stream so far replaces the
given one where it is longer. Each score bets, up and down and at two sizes, on a shift,

    e_t = exp(lambda c(+-r_t - margin)) / E[exp(lambda c(N(0, 1)))]      R_t = (1 + R_{t-1}) e_t

(Shiryaev 1963, Roberts 1966), where c cuts off at 1.5, so that no single window counts for much.
Each class bets that it has become more frequent. The alarm rises once the weighted mean M of all R
reaches N / alpha. Without drift E[e_t | past] <= 1, so M_t + N - t is a supermartingale, whatever
the scores have to do with each other, and by Ville's inequality an alarm within N windows has a
probability of at most alpha (Shin, Ramdas & Rinaldo 2022, 2203.03532).

The promise is about autoregressions with that correlation time or a shorter one. Scenes whose
lengths have a long tail are not quite that, and one that is told as shorter than it is costs false
alarms: ``python -m tests.stream.study_of_drift`` counts them on simulated streams.
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from pipeline.stream.reference import DISTANCE, Reference

Float64Array = NDArray[np.float64]

_BETS = np.array([0.5, 1.1])
"""Shifts of the whitened score that are bet on."""
_CLASS_BETS = np.array([0.3, 0.7])
"""Shares of windows that a class is bet to have gained."""
_SCORES_WEIGHT = 0.8
_CLIP = 1.5
"""Whitened scores are cut off there, so that no single window raises an alarm."""
_REFERENCE_ERRORS = 2.0
"""Standard errors of the run's own clips that are no drift."""
_HISTORY = 600
_SETTLED = 50
"""Windows that are too new for the correlation's estimate, as they may have drifted."""
_LEAST_FOR_ESTIMATE = 100
_ESTIMATE_EVERY = 25
_MAX_LAG = 60
_N_EXAMPLES = 3
_CALM = 1.0
"""A score that has raised an alarm is watched again once it is back within so many sd."""


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
        tau: integrated autocorrelation time of the scores in windows, 1 + 2 sum of rho. For scenes
        that last L windows on average it is 2 L - 1; overlap alone gives a window's length divided
        by the hop. A shorter one finds drift sooner, and is wrong where scenes last longer.
    """

    horizon_windows: int = 3600
    false_alarm_probability: float = 0.1
    correlation_windows: float = 10.0

    def __post_init__(self) -> None:
        if self.horizon_windows < 1 or not 0 < self.false_alarm_probability < 1:
            raise ValueError(
                f"horizon_windows is {self.horizon_windows} and false_alarm_probability "
                f"{self.false_alarm_probability}, expected at least 1 and (0, 1)"
            )
        if not 1 <= self.correlation_windows < float("inf"):
            raise ValueError(
                f"correlation_windows is {self.correlation_windows}, expected at least 1"
            )

    @property
    def threshold(self) -> float:
        """What the mean of all bets has to reach: N / alpha."""
        return self.horizon_windows / self.false_alarm_probability


@dataclass(frozen=True)
class Alarm:
    """A drift that was found.

    Attributes
    ----------
    stream
        Name of the stream.
    label
        The class that most windows since the change were predicted as.
    score
        The score that changed most clearly, or ``class frequency``.
    effect
        Mean normal score since the change: standard deviations of the run's clips of the same
        class. For a class's frequency, the difference of its shares.
    before_value, value
        The run's median and the windows' mean; for a class's frequency, both shares.
    from_window, to_window
        Windows since the change, as it is estimated, to the one that raised the alarm.
    before, after
        Numbers of windows to look at: the most usual ones before it, the most unusual ones since.
    also
        Other scores that have moved by a standard deviation or more with it.
    false_alarm_probability, horizon_windows
        What was promised: see `DriftSettings`.
    """

    stream: str
    label: str
    score: str
    effect: float
    before_value: float
    value: float
    from_window: int
    to_window: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    also: tuple[str, ...]
    false_alarm_probability: float
    horizon_windows: int

    @property
    def said(self) -> str:
        """Say it in a sentence."""
        since = f"since window {self.from_window}"
        if self.score == CLASS_FREQUENCY:
            return (
                f"{self.label} is predicted for {self.value:.0%} of windows {since}, and for "
                f"{self.before_value:.0%} of the run's clips"
            )
        if self.score == DISTANCE:
            return (
                f"In {self.label} attention lies elsewhere {since} than in the run's clips: all "
                f"scores together are {self.effect:.1f} standard deviations from theirs"
            )
        name = self.score.replace("_", " ")
        return (
            f"In {self.label} the {name} is {self.value:.2f} {since}, and {self.before_value:.2f} "
            f"in the run's clips: {abs(self.effect):.1f} standard deviations "
            f"{'more' if self.effect > 0 else 'less'}"
        )

    def event(self) -> dict[str, Any]:
        """Give plain values, for a log of events and the page."""
        fields = asdict(self)
        fields["class"] = fields.pop("label")
        unit = "of windows" if self.score == CLASS_FREQUENCY else "sd"
        return {"kind": "drift", "said": self.said, "effect_unit": unit, **fields}


CLASS_FREQUENCY = "class frequency"


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
        n_scores, n_classes = len(reference.scores), len(reference.class_names)
        self._tau = np.full(n_scores, self.settings.correlation_windows)
        self._scores = _Bets((n_scores, 2, len(_BETS)), _SCORES_WEIGHT)
        self._classes = _Bets((n_classes, len(_CLASS_BETS)), 1 - _SCORES_WEIGHT)
        self._share = np.array([reference.share_at_most(name) for name in reference.class_names])
        self._history: deque[_Seen] = deque(maxlen=_HISTORY)
        self._last_z = np.full(n_scores, np.nan)
        self._last_window = np.zeros(n_scores, np.int64)
        self._class_seen_at: int | None = None
        self._n_seen = 0

    @property
    def evidence(self) -> float:
        """The mean of all bets, over what raises an alarm: 1 is an alarm."""
        return (self._scores.mean() + self._classes.mean()) / self.settings.threshold

    @property
    def correlation_windows(self) -> dict[str, float]:
        """Autocorrelation time of each score in windows, as it is used now."""
        return dict(zip(self._reference.scores, self._tau.tolist(), strict=True))

    def update(self, window: int, label: str, scores: Mapping[str, float]) -> Alarm | None:
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
        given = np.array([scores.get(n, np.nan) for n in reference.scores[:-1]], np.float64)
        group = reference.group_of(label)
        z, distance = reference.normal_scores(group, given)
        values = np.append(given, distance)
        self._history.append(_Seen(window, label, z, values))
        self._n_seen += 1
        self._bet_on_scores(window, z, float(reference.n_clips[group]))
        self._bet_on_classes(window, label)
        if self._n_seen % _ESTIMATE_EVERY == 0:
            self._estimate_correlation()
            self._watch_again()
        return self._raise_alarm(window) if self.evidence >= 1 else None

    def _bet_on_scores(self, window: int, z: Float64Array, n_clips: float) -> None:
        gap = np.maximum(window - self._last_window, 1)
        phi = np.where(np.isnan(self._last_z), 0.0, ((self._tau - 1) / (self._tau + 1)) ** gap)
        spread = np.sqrt(1 - phi**2)
        residual = (z - phi * np.nan_to_num(self._last_z)) / spread
        margin = _REFERENCE_ERRORS / np.sqrt(n_clips) * (1 - phi) / spread
        sided = np.stack([residual, -residual], axis=1) - margin[:, None]
        r = np.clip(sided, -_CLIP, _CLIP)[:, :, None]
        self._scores.bet(_BETS * r - _LOG_MEAN, window)
        known = np.isfinite(z)
        self._last_z[known], self._last_window[known] = z[known], window

    def _bet_on_classes(self, window: int, label: str) -> None:
        """Look at the class only so often that what is seen is nearly independent."""
        interval = 2 * float(self._tau.max(initial=self.settings.correlation_windows))
        if label not in self._reference.class_names or (
            self._class_seen_at is not None and window - self._class_seen_at < interval
        ):
            return
        self._class_seen_at = window
        is_it = np.array([name == label for name in self._reference.class_names])
        ratio = np.where(is_it, 1 / self._share, 0.0)[:, None]
        self._classes.bet(np.log(1 - _CLASS_BETS + _CLASS_BETS * ratio), window)

    def _estimate_correlation(self) -> None:
        settled = list(islice(self._history, max(0, len(self._history) - _SETTLED)))
        if len(settled) < _LEAST_FOR_ESTIMATE:
            return
        found = autocorrelation_times(np.array([seen.z for seen in settled]))
        self._tau = np.maximum(self.settings.correlation_windows, found)

    def _watch_again(self) -> None:
        recent = list(self._history)[-_SETTLED:]
        z = np.array([seen.z for seen in recent])
        known = np.isfinite(z)
        mean = np.where(known, z, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        self._scores.watch(np.abs(mean) < _CALM)
        labels = Counter(seen.label for seen in recent)
        share = np.array([labels[n] / len(recent) for n in self._reference.class_names])
        self._classes.watch(share <= self._share + 0.15)

    def _raise_alarm(self, window: int) -> Alarm:
        reference = self._reference
        in_classes = self._classes.best() > self._scores.best()
        bets = self._classes if in_classes else self._scores
        which, since = bets.best_place()
        seen = [one for one in self._history if one.window >= since] or [self._history[-1]]
        earlier = [one for one in self._history if one.window < seen[0].window]
        z = np.array([one.z for one in seen])
        known = np.isfinite(z)
        mean_z = np.where(known, z, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        labels = Counter(one.label for one in seen)
        moved = np.abs(mean_z) >= _CALM
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
            score = reference.scores[which]
            before = reference.typical(reference.group_of(label), which)
            value = float(np.nanmean([one.values[which] for one in seen]))
            effect = float(mean_z[which])
            unusual = [float(np.nan_to_num(abs(one.z[which]))) for one in seen]
            usual = [float(np.nan_to_num(abs(one.z[which]), nan=np.inf)) for one in earlier]
            # One drift moves many scores: they are told at once, and don't raise one alarm each.
            moved[which] = True
            self._scores.rest(moved)
        also = tuple(n for n, m in zip(reference.scores, moved, strict=True) if m and n != score)
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
        return alarm


class _Bets:
    """Bets of one kind: the first axis is what is watched, the others how it is bet on."""

    def __init__(self, shape: tuple[int, ...], weight: float) -> None:
        self._weight = weight / max(1, int(np.prod(shape)))
        self._wealth = np.zeros(shape)
        self._sum = np.zeros(shape)
        """CUSUM of log e; the change is where it was last 0 (Page 1954)."""
        self._since = np.zeros(shape, np.int64)
        self._rests = np.zeros(shape[0], bool)

    def bet(
        self, log_e: Float64Array, window: int, counts: NDArray[np.bool_] | None = None
    ) -> None:
        """Multiply by e where there is something to see."""
        counts = np.isfinite(log_e) if counts is None else counts & np.isfinite(log_e)
        counts = counts & ~self._rests.reshape(-1, *([1] * (self._wealth.ndim - 1)))
        log_e = np.where(counts, log_e, 0)
        # An alarm comes long before; the bound keeps what rests in range.
        wealth = np.minimum((1 + self._wealth) * np.exp(log_e), 1e300)
        self._wealth = np.where(counts, wealth, self._wealth)
        self._since = np.where(counts & (self._sum <= 0), window, self._since)
        self._sum = np.maximum(self._sum, 0) + log_e

    def mean(self) -> float:
        """Weighted sum of all."""
        return float(self._weight * self._wealth.sum())

    def best(self) -> float:
        """Highest weighted one."""
        return float(self._weight * self._wealth.max(initial=0.0))

    def best_place(self) -> tuple[int, int]:
        """Tell what the highest one watches, and the window since when."""
        place = np.unravel_index(int(self._wealth.argmax()), self._wealth.shape)
        return int(place[0]), int(self._since[place])

    def rest(self, which: NDArray[np.bool_]) -> None:
        """Stop watching after an alarm."""
        self._rests |= which

    def watch(self, which: NDArray[np.bool_]) -> None:
        """Watch again."""
        self._rests &= ~which

    def restart(self) -> None:
        """Forget all bets."""
        self._wealth[:] = 0
        self._sum[:] = 0


def autocorrelation_times(values: Float64Array) -> Float64Array:
    """Integrated autocorrelation times in steps, 1 + 2 sum rho_k: (n, scores) to (scores,).

    At least 1.

    The sum ends before the first pair of lags whose correlations don't add up to more than 0
    (Geyer 1992). NaN are left out pair by pair.
    """
    known = np.isfinite(values)
    n_known = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0).sum(axis=0) / n_known
    centred = np.where(known, values - mean, 0.0)
    variance = (centred**2).sum(axis=0) / n_known
    n_lags = min(_MAX_LAG, len(values) // 3) // 2 * 2
    products, n_pairs = (_lagged(column, n_lags) for column in (centred, known.astype(np.float64)))
    rho = products / np.maximum(n_pairs, 1) / np.maximum(variance, 1e-12)
    pairs = rho.reshape(-1, 2, values.shape[1]).sum(axis=1)
    counts = np.cumprod(pairs > 0, axis=0)
    time: Float64Array = np.maximum(1.0, 2 * (pairs * counts).sum(axis=0) - 1)
    return time


def _lagged(columns: Float64Array, n_lags: int) -> Float64Array:
    """Sum of products with what lies 0, 1, ... rows later: (n, scores) to (lags, scores)."""
    spectrum = np.fft.rfft(columns, 2 * len(columns), axis=0)
    sums: Float64Array = np.fft.irfft(np.abs(spectrum) ** 2, axis=0)[:n_lags]
    return sums


def _examples(seen: list[_Seen], key: list[float], *, most: bool) -> tuple[int, ...]:
    order = np.argsort(key, kind="stable")
    chosen = order[::-1][:_N_EXAMPLES] if most else order[:_N_EXAMPLES]
    return tuple(sorted(seen[int(i)].window for i in chosen))


_LOG_MEAN = np.log(
    np.exp(_BETS**2 / 2) * (ndtr(_CLIP - _BETS) - ndtr(-_CLIP - _BETS))
    + (np.exp(_BETS * _CLIP) + np.exp(-_BETS * _CLIP)) * ndtr(-_CLIP)
)
"""log E[exp(lambda c(N))] of each bet."""
