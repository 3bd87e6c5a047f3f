"""Compare two runs over the same videos: ``python -m jobs.compare --help``."""

import json
import sys
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from analysis.audit.settings import AuditSettings
from jobs.audit import print_findings
from jobs.cli import run_job, writing
from pipeline.base_config import FrozenConfig
from pipeline.storage.files import write_bytes
from pipeline.text import printable

if TYPE_CHECKING:
    from analysis.audit.drift import Comparison


class CompareConfig(FrozenConfig):
    """Say in which classes the second run's maps or answers are others than the first's.

    Runs are of two models, checkpoints or versions of a dataset, and joined on video ids. The exit
    code is 0, or 1 where `fail_on` says so.
    """

    first: CliPositionalArg[str]
    """Folder of the run to compare with, any fsspec URL."""
    second: CliPositionalArg[str]
    """Folder of the run that is compared."""
    fail_on: Literal["never", "any"] = "never"
    """Exit with 1 if there is any finding: a gate for continuous integration. Also if no class
    could be tested, or the second run lacks a class, or videos of it without which it can't be
    tested."""
    answers_only: bool = False
    """Compare the answers alone, as of runs of different methods."""
    audit: AuditSettings = AuditSettings()
    """What counts as a finding."""
    out: str | None = None
    """JSON file for the findings and for what was tested, any fsspec URL."""
    most: int = Field(default=20, ge=0)
    """Findings to print."""


def compare(config: CompareConfig) -> int:
    """Look for drift, print it, and say by the exit code whether there is any."""
    from analysis.audit.drift import compare_runs
    from analysis.audit.evidence import read_evidence
    from analysis.audit.finding import ranked

    first, second = read_evidence(config.first), read_evidence(config.second)
    compared = compare_runs(first, second, config.audit, answers_only=config.answers_only)
    found = ranked(compared.findings)
    print_findings(found, config.most)
    if config.out is not None:
        plain = [finding.to_json() for finding in found]
        document = json.dumps({"compared": compared.to_json(), "findings": plain}, indent=2)
        with writing("out", config.out):
            write_bytes(config.out, document.encode())
    for line in _told(compared):
        print(f"compare: {line}")
    print(f"compare: {len(found)} classes differ between {config.first} and {config.second}")
    if config.fail_on == "never":
        return 0
    if (missing := _missing(compared)) is not None:
        print(f"compare: error: {missing}", file=sys.stderr)
        return 1
    return 1 if found else 0


def _told(compared: "Comparison") -> list[str]:
    """Say what was paired and tested, and what not and why, a line each."""
    lines = [
        f"{compared.n_videos} videos of {compared.n_paired} classes paired; "
        f"{len(compared.tested)} classes tested, {len(compared.untested)} not"
    ]
    for reason in sorted(set(compared.untested.values())):
        names = tuple(name for name, why in compared.untested.items() if why == reason)
        needed = f", {compared.least_videos} needed" if reason.startswith("too few") else ""
        lines.append(f"not tested, {reason}{needed}: {_few_of(names)}")
    if compared.few:
        lines.append(
            f"fewer than {compared.least_alone} shared videos, so that a change of one class alone "
            f"can't be found: {_few_of(compared.few)}"
        )
    return lines + list(compared.notes)


def _missing(compared: "Comparison") -> str | None:
    """Say why nothing can be concluded from there being no finding; None if something can."""
    if not compared.tested:
        return (
            f"fail_on=any: no class could be tested, expected one with {compared.least_videos} "
            "shared videos or more"
        )
    if compared.lost:
        return (
            "fail_on=any: classes of the first run lack videos in the second: "
            f"{_few_of(compared.lost)}"
        )
    return None


def _few_of(names: tuple[str, ...], most: int = 5) -> str:
    """Count names, and give the first ones."""
    shown = printable(", ".join(map(repr, names[:most])))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} ({shown}{more})"


if __name__ == "__main__":
    sys.exit(run_job(CompareConfig, compare, verb="compare"))
