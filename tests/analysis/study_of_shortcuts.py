"""What an audit finds and confirms of planted shortcuts, over seeds of data and of model.

    python -m tests.analysis.study_of_shortcuts --seeds 5 --out /tmp/study

For each seed a model learns a dataset of planted cues from labels alone, and another its clean
twin; each is run over clips of another seed, audited, and its findings are tried. Prints, for each
kind, in how many seeds what was planted was found and confirmed; of duplicates and swapped labels
recall and precision; what is confirmed of clean twins, whose classes do differ; and what is found
where labels are permuted, which should be nothing. With ``--committed``, one model is taken for all
seeds, the committed one, which saves the training. What ``--out`` has from an earlier call is taken
up again. ``--method staa-paper`` audits by plain attention.
"""

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

import pipeline.synthetic
from analysis.audit.audit import audit, read_findings
from analysis.audit.evidence import read_evidence
from jobs.audit import AuditConfig, audit_run
from jobs.cli import run_job
from jobs.train import run_training
from pipeline.attribution.method import Method
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import write_manifest
from pipeline.run.config import AttributeConfig, SamplingConfig
from pipeline.run.plan import plan_run
from pipeline.run.prepare import prepare
from pipeline.run.serial import execute_serially
from pipeline.synthetic.config import SynthesizeConfig, TrainConfig
from pipeline.synthetic.dataset import PLANTED_NAME, write_dataset

COMMITTED = Path(pipeline.synthetic.__file__).parent / "checkpoints" / "shortcuts"
CUES = {
    ("logo", "blink"): "logo",
    ("static", "bounce"): "background",
    ("first_last_frames", "grow"): "flash",
    ("strategies", "orbit"): "two strategies",
}
"""Findings that planted cues should give, by kind and class."""
SIZES = {"width": 128, "height": 96, "fps": 10, "min_duration_s": 2, "max_duration_s": 4}


def dataset(folder: Path, seed: int, n_clips: int, *, clean: bool) -> str:
    """Write clips and their manifest, if they aren't there; gives the manifest's path."""
    manifest = str(folder / "clips.parquet")
    if Path(manifest).exists():
        return manifest
    config = SynthesizeConfig(
        out=str(folder), task="shortcuts", n_clips=n_clips, seed=seed, clean=clean, **SIZES
    )
    for _ in write_dataset(config):
        pass
    table = build_manifest(
        layout="kinetics",
        clips=str(folder / "clips"),
        annotations=str(folder / "annotations.csv"),
    )
    write_manifest(table, manifest)
    return manifest


PERMUTED = 4
"""Permutations of the labels that are audited for each seed."""
OF_CLASSES = ("logo", "static", "first_last_frames", "centre_only", "strategies", "unlike_class")
"""Kinds that compare classes, which are alike once labels are permuted."""
METHODS = {
    "evidence": Method(name="evidence", clamp="sum", frame_importance="gradient"),
    "staa-paper": Method(name="staa-paper"),
}


def findings_of(folder: Path, manifest: str, model: Path, method: Method) -> list:
    """Run a model over the clips, audit the run, and try what was found."""
    config = AttributeConfig(
        manifest=manifest,
        model=str(model),
        out=str(folder),
        sampling=SamplingConfig(kind="uniform"),
        method=method,
    )
    plan = plan_run(config)
    prepare(plan)
    execute_serially(plan)
    argv = [str(folder), "--verify", "--proof.serial", "--most=0"]
    assert run_job(AuditConfig, audit_run, verb="audit", argv=argv) == 0
    return read_findings(str(folder))


def model_of(folder: Path, seed: int, manifest: str, *, clean: bool) -> Path:
    """Train a model on a dataset's labels, if it isn't there."""
    if (folder / "config.json").exists():
        return folder
    config = TrainConfig(
        out=str(folder),
        held_out=manifest,
        task="shortcuts",
        clean=clean,
        n_clips=1500,
        n_epochs=4,
        seed=seed,
        n_workers=1,
    )
    run_training(config)
    return folder


def kinds_by_chance(run: str, seed: int) -> set[str]:
    """Kinds of findings about classes where videos and labels have nothing to do with each other.

    Classes of a clean twin do differ: its model may well look at the middle for one of them alone.
    """
    evidence = read_evidence(run)
    labels = np.random.default_rng(seed).permutation(evidence.label)
    permuted = replace(evidence, table=evidence.table.assign(label_index=labels))
    return {finding.kind for finding in audit(permuted)} & {*OF_CLASSES}


def compared(found: set, planted: set) -> str:
    hits = len(found & planted)
    recall = hits / len(planted) if planted else float("nan")
    precision = hits / len(found) if found else float("nan")
    return f"recall {recall:.0%}, precision {precision:.0%} ({len(found)} found)"


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--n-clips", type=int, default=220)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--committed", action="store_true")
    parser.add_argument("--method", choices=METHODS, default="evidence")
    options = parser.parse_args()
    outcomes, clean_kinds, permuted_kinds, tables = Counter(), Counter(), Counter(), []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for clean in (False, True):
            folder = options.out / f"{seed}{'-clean' if clean else ''}"
            manifest = dataset(folder / "data", seed, options.n_clips, clean=clean)
            model = COMMITTED
            if not options.committed:
                # The scenes of the training are others: seeds of clips are those of the study.
                model = model_of(folder / "model", seed + 1000, manifest, clean=clean)
            elif clean:
                continue
            run = folder / f"run-{options.method}"
            found = findings_of(run, manifest, model, METHODS[options.method])
            if clean:
                confirmed = [f for f in found if f.proof.state == "confirmed"]
                clean_kinds.update({finding.kind for finding in confirmed})
                print(f"seed {seed}, clean twin, confirmed: {sorted(f.key for f in confirmed)}")
                continue
            for trial in range(PERMUTED):
                permuted_kinds.update(kinds_by_chance(str(run), seed + trial))
            by_key = {(f.kind, f.subject[0]): f for f in found if f.scope == "class"}
            for key, cue in CUES.items():
                state = by_key[key].proof.state if key in by_key else "not found"
                outcomes[cue, state] += 1
                print(f"seed {seed}: {cue}: {state}")
            others = sorted(
                f"{kind} {label}"
                for (kind, label), finding in by_key.items()
                if (kind, label) not in CUES and finding.proof.state == "confirmed"
            )
            print(f"seed {seed}: confirmed beside what was planted: {others}")
            facts = json.loads((folder / "data" / PLANTED_NAME).read_text())
            swapped = {name for name, f in facts.items() if f["label"] != f["true_label"]}
            suspects = {f.subject[0] for f in found if f.kind == "label_suspect"}
            pairs = {
                frozenset((name, f["duplicate_of"]))
                for name, f in facts.items()
                if f["duplicate_of"]
            }
            duplicates = {frozenset(f.subject) for f in found if f.kind == "near_duplicate"}
            print(f"seed {seed}: duplicates: {compared(duplicates, pairs)}")
            print(f"seed {seed}: swapped labels: {compared(suspects, swapped)}")
            tables.append((duplicates, pairs, suspects, swapped))
    print()
    for (cue, state), n in sorted(outcomes.items()):
        print(f"{cue:<16} {state:<16} {n} of {options.seeds}")
    print("clean twins with a confirmed finding:", dict(clean_kinds))
    n_permuted = PERMUTED * options.seeds
    print(f"of {n_permuted} runs with permuted labels have a finding:", dict(permuted_kinds))


if __name__ == "__main__":
    main()
