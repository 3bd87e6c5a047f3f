"""Find what of a run a person should look at: ``python -m jobs.audit --help``."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from analysis.audit.settings import AuditSettings
from jobs.cli import RunWriter, owned_run, run_job, writing
from pipeline.store.run_folder import findings_url

if TYPE_CHECKING:
    from analysis.audit.finding import Finding
    from pipeline.store.lease import Lease


class AuditConfig(RunWriter):
    """Find what of a run a person should look at, ranked, and keep it beside the run.

    The exit code is 0 whether something was found or not.
    """

    audit: AuditSettings = AuditSettings()
    """What counts as a finding."""
    most: int = Field(default=20, ge=0)
    """Findings to print; all are kept."""


def audit_run(config: AuditConfig) -> int:
    """Look for findings, keep them, and print the first ones."""
    with owned_run(config, "audit") as (_, lease):
        return _audit(config, lease)


def _audit(config: AuditConfig, lease: "Lease") -> int:
    from analysis.audit.audit import audit, save_findings
    from analysis.audit.evidence import read_evidence

    evidence = read_evidence(config.run)
    print(
        f"audit: {len(evidence.table)} videos of {len(set(evidence.groups.tolist()) - {-1})} "
        f"classes by {evidence.method}{_blind(evidence.class_specific)}"
    )
    found = audit(
        evidence, config.audit, progress=lambda name: print(f"audit: {name}", file=sys.stderr)
    )
    lease.check()
    with writing("run", config.run):
        save_findings(found, config.run, config.audit)
    print_findings(found, config.most)
    print(f"audit: {len(found)} findings in {findings_url(config.run)}")
    return 0


def print_findings(found: "Sequence[Finding]", most: int) -> None:
    """Print findings, ranked, with the clips to look at."""
    for position, finding in enumerate(found[:most], start=1):
        state = finding.proof.state
        proof = "" if state == "not applicable" else f", {state}"
        print(
            f"\n{position}. {_NAMES[finding.kind]}{proof} (q {finding.q:.1g}, {finding.n} videos)"
        )
        print(f"   {finding.seen}")
        print(f"   {finding.check}")
        shown = [example.path or example.video_id for example in finding.examples[:3]]
        print(f"   {', '.join(shown)}")
    if len(found) > most:
        print(f"\n   and {len(found) - most} more")
    print()


_NAMES = {
    "logo": "Logo or border",
    "static": "A still would do",
    "first_last_frames": "First or last frames",
    "centre_only": "Centre only",
    "unlike_class": "Attention unlike its class",
    "strategies": "Strategies within a class",
    "other_when_wrong": "Other attention when wrong",
    "label_suspect": "Label suspect",
    "near_duplicate": "Near duplicates",
    "off_object": "Doesn't look at the object",
    "attention_sink": "Attention sink",
    "drift": "Drift",
}


def _blind(class_specific: bool) -> str:
    return "" if class_specific else " (which is blind to the class that it is asked for)"


if __name__ == "__main__":
    sys.exit(run_job(AuditConfig, audit_run, verb="audit"))
