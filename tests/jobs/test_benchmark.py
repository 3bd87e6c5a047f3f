"""The benchmark as a job: every cell, gone on with, and wrong input on one line."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs import benchmark as job
from jobs.benchmark import BenchmarkConfig, benchmark
from jobs.cli import run_job
from pipeline.evaluation.benchmark.metrics import METRICS
from pipeline.evaluation.methods.explainer import METHODS
from tests.support.processes import kill, processes_of, until, wait_until

pytestmark = pytest.mark.usefixtures("one_thread")

HANG_S = 120
"""Just a guard: what takes this long is stuck."""


def run(out, *flags):
    """Run the job; a flag that is given takes the place of a small one."""
    small = {"--out": out, "--clips": 2, "--costly-clips": 2, "--seeds": 3, "--n-workers": 1}
    given = {flag.partition("=")[0] for flag in flags}
    argv = [f"{name}={value}" for name, value in small.items() if name not in given]
    return run_job(BenchmarkConfig, benchmark, verb="benchmark", argv=[*argv, *flags])


def test_cells_are_kept_and_added_to_and_tables_are_of_all(tmp_path, capsys):
    flags = ["--models=static-cue-videomae", "--metrics=AP,two-actor share,Gini"]
    assert run(tmp_path, *flags, "--methods=random,evidence,published attention") == 0
    values = tmp_path / "values/static-cue-videomae/3"
    assert {path.stem for path in values.iterdir()} == {
        *("random", "evidence", "published-attention")
    }
    table = pq.read_table(values / "evidence.parquet")
    assert table.column_names == ["AP", "two-actor share", "Gini"]
    assert table.num_rows == 2
    given = json.loads((tmp_path / "leaderboard.json").read_text())
    assert set(given["methods"]) == {"random", "evidence", "published attention"}
    assert "expected a TimeSformer" in str(given["cannot_explain"])
    assert (tmp_path / "cost.png").stat().st_size > 1000
    before = {path: path.stat().st_mtime_ns for path in values.iterdir()}
    assert run(tmp_path, *flags, "--methods=random,staa,evidence") == 0
    assert {path for path in values.iterdir() if path not in before} == {values / "staa.parquet"}
    # A cell that is measured again is written again.
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert run(tmp_path, "--models=static-cue-videomae", "--metrics=AUROC", "--methods=staa") == 0
    assert "AUROC" in pq.read_table(values / "staa.parquet").column_names
    text = (tmp_path / "leaderboard.md").read_text()
    assert "| staa | " in text
    capsys.readouterr()
    assert run(tmp_path, *flags, "--methods=random", "--clips=3") == 2
    assert "was measured with clips=2, and this call has 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--methods=gradcam", "methods: 'gradcam' is not one of all, one-pass, random"),
        ("--metrics=lift", "metrics: 'lift' is not one of all, decision, localisation"),
        ("--models=resnet", "models: 'resnet' is not one of static-cue"),
        ("--seeds=1,1", "seeds: (1, 1) are none, or one of them is there twice"),
        ("--costly-clips=3", "costly_clips: 3 is above clips=2"),
        ("--seeds=1,-1", "seeds.1: Input should be greater than or equal to 0 (got '-1')"),
        ("--clips=1", "clips: "),
        ("--textures=/nowhere", "textures: /nowhere has no clip that can be decoded"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(flag, message, tmp_path, capsys):
    assert run(tmp_path / "out", flag) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("benchmark: error: ")
    assert message in stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["--camera=fast", "--textures=/nowhere"])
def test_what_scenes_alone_have_is_refused_for_exact_clips(flag, tmp_path, capsys):
    assert run(tmp_path / "out", "--models=order,exact-flash", flag) == 2
    message = "clips of models=exact-flash aren't scenes, leave it out"
    assert message in capsys.readouterr().err


def test_an_exact_model_has_no_second_actor_and_its_truth_is_the_scenario_s(tmp_path):
    subject = job.subject_of("exact-flash", 3, 4)
    assert subject.double is None
    assert subject.single.covered[:, 5, 3:5, 3:5].all()
    assert subject.single.covered.sum() == 4 * 4
    flags = ("--models=exact-flash", "--methods=staa,evidence")
    assert run(tmp_path, *flags, "--metrics=AP,two-actor share,class sensitivity") == 0
    given = json.loads((tmp_path / "leaderboard.json").read_text())
    figures = given["methods"]["evidence"]["figures"]
    assert figures["AP"] is not None
    assert figures["two-actor share"] is figures["class sensitivity"] is None
    assert given["decision"] is None


def test_the_models_and_their_tasks_are_those_that_are_committed():
    folders = Path(job._checkpoint("order").name).parent
    assert set(job.MODELS) | {"1-frame", "shortcuts"} == {each.name for each in folders.iterdir()}
    for name in job.MODELS:
        checkpoint = job._checkpoint(name)
        assert checkpoint.geometry.n_frames == 8
    assert set(job.LABEL_ONLY) <= set(job.TASKS)
    card = "patch loss | none"
    folder = Path(job._checkpoint("order").name).parent
    assert all(card in (folder / name / "README.md").read_text() for name in job.LABEL_ONLY)


@pytest.mark.slow
def test_every_metric_is_measured_of_methods_of_each_kind(tmp_path):
    methods = ("random", "published attention", "staa", "evidence", "Grad-CAM", "inserted frames")
    flags = ("--clips=8", "--costly-clips=8", "--models=static-cue-videomae")
    assert run(tmp_path, *flags, f"--methods={','.join(methods)}") == 0
    given = json.loads((tmp_path / "leaderboard.json").read_text())
    assert set(given["methods"]) == set(methods)
    assert set(given["metrics"]) == set(METRICS)
    for method, facts in given["methods"].items():
        for metric, figure in facts["figures"].items():
            # No moment is planted in scenes of a static cue.
            undefined = method == "published attention" or metric == "moment found"
            assert (figure is None) == undefined, (method, metric)
    assert list(given["cannot_explain"]) == ["published attention"]
    assert given["decision"]["winner"] in METHODS


@pytest.mark.slow
def test_every_method_explains_a_model(tmp_path):
    assert run(tmp_path, "--models=static-cue-videomae", "--metrics=Gini") == 0
    given = json.loads((tmp_path / "leaderboard.json").read_text())
    assert set(given["methods"]) == set(METHODS)
    assert list(given["cannot_explain"]) == ["published attention"]
    for method, facts in given["methods"].items():
        assert (facts["figures"]["Gini"] is None) == (method == "published attention"), method


@pytest.mark.parametrize("most_bytes", [100, 5000])
def test_a_disk_that_takes_no_more_is_one_line_and_whole_files_stay(most_bytes, tmp_path, capsys):
    """At first no cell has room, and then no picture."""
    flags = ["--models=static-cue", "--metrics=AP", "--methods=random"]
    assert run(tmp_path, *flags) == 0
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, limits[1]))
    try:
        code = run(tmp_path, *flags[:2], "--methods=random,staa")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"benchmark: error: out: can't write {tmp_path}: File too large"
    left = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    picture = tmp_path / "cost.png"
    assert left[picture] == written[picture]
    if most_bytes == 100:
        assert left == written
    assert run(tmp_path, *flags[:2], "--methods=random,staa") == 0


@pytest.mark.parametrize(
    ("signum", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow),
    ],
)
def test_processes_end_with_the_one_that_started_them_and_what_they_finished_is_kept(
    signum, code, tmp_path
):
    flags = ["--models=static-cue,order", "--methods=random,KernelSHAP", "--metrics=AP"]
    sizes = ["--clips=40", "--costly-clips=40", "--seeds=3", "--n-workers=2"]
    with (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.benchmark", f"--out={tmp_path / 'out'}", *flags, *sizes],
            stdout=err,
            stderr=err,
            cwd=Path(__file__).parents[2],
            # By which they are found; no Ray is started.
            env={**os.environ, "RAY_TMPDIR": str(tmp_path)},
        )
    try:
        wait_until(
            lambda: list(tmp_path.glob("out/values/*/3/random.parquet")),
            process,
            (tmp_path / "err").read_text,
            hang_s=HANG_S,
        )
        # To the one process alone, as `kill` sends it.
        process.send_signal(signum)
        assert process.wait(HANG_S) == code
        until(lambda: not processes_of(tmp_path), seconds=HANG_S)
    finally:
        kill(processes_of(tmp_path))
    assert not list(tmp_path.glob("out/values/*/3/kernelshap.parquet"))
    told = (tmp_path / "err").read_text()
    assert "Traceback" not in told
    if code > 0:
        word = "interrupted" if signum == signal.SIGINT else "terminated"
        assert f"benchmark: {word}; what was finished is kept" in told
