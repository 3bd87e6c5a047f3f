"""How fast a run goes and what keeps it from being faster, noted beside its store."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.storage.files import read_bytes, write_bytes
from pipeline.store.run_folder import pace_url

_WORDS = {
    "decode": "decoding",
    "transfer": "the transfer to the device",
    "model": "the models",
    "storage": "the storage",
}
"""What may bound a run, and how it is called in messages."""


@dataclass(frozen=True)
class Pace:
    """A run's rate, and how busy each part of it was."""

    clips_per_s: float
    busy: dict[str, float]
    """Share of the time for which each part was fully busy, by the names of `_WORDS`."""
    cores_lacking: float = 0.0
    """CPUs that decoding would need in addition to keep the models busy."""

    @property
    def bounded_by(self) -> str:
        """The busiest part: ``decode``, ``transfer``, ``model`` or ``storage``."""
        return max(self.busy, key=lambda part: self.busy[part])

    def __str__(self) -> str:
        """One line."""
        shares = ", ".join(f"{_WORDS[part]} {share:.0%}" for part, share in self.busy.items())
        lacking = ""
        if self.bounded_by == "decode" and self.cores_lacking >= 0.5:
            lacking = (
                f"; {self.cores_lacking:.0f} more cores of decoding would keep the models busy"
            )
        return (
            f"{self.clips_per_s:.3g} clips/s, bounded by {_WORDS[self.bounded_by]} "
            f"(busy: {shares}){lacking}"
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "bounded_by": self.bounded_by}


def write_pace(run_url: str, pace: Pace) -> None:
    """Note the pace of a run in its folder; raises as `write_bytes` does."""
    write_bytes(pace_url(run_url), json.dumps(pace.to_json(), indent=1).encode())


def read_pace(run_url: str) -> Pace | None:
    """Pace that a run noted last; None if there is none, or it can't be read."""
    try:
        values = json.loads(read_bytes(pace_url(run_url), at_most=100_000))
        busy = {part: float(values["busy"][part]) for part in _WORDS}
        return Pace(float(values["clips_per_s"]), busy, float(values["cores_lacking"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
