"""Compare two runs over the same videos: ``python -m jobs.compare --help``."""

import json
import sys
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from analysis.audit.settings import AuditSettings
from jobs.audit import print_findings
from jobs.cli import run_job, writing
from pipeline.base_config import FrozenConfig
from pipeline.storage.files import write_bytes


class CompareConfig(FrozenConfig):
    """Say in which classes the second run attends or answers otherwise than the first.

    Runs are of two models, checkpoints or versions of a dataset, and joined on video ids. The exit
    code is 0, or 1 where `fail_on` says so.
    """

    first: CliPositionalArg[str]
    """Folder of the run to compare with, any fsspec URL."""
    second: CliPositionalArg[str]
    """Folder of the run that is compared."""
    fail_on: Literal["never", "any"] = "never"
    """Exit with 1 if there is any finding: a gate for continuous integration."""
    audit: AuditSettings = AuditSettings()
    """What counts as a finding."""
    out: str | None = None
    """JSON file for the findings, any fsspec URL."""
    most: int = Field(default=20, ge=0)
    """Findings to print."""


def compare(config: CompareConfig) -> int:
    """Look for drift, print it, and say by the exit code whether there is any."""
    from analysis.audit.drift import drift
    from analysis.audit.evidence import read_evidence
    from analysis.audit.finding import ranked

    first, second = read_evidence(config.first), read_evidence(config.second)
    found = ranked(drift(first, second, config.audit))
    print_findings(found, config.most)
    if config.out is not None:
        document = json.dumps([finding.to_json() for finding in found], indent=2)
        with writing("out", config.out):
            write_bytes(config.out, document.encode())
    print(f"compare: {len(found)} classes differ between {config.first} and {config.second}")
    return 1 if found and config.fail_on == "any" else 0


if __name__ == "__main__":
    sys.exit(run_job(CompareConfig, compare, verb="compare"))
