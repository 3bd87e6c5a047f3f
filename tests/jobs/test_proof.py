"""An audit of the committed model that learnt shortcuts, and what interventions make of it."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

import pipeline.synthetic
from analysis import class_names, open_run
from jobs.audit import AuditConfig, audit_run
from jobs.cli import run_job
from pipeline.attribution.method import Method
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import write_manifest
from pipeline.run.config import AttributeConfig, SamplingConfig
from pipeline.run.plan import plan_run
from pipeline.run.prepare import prepare
from pipeline.run.serial import execute_serially
from pipeline.synthetic.config import SynthesizeConfig
from pipeline.synthetic.dataset import PLANTED_NAME, write_dataset

SEED = int(datetime.now(UTC).strftime("%Y%m%d"))
CHECKPOINTS = Path(pipeline.synthetic.__file__).parent / "checkpoints"
PLANTED = {
    ("logo", "blink"): {"logo"},
    ("static", "bounce"): {"background"},
    ("first_last_frames", "grow"): {"flash"},
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the model over clips of a seed that it hasn't seen."""
    print("seed", SEED)
    folder = tmp_path_factory.mktemp("shortcuts")
    small = {"width": 128, "height": 96, "fps": 10, "min_duration_s": 2, "max_duration_s": 3}
    clips = SynthesizeConfig(
        out=str(folder / "data"), task="shortcuts", n_clips=120, seed=SEED, n_workers=1, **small
    )
    for _ in write_dataset(clips):
        pass
    table = build_manifest(
        layout="kinetics",
        clips=str(folder / "data" / "clips"),
        annotations=str(folder / "data" / "annotations.csv"),
    )
    write_manifest(table, str(folder / "clips.parquet"))
    run_of(folder, "shortcuts", "run")
    return folder


def run_of(folder, model, out):
    """Run a committed model over the clips, as an audit wants it."""
    config = AttributeConfig(
        manifest=str(folder / "clips.parquet"),
        model=str(CHECKPOINTS / model),
        out=str(folder / out),
        sampling=SamplingConfig(kind="uniform"),
        method=Method(frame_importance="gradient"),
    )
    plan = plan_run(config)
    prepare(plan)
    execute_serially(plan)


def audited(capsys, run, *flags):
    argv = [str(run / "run"), "--proof.serial", "--proof.clips=10", *flags]
    code = run_job(AuditConfig, audit_run, verb="audit", argv=argv)
    return code, *capsys.readouterr()


def states(run):
    document = json.loads((run / "run" / "findings.json").read_text())
    return {
        (finding["kind"], *finding["subject"]): finding["proof"]["state"]
        for finding in document["findings"]
    }


def test_what_was_planted_is_found_and_confirmed_and_the_proofs_are_kept(capsys, run):
    facts = json.loads((run / "data" / PLANTED_NAME).read_text()).values()
    for (_, label), cues in PLANTED.items():
        assert {fact["cue"] for fact in facts if fact["true_label"] == label} >= cues
    assert audited(capsys, run)[0] == 0
    found = states(run)
    # What shows in a background is found by trying stills; see `analysis.audit.stills`.
    assert {found.get(planted, "not tried") for planted in PLANTED} == {"not tried"}
    assert {("logo", "blink"), ("first_last_frames", "grow")} <= found.keys()

    code, stdout, stderr = audited(capsys, run, "--verify")
    assert code == 0
    found = states(run)
    assert {found[planted] for planted in PLANTED} == {"confirmed"}
    # What no cue gives away isn't confirmed to hang on one.
    # (A still may do for it: every class is asked whether one does.)
    assert not any(
        state == "confirmed" and kind in ("logo", "first_last_frames")
        for (kind, *subject), state in found.items()
        if subject == ["spin"]
    )
    assert "the class's probability changes by -0." in stdout
    assert "trial" in stderr
    first = stdout.split("\n\n")[1]
    assert ", confirmed (q " in first

    # Proofs that are kept need no trial.
    code, again, stderr = audited(capsys, run)
    assert "trial" not in stderr
    assert (code, states(run)) == (0, found)
    assert again == stdout


def test_a_trial_that_was_cut_off_goes_on_and_lost_clips_are_left_out(capsys, run):
    audited(capsys, run, "--verify")
    # One folder has what tries the findings, another what tries each class on a still.
    folder = run / "run" / "interventions"
    assert len([*folder.iterdir()]) == 2
    parts = sorted(folder.rglob("*.json"))
    before = {part: part.stat().st_mtime_ns for part in parts}
    parts[0].unlink()
    expected = states(run)
    audited(capsys, run, "--verify")
    after = {part: part.stat().st_mtime_ns for part in folder.rglob("*.json")}
    assert {part for part in before if before[part] != after[part]} == {parts[0]}
    assert states(run) == expected

    # A clip that is gone since the run was made.
    clips = run / "data" / "clips"
    moved = []
    for path in sorted(clips.rglob("*.mp4"))[::2]:
        path.rename(path.with_suffix(".gone"))
        moved.append(path)
    shutil.rmtree(run / "run" / "interventions")
    code, _, stderr = audited(capsys, run, "--verify")
    for path in moved:
        path.with_suffix(".gone").rename(path)
    assert code == 0, stderr
    assert "clips can't be read any more, and are left out: missing: " in stderr


@pytest.mark.slow
def test_a_second_model_confirms_labels_that_were_swapped(capsys, run):
    """It was trained on the actions alone, among more classes, and has never seen a cue."""
    run_of(run, "8-frames", "second")
    code, stdout, _ = audited(capsys, run, f"--second-model={run / 'second'}", "--audit.q=0.3")
    assert code == 0
    facts = json.loads((run / "data" / PLANTED_NAME).read_text())
    swapped = {name: fact for name, fact in facts.items() if fact["label"] != fact["true_label"]}
    second = open_run(str(run / "second"))
    says = class_names(second, "prediction").values
    answers = dict(
        zip(
            second["video_id"].values,
            zip(says, second["probability"].values, strict=True),
            strict=True,
        )
    )
    suspects = {
        tuple(key[1:]): state for key, state in states(run).items() if key[0] == "label_suspect"
    }
    for (video, _, suspected), state in suspects.items():
        prediction, probability = answers[video]
        agrees = prediction == suspected and probability >= 0.5
        assert state == ("confirmed" if agrees else "not confirmed")
        # Where both models contradict a label that was swapped, they name the true one.
        if agrees and video in swapped:
            assert suspected == swapped[video]["true_label"]
    print(f"{len(swapped)} swapped; {suspects}")
    assert ("A second model says" in stdout) == bool(suspects)
