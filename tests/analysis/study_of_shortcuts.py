"""What an audit finds and confirms of planted shortcuts, over seeds of data and of model.

    python -m tests.analysis.study_of_shortcuts --seeds 5 --out /tmp/study

For each seed a model learns a dataset of planted cues from labels alone, and another its clean
twin; each is run over clips of another seed, audited, and its findings are tried, label suspects by
the model of the next seed. Prints, for each kind, in how many seeds what was planted was found and
confirmed; of duplicates and swapped labels recall and precision; and of twins with nothing planted,
which are the clean ones and three permutations of the labels of each, how many have a finding of a
kind. With ``--committed``, one model is taken for all seeds, the committed one, which saves the
training, and there are no twins. What ``--out`` has from an earlier call is taken up again.
``--method staa-paper`` audits by plain attention.
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
from analysis.audit.finding import Finding
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


PERMUTED = 3
"""Permutations of a clean twin's labels that are audited for each seed: with it, four twins."""
OF_CLASSES = (
    *("logo", "static", "first_last_frames", "centre_only"),
    *("strategies", "unlike_class", "other_when_wrong"),
)
"""Kinds that compare classes, which are alike once labels are permuted."""
METHODS = {
    "evidence": Method(name="evidence", clamp="sum", frame_importance="gradient"),
    "staa-paper": Method(name="staa-paper"),
}


def run_of(folder: Path, manifest: str, model: Path, method: Method) -> Path:
    """Run a model over the clips."""
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
    return folder


def findings_of(run: Path, second: Path | None) -> list:
    """Audit a run, and try what was found; suspects by the run of a second model."""
    argv = [str(run), "--verify", "--proof.serial", "--most=0"]
    if second is not None:
        argv.append(f"--second-model={second}")
    assert run_job(AuditConfig, audit_run, verb="audit", argv=argv) == 0
    return read_findings(str(run))


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


def told(finding: Finding) -> str:
    """Name a finding and its outcome on the model."""
    proof = finding.proof
    change = (
        "" if proof.change is None else f" {proof.change:+.2f} (random {proof.random_change:+.2f})"
    )
    return f"{finding.key} q {finding.q:.1g} effect {finding.effect:.2f}, {proof.state}{change}"


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
    outcomes, found_in, confirmed_in, n_twins = Counter(), Counter(), Counter(), 0
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    method = METHODS[options.method]
    for seed in seeds:
        for clean in (False, True):
            folder = options.out / f"{seed}{'-clean' if clean else ''}"
            manifest = dataset(folder / "data", seed, options.n_clips, clean=clean)
            model = COMMITTED
            if not options.committed:
                # The scenes of the training are others: seeds of clips are those of the study.
                model = model_of(folder / "model", seed + 1000, manifest, clean=clean)
            elif clean:
                continue
            run = run_of(folder / f"run-{options.method}", manifest, model, method)
            second = None
            if not (clean or options.committed) and len(seeds) > 1:
                other = seeds[(seed - seeds[0] + 1) % len(seeds)]
                data = dataset(
                    options.out / f"{other}" / "data", other, options.n_clips, clean=False
                )
                judge = model_of(
                    options.out / f"{other}" / "model", other + 1000, data, clean=False
                )
                second = run_of(folder / f"run-second-{other}", manifest, judge, Method())
            found = findings_of(run, second)
            if clean:
                found_in.update({finding.kind for finding in found})
                confirmed_in.update({f.kind for f in found if f.proof.state == "confirmed"})
                print(f"seed {seed}, clean twin:", *map(told, found), sep="\n  ")
                for trial in range(PERMUTED):
                    kinds = kinds_by_chance(str(run), seed + trial)
                    found_in.update(kinds)
                    print(f"seed {seed}, clean twin, labels permuted: {sorted(kinds)}")
                n_twins += 1 + PERMUTED
                continue
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
            suspects = {f.subject[0]: f.proof.state for f in found if f.kind == "label_suspect"}
            pairs = {
                frozenset((name, f["duplicate_of"]))
                for name, f in facts.items()
                if f["duplicate_of"]
            }
            duplicates = {frozenset(f.subject) for f in found if f.kind == "near_duplicate"}
            print(f"seed {seed}: duplicates: {compared(duplicates, pairs)}")
            print(f"seed {seed}: swapped labels: {compared({*suspects}, swapped)}")
            for state in sorted({*suspects.values()}):
                chosen = {name for name, of_name in suspects.items() if of_name == state}
                print(f"seed {seed}: swapped labels, {state}: {compared(chosen, swapped)}")
    print()
    for (cue, state), n in sorted(outcomes.items()):
        print(f"{cue:<16} {state:<16} {n} of {options.seeds}")
    print(f"of {n_twins} twins with nothing planted have a finding:", dict(found_in))
    print(f"of {options.seeds} clean twins have a confirmed one:", dict(confirmed_in))


if __name__ == "__main__":
    main()
