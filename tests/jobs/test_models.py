"""Several models over one manifest, in one job."""

import shutil

import pyarrow.parquet as pq
import pytest

from jobs.attribute import attribute
from jobs.cli import parse, run_job
from pipeline.dataset.manifest import write_manifest
from pipeline.run.config import AttributeJob
from pipeline.status import Status
from pipeline.store.run_folder import RUN_NAMES
from tests.support.checkpoints import save_timesformer
from tests.support.runs import (
    assert_same_columns,
    given_once,
    objects,
    plain_columns,
    prepared,
    stored_columns,
    tree,
    write_inputs,
)


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
    plan = prepared(inputs.config(out / "second", model=str(other)))
    second = stored_columns(out / "second")
    assert_same_columns(second, plain_columns(plan))
    assert (second["temporal"] != stored_columns(out / "first")["temporal"]).any()


def absent(model):
    return model / "none"


def damaged(model):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    return model


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
@pytest.mark.parametrize("bad", [absent, damaged])
def test_nothing_is_made_or_deleted_before_every_model_was_checked(
    finished_run, tmp_path, capsys, bad, overwrite
):
    inputs, out = finished_run.inputs, tmp_path / "runs"
    other = bad(save_timesformer(tmp_path / "other", seed=1))
    shutil.copytree(finished_run.out, out / "first")
    (out / "first" / "report").mkdir()
    (out / "first" / "report" / "index.html").write_text("of the run")
    before = tree(out)
    capsys.readouterr()
    argv = [*flags(inputs, out, f"first={inputs.model},second={other}"), *overwrite]
    assert run(argv) == 2
    stderr = capsys.readouterr().err
    assert str(other) in stderr
    assert stderr.count("\n") == 1
    assert tree(out) == before


@pytest.mark.slow
def test_a_model_that_is_done_is_left_and_the_others_go_on(finished_run, tmp_path, one_thread):
    inputs, out = finished_run.inputs, tmp_path / "runs"
    other = save_timesformer(tmp_path / "other", seed=1)
    shutil.copytree(finished_run.out, out / "first")
    before = objects(out / "first")
    assert run(flags(inputs, out, f"first={inputs.model},second={other}")) == 0
    assert objects(out / "first") == before
    plan = prepared(inputs.config(out / "second", model=str(other)))
    assert_same_columns(stored_columns(out / "second"), plain_columns(plan))


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Few clips, none of them damaged, of 8 to 12 frames."""
    return write_inputs(tmp_path_factory.mktemp("few"), 5)


@pytest.mark.slow
def test_a_model_whose_clips_fail_keeps_no_other_from_its_run(local_ray, few, tmp_path, capsys):
    out = tmp_path / "runs"
    long = save_timesformer(tmp_path / "long", num_frames=16)
    argv = given_once(
        [*flags(few, out, f"long={long},short={few.model}"), "--max-failed-fraction=0.1"]
    )
    assert run(argv) == 1
    assert "100.0% of the clips failed" in capsys.readouterr().err
    assert set(stored_columns(out / "long")["status"]) == {Status.TOO_SHORT}
    assert set(stored_columns(out / "short")["status"]) == {Status.OK}


@pytest.mark.slow
def test_rows_are_added_to_the_run_of_each_model(local_ray, few, tmp_path, capsys, one_thread):
    out, shorter = tmp_path / "runs", str(tmp_path / "shorter.parquet")
    write_manifest(pq.read_table(few.manifest).slice(0, 4), shorter)
    other = save_timesformer(tmp_path / "other", seed=1)
    models = {"first": few.model, "second": str(other)}
    argv = flags(few, out, ",".join(f"{name}={model}" for name, model in models.items()))
    assert run(given_once([*argv, f"--manifest={shorter}"])) == 0
    before = {name: objects(out / name) for name in models}

    # Of one that has no run as yet, nothing is added to the others' either.
    assert run(given_once([*argv, "--append", f"--models=third={other}"])) == 2
    assert f"append: there is no run in {out}/third" in capsys.readouterr().err
    assert {name: objects(out / name) for name in models} == before

    assert run([*argv, "--append"]) == 0
    for name, model in models.items():
        plan = prepared(few.config(tmp_path / "plain" / name, model=model))
        assert_same_columns(stored_columns(out / name), plain_columns(plan))
        first_shard = {key for key in before[name] if key.split("/")[2] == "0"}
        after = objects(out / name)
        assert {key: after[key] for key in first_shard} == {
            key: before[name][key] for key in first_shard
        }


@pytest.mark.parametrize(
    ("models", "more", "said"),
    [
        ("", (), "model: is required, or models"),
        ("../a=x", (), "names a folder"),
        ("a=x", ("--model=y",), "give model or models, not both"),
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
