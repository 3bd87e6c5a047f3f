"""The whole audit of a run: every kind of finding, ranked and kept beside the run."""

import io
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.audit import bias, logos, outliers
from analysis.audit.evidence import Evidence, read_evidence
from analysis.audit.finding import WITHOUT_PROOF, Finding, Kind, Proof, as_table, ranked
from analysis.audit.settings import AuditSettings
from analysis.audit.strategies import strategies
from analysis.audit.wrong import other_when_wrong
from analysis.reduction import row_hash
from analysis.runs import attribute, open_run
from pipeline.errors import StoreError
from pipeline.storage.files import read_bytes, write_bytes
from pipeline.store.run_folder import findings_json_url, findings_url

Detector = Callable[[Evidence, AuditSettings], list[Finding]]

DETECTORS: dict[str, Detector] = {
    "logo": logos.logos,
    "class biases": bias.class_biases,
    "centred dataset": bias.centred_dataset,
    "attention sinks": bias.attention_sinks,
    "off object": bias.off_object,
    "other when wrong": other_when_wrong,
    "strategies": strategies,
    "unlike class": outliers.unlike_class,
    "label suspects": outliers.label_suspects,
    "near duplicates": outliers.near_duplicates,
}
"""Detectors of findings, in the order in which they run."""

SCHEMA = {"name": "staa-findings", "version": 1}
_METADATA = b"staa.findings"


def audit(
    evidence: Evidence,
    settings: AuditSettings | None = None,
    *,
    progress: Callable[[str], None] | None = None,
) -> list[Finding]:
    """Look for every kind of finding; the same evidence always gives the same findings.

    Parameters
    ----------
    progress
        Called with the name of each detector before it begins.

    Returns
    -------
    Findings, ranked
    """
    settings = settings or AuditSettings()
    found: list[Finding] = []
    for name, detector in DETECTORS.items():
        if progress:
            progress(name)
        found += detector(evidence, settings)
    return ranked([_provable(finding) for finding in found])


def audit_run(
    run_url: str,
    settings: AuditSettings | None = None,
    *,
    progress: Callable[[str], None] | None = None,
) -> list[Finding]:
    """Audit a run and keep the findings beside it, as Parquet and as JSON.

    Raises
    ------
    StoreError
        When there is no run, or none of its clips is ok.
    """
    evidence = read_evidence(run_url)
    found = audit(evidence, settings, progress=progress)
    save_findings(found, run_url, settings or AuditSettings())
    return found


def save_findings(found: Sequence[Finding], run_url: str, settings: AuditSettings) -> None:
    """Write findings beside a run, in place of earlier ones."""
    ds = open_run(run_url)
    status = ds["status"].values
    about = {
        "schema": SCHEMA,
        "identity": attribute(ds, "identity"),
        "coverage": row_hash(ds["clip"].values, status),
        "settings": settings.model_dump(),
    }
    plain = [_finite(finding.to_json()) for finding in found]
    document = json.dumps({**about, "findings": plain}, indent=2, allow_nan=False)
    table = pa.Table.from_pandas(as_table(found), preserve_index=False)
    table = table.replace_schema_metadata({_METADATA: json.dumps(about).encode()})
    written = io.BytesIO()
    pq.write_table(table, written)
    write_bytes(findings_url(run_url), written.getbuffer())
    write_bytes(findings_json_url(run_url), document.encode())


def read_findings(run_url: str) -> list[Finding]:
    """Read the findings of `audit_run`.

    Raises
    ------
    StoreError
        When there are no findings, or they come from another run or from other rows than it has
        now.
    """
    url = findings_json_url(run_url)
    try:
        document: dict[str, Any] = json.loads(read_bytes(url))
    except (FileNotFoundError, ValueError) as error:
        raise StoreError(f"no findings at {url}: jobs.audit makes them") from error
    ds = open_run(run_url)
    current = {
        "schema": SCHEMA,
        "identity": attribute(ds, "identity"),
        "coverage": row_hash(ds["clip"].values, ds["status"].values),
    }
    for name, value in current.items():
        if document.get(name) != value:
            raise StoreError(
                f"{url}: its {name} isn't that of the run now; jobs.audit makes it again"
            )
    return [Finding.from_json(_with_nan(values)) for values in document["findings"]]


def findings(run_url: str) -> pd.DataFrame:
    """Give a run's findings as a ranked table; audits the run first if that hasn't been done."""
    try:
        found = read_findings(run_url)
    except StoreError:
        found = audit_run(run_url)
    return as_table(found)


def _provable(finding: Finding) -> Finding:
    if finding.kind == "label_suspect":
        return finding
    kinds: tuple[Kind, ...] = (*WITHOUT_PROOF, "attention_sink")
    if finding.kind in kinds or finding.scope != "class":
        return finding.with_proof(Proof(state="not applicable"))
    return finding


_MAY_BE_UNKNOWN = ("low", "high")


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Replace NaN, which JSON lacks, by null."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in values.items()
    }


def _with_nan(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: math.nan if value is None and name in _MAY_BE_UNKNOWN else value
        for name, value in values.items()
    }
