"""A finding: what was seen, how sure that is, which clips show it, and what to check."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import pandas as pd

Kind = Literal[
    "logo",
    "static",
    "first_last_frames",
    "centre_only",
    "unlike_class",
    "strategies",
    "other_when_wrong",
    "label_suspect",
    "near_duplicate",
    "off_object",
    "attention_sink",
    "drift",
]
Scope = Literal["dataset", "class", "pair", "clip"]
ProofState = Literal["confirmed", "not confirmed", "not tried", "not applicable"]

WITHOUT_PROOF: tuple[Kind, ...] = (
    *("unlike_class", "strategies", "other_when_wrong", "near_duplicate", "off_object", "drift"),
)
"""Kinds that no intervention on a clip's frames can prove."""


@dataclass(frozen=True)
class Place:
    """Patches and time steps that a finding names: half-open ranges; None means all of them."""

    time: tuple[int, int] | None = None
    y: tuple[int, int] | None = None
    x: tuple[int, int] | None = None


@dataclass(frozen=True)
class Example:
    """A clip that shows a finding."""

    row: int
    """Row of the run."""
    video_id: str
    path: str | None


@dataclass(frozen=True)
class Proof:
    """How the answer changed when what was found was taken away, by `jobs.audit --verify`.

    A label suspect's proof is what a second model says, by ``--second-model``.
    """

    state: ProofState = "not tried"
    change: float | None = None
    """Mean change of the class's probability."""
    low: float | None = None
    """Lower end of the 95 % interval of the change minus that of a random region."""
    high: float | None = None
    random_change: float | None = None
    """Mean change when a random region of the same size was taken away."""
    n_clips: int = 0
    note: str = ""
    """The outcome in a sentence, where it is no change of a probability."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    kind: Kind
    scope: Scope
    subject: tuple[str, ...]
    """The class, the pair of classes, or the video ids that it is about; empty for the dataset."""
    seen: str
    """What was seen, in one sentence."""
    check: str
    """What to check, in one sentence."""
    effect: float
    effect_name: str
    """What the effect measures."""
    low: float
    """Lower end of the effect's 95 % interval, by a bootstrap of videos; NaN for single clips."""
    high: float
    p: float
    q: float
    """By Benjamini-Hochberg over all tests of the kind: the share of false findings if all up to
    this one are accepted."""
    n: int
    """Number of videos that the effect was measured on."""
    strength: float
    """0 to 1; findings of all kinds are ranked by it."""
    examples: tuple[Example, ...]
    method: str
    """Name of the attribution method that it is based on."""
    class_specific: bool
    """Whether that attribution says what speaks for a class, or only where the model looks."""
    place: Place = Place()
    proof: Proof = Proof()

    @property
    def key(self) -> str:
        """Name of the finding; the same whenever it is found again."""
        ends: tuple[str, ...] = ()
        if self.kind == "first_last_frames" and self.place.time is not None:
            # A class may stand out at both ends.
            ends = ("first",) if self.place.time[0] == 0 else ("last",)
        return ":".join((self.kind, *self.subject, *ends))

    def with_proof(self, proof: Proof) -> "Finding":
        """Return the finding with the result of an intervention."""
        return replace(self, proof=proof)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {"key": self.key, **asdict(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Finding":
        """Rebuild a finding from the values of `to_json`."""
        own = {name: value for name, value in values.items() if name != "key"}
        place = {name: tuple(v) if v else None for name, v in own["place"].items()}
        return cls(
            **{
                **own,
                "subject": tuple(own["subject"]),
                "examples": tuple(Example(**example) for example in own["examples"]),
                "place": Place(**place),
                "proof": Proof(**own["proof"]),
            }
        )


def ranked(findings: Sequence[Finding]) -> list[Finding]:
    """Order findings: confirmed ones first, refuted ones last, and by strength within these."""
    order = {"confirmed": 0, "not tried": 1, "not applicable": 1, "not confirmed": 2}
    return sorted(findings, key=lambda f: (order[f.proof.state], -f.strength, f.q, f.key))


def as_table(findings: Sequence[Finding]) -> pd.DataFrame:
    """Make a table with a row per finding; nested parts become columns."""
    rows = []
    for finding in findings:
        plain = finding.to_json()
        place, proof = plain.pop("place"), plain.pop("proof")
        plain["subject"] = list(finding.subject)
        plain |= {f"place_{name}": list(at) if at else None for name, at in place.items()}
        plain |= {f"proof_{name}": value for name, value in proof.items()}
        rows.append(plain)
    return pd.DataFrame(rows, columns=None if rows else ["key", "kind", "scope", "seen", "check"])


def kinds() -> tuple[Kind, ...]:
    """Return every kind of finding."""
    return get_args(Kind)
