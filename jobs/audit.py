"""Find what of a run a person should look at: ``python -m jobs.audit --help``."""

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from analysis.audit.settings import AuditSettings
from jobs.cli import RunWriter, owned_run, run_job, writing
from jobs.proof import ProofConfig, proven
from pipeline.errors import ConfigError
from pipeline.store.run_folder import findings_url
from pipeline.text import printable

if TYPE_CHECKING:
    import pandas as pd

    from analysis.audit.finding import Finding
    from pipeline.store.lease import Lease
    from pipeline.store.opening import Store


class AuditConfig(RunWriter):
    """Find what of a run a person should look at, ranked, and keep it beside the run.

    The exit code is 0 whether something was found or not.
    """

    audit: AuditSettings = AuditSettings()
    """What counts as a finding."""
    verify: bool = False
    """Try findings on the model: what they name is taken away, beside a random part of the same
    size. Needs the run's model, manifest and clips."""
    proof: ProofConfig = ProofConfig()
    """How they are tried."""
    second_model: str | None = None
    """Folder of a run of another model over the same videos, by whose answers label suspects are
    tried: confirmed where it, too, predicts the other class. Nothing is computed for it."""
    most: int = Field(default=20, ge=0)
    """Findings to print; all are kept."""
    report: str | None = None
    """Folder for a page about the run and its findings, which opens from disk; any fsspec URL."""
    beside: str | None = None
    """Folder of a second run over the same classes, which the page shows beside this one."""
    clips_per_class: int = Field(default=2, ge=0)
    """Clips that the page shows of each class for each reason: typical, odd, right, wrong ones."""
    clips_with_frames: int = Field(default=200, ge=0)
    """Clips that the page shows with their frames, examples of findings first; others are shown by
    their maps."""

    @model_validator(mode="after")
    def _beside_on_a_page(self) -> "AuditConfig":
        if self.beside is not None and self.report is None:
            raise ValueError("beside: a second run is shown on the page, expected --report DIR")
        return self


def audit_run(config: AuditConfig) -> int:
    """Look for findings, keep them, and print the first ones."""
    with owned_run(config, "audit") as (store, lease):
        return _audit(config, store, lease)


def _audit(config: AuditConfig, store: "Store", lease: "Lease") -> int:
    from analysis.audit.audit import audit, save_findings
    from analysis.audit.evidence import read_evidence
    from analysis.audit.second_model import prove_suspects

    answers = None if config.second_model is None else _answers(config.second_model, store)
    with writing("run", config.run):
        evidence = read_evidence(config.run)
    print(
        f"audit: {len(evidence.table)} videos of {len(set(evidence.groups.tolist()) - {-1})} "
        f"classes by {evidence.method}{_blind(evidence.class_specific)}"
    )
    if not evidence.weighs_frames:
        print(
            "audit: first and last frames aren't looked at: over time, evidence says when it was "
            "read, not which frames matter; a run with --method.frame-importance has that"
        )
    audited = audit(
        evidence, config.audit, progress=lambda name: print(f"audit: {name}", file=sys.stderr)
    )
    if answers is not None:
        audited = prove_suspects(audited, answers)
    for try_now in (False, True) if config.verify else (False,):
        # What was found is kept before it is tried, which takes longer.
        with writing("run", config.run):
            found = proven(
                audited,
                evidence,
                store,
                lease,
                config.proof,
                settings=config.audit,
                run_url=config.run,
                try_now=try_now,
            )
        lease.check()
        with writing("run", config.run):
            save_findings(found, config.run, config.audit)
    print_findings(found, config.most)
    print(f"audit: {len(found)} findings in {findings_url(config.run)}")
    if config.report is not None:
        with writing("report", config.report):
            page = write_page(
                "audit",
                config.run,
                config.report,
                found=found,
                other=config.beside,
                clips_per_class=config.clips_per_class,
                clips_with_frames=config.clips_with_frames,
            )
        print(f"audit: page in {page}")
    return 0


def _answers(second: str, store: "Store") -> "pd.DataFrame":
    """Read the answers of a second model's run.

    Raises
    ------
    ConfigError
        If it is the same model.
    """
    from analysis.audit.second_model import read_answers
    from pipeline.store.opening import open_store
    from pipeline.store.run_folder import store_url

    other = open_store(store_url(second)).record.identity.model
    if other.weights and other.weights == store.record.identity.model.weights:
        raise ConfigError(
            f"second_model: {second} is a run of the same weights, which proves nothing: expected "
            "one of another model"
        )
    return read_answers(second)


_BAR_AFTER_S = 2.0


def write_page(verb: str, run: str, out: str | None = None, **options: Any) -> str:
    """Write the page of a run, with a bar where that takes a while; gives its URL."""
    from analysis.page.report import write_report
    from pipeline.run.progress_bar import progress_bar

    begun = time.monotonic()
    bars: list[Any] = []

    def show(done: int, total: int) -> None:
        if not bars and time.monotonic() - begun < _BAR_AFTER_S:
            return
        if not bars:
            bars.append(progress_bar(total=total, unit="parts", desc=f"{verb}: page"))
        bars[0].update(done - bars[0].n)

    try:
        return write_report(run, out, progress=show, **options)
    finally:
        for bar in bars:
            bar.close()


def print_findings(found: "Sequence[Finding]", most: int) -> None:
    """Print findings, ranked, with the clips to look at."""
    for position, finding in enumerate(found[:most], start=1):
        state = finding.proof.state
        proof = "" if state == "not applicable" else f", {state}"
        videos = "1 video" if finding.n == 1 else f"{finding.n} videos"
        print(f"\n{position}. {_NAMES[finding.kind]}{proof} (q {finding.q:.1g}, {videos})")
        print(f"   {printable(finding.seen)}")
        if (tried := _tried(finding)) is not None:
            print(f"   {tried}")
        print(f"   {printable(finding.check)}")
        shown = [example.path or example.video_id for example in finding.examples[:3]]
        print(f"   {printable(', '.join(shown))}")
    if len(found) > most:
        print(f"\n   and {len(found) - most} more")
    print()


def _tried(finding: "Finding") -> str | None:
    """Say what came of trying a finding on a model; None if it wasn't tried."""
    proof = finding.proof
    if proof.note:
        return printable(proof.note)
    if proof.change is None or proof.random_change is None:
        return None
    what = (
        ("one frame repeated", "frames shuffled")
        if finding.kind == "static"
        else (
            "that taken away",
            "a random part of that size taken away",
        )
    )
    return (
        f"Tried on {proof.n_clips} clips: with {what[0]}, the class's probability changes by "
        f"{proof.change:+.2f}, with {what[1]} by {proof.random_change:+.2f} (95 % interval of the "
        f"difference {proof.low:+.2f} to {proof.high:+.2f})."
    )


_NAMES = {
    "logo": "Logo or border",
    "static": "A still would do",
    "first_last_frames": "First or last frames",
    "centre_only": "Centre only",
    "unlike_class": "Map unlike its class",
    "strategies": "Strategies within a class",
    "other_when_wrong": "Other map when wrong",
    "label_suspect": "Label suspect",
    "near_duplicate": "Near duplicates",
    "off_object": "Misses the object",
    "attention_sink": "Attention sink",
    "drift": "Drift",
}


def _blind(class_specific: bool) -> str:
    return "" if class_specific else " (which is blind to the class that it is asked for)"


if __name__ == "__main__":
    sys.exit(run_job(AuditConfig, audit_run, verb="audit"))
