"""Several models over one manifest, in one job."""

import pytest

from jobs.attribute import attribute
from jobs.cli import parse, run_job
from pipeline.config import AttributeJob
from pipeline.discard import RUN_NAMES
from pipeline.plan import plan_run
from tests.checkpoints import save_timesformer
from tests.runs import assert_same_columns, plain_columns, stored_columns


def run(argv):
    return run_job(AttributeJob, attribute, verb="attribute", argv=argv)


def flags(inputs, out, models):
    given = [flag for flag in inputs.flags(out) if not flag.startswith("--model=")]
    return [*given, f"--models={models}", "--max-failed-fraction=1"]


def test_each_model_gets_a_run_of_its_own(finished_run, tmp_path, one_thread):
    inputs, out = finished_run.inputs, tmp_path / "runs"
    other = save_timesformer(tmp_path / "other", seed=1)
    assert run(flags(inputs, out, f"first={inputs.model},second={other}")) == 0
    assert_same_columns(stored_columns(out / "first"), stored_columns(finished_run.out))
    plan = plan_run(inputs.config(out / "second", model=str(other)))
    second = stored_columns(out / "second")
    assert_same_columns(second, plain_columns(plan))
    assert (second["temporal"] != stored_columns(out / "first")["temporal"]).any()


def test_nothing_is_made_or_deleted_before_every_model_was_checked(finished_run, tmp_path, capsys):
    inputs, out = finished_run.inputs, tmp_path / "runs"
    assert run(flags(inputs, out, f"first={inputs.model},second={tmp_path / 'none'}")) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("models", "more", "said"),
    [
        ("", (), "model: is required, or models"),
        ("../a=x", (), "names a folder"),
        ("a=x", ("--model=y",), "expected one of both"),
        ("a=x", ("--revision=main",), "goes with model"),
        ("a=x,b=", (), "models.b: is empty"),
        ("a=s3://user:s3cr3t@bucket/x", (), "models.a: the URL holds credentials"),
        ("a=https://host/x?sig=s3cr3t", (), "models.a: the URL holds credentials"),
        ("s3://user:s3cr3t@bucket/x=a", (), "names a folder"),
        ("a", (), "models: 'a': expected name=checkpoint"),
        ("a=x,", (), "models: '': expected name=checkpoint"),
        ("a=x,b=y,a=z", (), "models: 'a' is given twice"),
        ("a=x", ("--models=a=x",), "models: 'a' is given twice"),
        ("a=x,Report=y", (), "models: 'Report' is a part of a run in runs itself"),
        *((f"{name}=x", (), f"{name!r} is a part of a run") for name in RUN_NAMES),
    ],
)
def test_models_that_can_not_be_runs_are_one_line(capsys, models, more, said):
    chosen = [f"--models={models}"] if models else []
    assert run(["--manifest=clips.parquet", "--out=runs", *chosen, *more]) == 2
    stderr = capsys.readouterr().err
    assert said in stderr
    assert stderr.count("\n") == 1
    assert "s3cr3t" not in stderr


@pytest.mark.parametrize(
    ("file", "argv", "models"),
    [
        ("models: {a: x, b: y}", (), {"a": "x", "b": "y"}),
        ("models: a=x,b=y", (), {"a": "x", "b": "y"}),
        ("models: {a: x, b: y}", ("--models=c=z",), {"c": "z"}),
        ("models: {a: x, b: y}", ("--models=b=z",), {"b": "z"}),
        (
            "out: elsewhere",
            ("--models=c=z, d=org/m", "--models", "e=f=g"),
            {"c": "z", "d": "org/m", "e": "f=g"},
        ),
    ],
)
def test_models_of_flags_stand_for_those_of_the_file(tmp_path, file, argv, models):
    (tmp_path / "run.yaml").write_text(f"{file}\n")
    given = ["--manifest=clips.parquet", "--out=runs", f"--config={tmp_path / 'run.yaml'}", *argv]
    job = parse(AttributeJob, verb="attribute", argv=given)
    assert job.models == models
    assert [run.out for run in job.runs()] == [f"runs/{name}" for name in models]
