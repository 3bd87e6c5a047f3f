"""What an audit finds and confirms of planted shortcuts, over seeds of data and of model.

    python -m tests.analysis.study_of_shortcuts --seeds 5 --out /tmp/study

For each seed a model learns a dataset of planted cues from labels alone, and another its clean
twin; each is run over clips of another seed, audited, and its findings are tried, label suspects by
the model of the next seed. Prints, for each cue, in how many seeds it was found and confirmed; of
duplicates and swapped labels recall and precision; and for each kind, how many twins with nothing
planted, which are the clean ones and three permutations of the labels of each, have a finding.
With ``--committed``, one model is taken for all seeds, the committed one, which saves the training,
and there are no twins. What ``--out`` has from an earlier call is taken up again.
``--method staa-paper`` audits by plain attention.
"""

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

import pipeline.synthetic
from analysis.audit.audit import audit, read_findings
from analysis.audit.evidence import read_evidence
from analysis.audit.finding import Finding, Kind
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


class Results:
    """Findings over the seeds so far."""

    def __init__(self) -> None:
        self._cues: Counter[tuple[str, str]] = Counter()
        self._clips: dict[str, list[tuple[int, int, int]]] = {}
        self._twins = {name: Counter() for name in ("clean", "confirmed", "permuted")}
        self._n_twins: Counter[str] = Counter()

    def cue(self, seed: int, cue: str, state: str) -> None:
        """Count what became of a cue, and print it."""
        self._cues[cue, state] += 1
        print(f"seed {seed}: {cue}: {state}")

    def clips(self, seed: int, name: str, found: set, planted: set) -> None:
        """Count clips, or pairs of them, and print recall and precision."""
        counts = len(found & planted), len(found), len(planted)
        self._clips.setdefault(name, []).append(counts)
        print(f"seed {seed}: {name}: {recall_and_precision([counts])}")

    def clean_twin(self, seed: int, found: list[Finding]) -> None:
        """Count the kinds of findings in a clean twin, and print them."""
        self._n_twins.update(["clean", "confirmed"])
        self._twins["clean"].update({finding.kind for finding in found})
        confirmed = {finding.kind for finding in found if finding.proof.state == "confirmed"}
        self._twins["confirmed"].update(confirmed)
        print(f"seed {seed}, clean twin:", *map(told, found), sep="\n  ")

    def permuted_twin(self, seed: int, kinds: set[str]) -> None:
        """Count the kinds of findings in a twin whose labels are permuted, and print them."""
        self._n_twins["permuted"] += 1
        self._twins["permuted"].update(kinds)
        print(f"seed {seed}, clean twin, labels permuted: {sorted(kinds)}")

    def print(self) -> None:
        """Print all of it."""
        print("\nplanted, and what became of it")
        for (cue, state), n in sorted(self._cues.items()):
            print(f"{cue:<20}{state:<16}{n}")
        for name, counts in sorted(self._clips.items()):
            print(f"{name}: {recall_and_precision(counts)}")
        n_clean, n_permuted = self._n_twins["clean"], self._n_twins["permuted"]
        if not n_clean:
            return
        print(
            f"\ntwins with nothing planted that have a finding of a kind, of {n_clean} clean ones"
        )
        print(
            f"(and one that the model confirms), of {n_permuted} with permuted labels, and of all"
        )
        print(f"{'kind':<20}{'clean':>10}{'confirmed':>11}{'permuted':>10}{'all':>6}")
        for kind in get_args(Kind):
            clean, confirmed, permuted = (self._twins[name][kind] for name in self._twins)
            print(f"{kind:<20}{clean:>10}{confirmed:>11}{permuted:>10}{clean + permuted:>6}")


def recall_and_precision(counts: list[tuple[int, int, int]]) -> str:
    """Say them of all seeds together, and of the lowest and highest seed where there are several;
    counts are hits, found and planted."""
    told = []
    for name, at in (("recall", 2), ("precision", 1)):
        hits, of = (sum(one[place] for one in counts) for place in (0, at))
        shares = sorted(one[0] / one[at] for one in counts if one[at])
        between = f", {shares[0]:.0%} to {shares[-1]:.0%}" if len(shares) > 1 else ""
        told.append(f"{name} {hits / of if of else float('nan'):.0%} ({hits} of {of}{between})")
    return ", ".join(told)


def planted_found(results: Results, seed: int, folder: Path, found: list[Finding]) -> None:
    """Hold what was found against what was planted in a seed's clips."""
    by_key = {(f.kind, f.subject[0]): f for f in found if f.scope == "class"}
    for key, cue in CUES.items():
        state = by_key[key].proof.state if key in by_key else "not found"
        results.cue(seed, cue, "found" if state == "not applicable" else state)
    others = sorted(
        f"{kind} {label}"
        for (kind, label), finding in by_key.items()
        if (kind, label) not in CUES and finding.proof.state == "confirmed"
    )
    print(f"seed {seed}: confirmed beside what was planted: {others}")
    facts = json.loads((folder / "data" / PLANTED_NAME).read_text())
    pairs = {frozenset((name, f["duplicate_of"])) for name, f in facts.items() if f["duplicate_of"]}
    duplicates = {frozenset(f.subject) for f in found if f.kind == "near_duplicate"}
    results.clips(seed, "duplicates", duplicates, pairs)
    swapped = {name for name, f in facts.items() if f["label"] != f["true_label"]}
    suspects = {f.subject[0]: f.proof.state for f in found if f.kind == "label_suspect"}
    results.clips(seed, "swapped labels", {*suspects}, swapped)
    for state in ("confirmed", "not confirmed"):
        chosen = {name for name, of_name in suspects.items() if of_name == state}
        if chosen:
            results.clips(seed, f"swapped labels, {state}", chosen, swapped)


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
    results = Results()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    method = METHODS[options.method]

    def data_and_model(seed: int, *, clean: bool) -> tuple[str, Path]:
        folder = options.out / f"{seed}{'-clean' if clean else ''}"
        manifest = dataset(folder / "data", seed, options.n_clips, clean=clean)
        if options.committed:
            return manifest, COMMITTED
        # The scenes of the training are others: seeds of clips are those of the study.
        return manifest, model_of(folder / "model", seed + 1000, manifest, clean=clean)

    for seed in seeds:
        folder = options.out / str(seed)
        manifest, model = data_and_model(seed, clean=False)
        run = run_of(folder / f"run-{options.method}", manifest, model, method)
        second = None
        if not options.committed and len(seeds) > 1:
            other = seeds[(seed - seeds[0] + 1) % len(seeds)]
            _, judge = data_and_model(other, clean=False)
            second = run_of(
                folder / f"run-second-{other}", manifest, judge, Method(name="staa-paper")
            )
        planted_found(results, seed, folder, findings_of(run, second))
        if options.committed:
            continue
        manifest, model = data_and_model(seed, clean=True)
        twin = options.out / f"{seed}-clean" / f"run-{options.method}"
        run = run_of(twin, manifest, model, method)
        results.clean_twin(seed, findings_of(run, None))
        for trial in range(PERMUTED):
            results.permuted_twin(seed, kinds_by_chance(str(run), seed + trial))
    results.print()


if __name__ == "__main__":
    main()
