"""A drift that was found, and how it is told."""

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.stream.reference import AGREEMENT, DISTANCE, TURNS

CLASS_FREQUENCY = "class frequency"


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
        What was promised: see `pipeline.stream.drift.DriftSettings`.
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
                f"In {self.label} the map lies elsewhere {since} than in the run's clips: all "
                f"scores together are {self.effect:.1f} standard deviations from theirs"
            )
        if self.score in TURNS:
            return (
                f"In {self.label} the map lies {since} as if the picture were {self.score}: by "
                f"{self.effect:.1f} standard deviations more than in the run's clips"
            )
        where = {
            "top_left_mass": "the upper left corner's share of the map",
            "top_right_mass": "the upper right corner's share of the map",
            "bottom_left_mass": "the lower left corner's share of the map",
            "bottom_right_mass": "the lower right corner's share of the map",
            AGREEMENT: "the map's agreement with the usual one",
        }
        name = where.get(self.score, f"the {self.score.replace('_', ' ')}")
        return (
            f"In {self.label} {name} is {self.value:.2f} {since}, and {self.before_value:.2f} in "
            f"the run's clips: {abs(self.effect):.1f} standard deviations "
            f"{'more' if self.effect > 0 else 'less'}"
        )

    def event(self) -> dict[str, Any]:
        """Give plain values, for a log of events and the page."""
        fields = asdict(self)
        fields["class"] = fields.pop("label")
        unit = "of windows" if self.score == CLASS_FREQUENCY else "sd"
        return {"kind": "drift", "said": self.said, "effect_unit": unit, **fields}
