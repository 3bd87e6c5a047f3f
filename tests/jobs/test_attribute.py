"""Bad input of `jobs.attribute`: one line that names it, before anything is started or stored."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from transformers import TimesformerModel

from pipeline.dataset.manifest import read_manifest
from tests.support.checkpoints import CLASS_NAMES, make_timesformer
from tests.support.runs import objects, prepared, run_attribute, write_inputs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def inputs(tmp_path):
    return write_inputs(tmp_path, 2)


def refused(capsys, argv):
    """The one line of a job that is refused before the step that starts Ray."""

    def execute(plan, lease):
        raise AssertionError("the run was started")

    capsys.readouterr()
    assert run_attribute(argv, execute) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("attribute: error: ")
    assert stderr.count("\n") == 1
    return stderr


def absent_manifest(inputs):
    Path(inputs.manifest).unlink()
    return inputs.manifest


def manifest_that_is_none(inputs):
    Path(inputs.manifest).write_text("clips\n")
    return inputs.manifest


def empty_manifest(inputs):
    pq.write_table(pq.read_table(inputs.manifest)[:0], inputs.manifest)
    return f"{inputs.manifest} has no rows"


def label_outside_the_classes(inputs):
    table = pq.read_table(inputs.manifest)
    rows = table.to_pylist()
    rows[1]["label"] = "sword fighting"
    pq.write_table(type(table).from_pylist(rows, table.schema), inputs.manifest)
    return f"label 'sword fighting' in row 1 of {inputs.manifest}"


def absent_model(inputs):
    Path(inputs.model).rename(f"{inputs.model}-elsewhere")
    return inputs.model


def model_without_a_classifier(inputs):
    """What self-supervised checkpoints are: transformers would make one up at random."""
    TimesformerModel(make_timesformer().config).save_pretrained(inputs.model)
    return "classifier"


def processor_of_another_size(inputs):
    file = Path(inputs.model) / "preprocessor_config.json"
    settings = json.loads(file.read_text()) | {"crop_size": {"height": 24, "width": 24}}
    file.write_text(json.dumps(settings))
    return "(24, 24)"


@pytest.mark.parametrize(
    "damage",
    [
        absent_manifest,
        manifest_that_is_none,
        empty_manifest,
        label_outside_the_classes,
        absent_model,
        model_without_a_classifier,
        processor_of_another_size,
    ],
)
def test_inputs_that_can_not_be_used_are_named_and_nothing_is_stored(
    capsys, tmp_path, inputs, damage
):
    named = damage(inputs)
    assert named in refused(capsys, inputs.flags(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("layer", [2, -3, 99])
def test_a_layer_that_the_model_lacks_is_named_with_how_many_it_has(
    capsys, tmp_path, inputs, layer
):
    line = refused(capsys, inputs.flags(tmp_path / "run", f"--method.layers={layer}"))
    assert f"method.layers: {layer} is not in the model, which has 2 layers" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("below", ["file", "file/run", "file/deep/run"])
def test_a_target_that_can_not_be_written_is_named(capsys, tmp_path, inputs, below):
    # Tests may run as root, who may write anywhere: but nobody can write below a file.
    (tmp_path / "file").write_text("notes")
    line = refused(capsys, inputs.flags(tmp_path / below))
    assert "out: " in line
    assert str(tmp_path / below) in line
    assert (tmp_path / "file").read_text() == "notes"


def test_memory_that_workers_do_not_see_is_refused(capsys, inputs):
    error = refused(capsys, inputs.flags("memory://run"))
    assert "out: memory://run is seen by one process alone" in error


def test_a_protocol_that_is_not_known_is_named(capsys, inputs):
    line = refused(capsys, inputs.flags("gopher://host/run"))
    assert "gopher" in line


@pytest.mark.parametrize(
    ("flag", "difference"),
    [
        ("--method.layers=0", "method.layers is [0, 1] there and [0] here"),
        ("--method.clamp=parts", "method.clamp is 'sum' there and 'parts' here"),
        ("--method=staa", "method.name is 'evidence' there and 'staa-paper' here"),
        (
            "--method=staa",
            "; to go on with it: --method evidence --method.layers 0,1 --no-method.step-back",
        ),
        (
            "--method=staa --precision=bfloat16",
            "or delete that run and start over with --overwrite",
        ),
        ("--precision=bfloat16", "precision is 'float32' there and 'bfloat16' here"),
        ("--rows-per-shard=2", "rows_per_shard is 4 there and 2 here"),
        ("--batch-size=1", "batch_size is 2 there and 1 here"),
        ("--sampling.kind=strided --sampling.stride=2", "sampling.stride is None there and 2 here"),
    ],
)
def test_a_store_of_another_configuration_is_left_alone_and_the_keys_are_named(
    capsys, finished_run, flag, difference
):
    before = objects(finished_run.out)
    flags = finished_run.inputs.flags(finished_run.out, *flag.split())
    line = refused(capsys, flags)
    assert difference in line
    assert str(finished_run.out) in line
    assert objects(finished_run.out) == before


def test_a_store_of_another_manifest_or_model_is_left_alone_and_both_are_named(
    capsys, tmp_path, finished_run
):
    before = objects(finished_run.out)
    line = refused(capsys, write_inputs(tmp_path, 3).flags(finished_run.out))
    assert f"manifest is '{read_manifest(finished_run.inputs.manifest).digest}' there" in line
    assert "model." not in line
    make_timesformer(seed=1).save_pretrained(tmp_path / "model")
    flags = finished_run.inputs.flags(finished_run.out, f"--model={tmp_path / 'model'}")
    line = refused(capsys, flags)
    assert "model.weights is" in line
    assert "model.config" not in line
    assert "manifest is" not in line
    assert objects(finished_run.out) == before


def edited_model(finished_run, folder, file, changes):
    """The run's own weights, with other values of some keys in a file beside them."""
    model = Path(shutil.copytree(finished_run.inputs.model, folder / "model"))
    (model / file).write_text(json.dumps(json.loads((model / file).read_text()) | changes))
    return model


@pytest.mark.parametrize(
    ("file", "changes", "difference"),
    [
        (
            "config.json",
            {"num_attention_heads": 1},
            "model.config.num_attention_heads is 2 there and 1 here",
        ),
        (
            "config.json",
            {"hidden_act": "relu"},
            "model.config.hidden_act is None there and 'relu' here",
        ),
        (
            "config.json",
            {"id2label": dict(enumerate(reversed(CLASS_NAMES)))},
            "model.config.id2label is '",
        ),
        (
            "preprocessor_config.json",
            {"image_mean": [0.5, 0.45, 0.45]},
            "preprocessing.image_mean is [0.45, 0.45, 0.45] there and [0.5, 0.45, 0.45] here",
        ),
        ("preprocessor_config.json", {"resample": 3}, "preprocessing.resample is 2 there and 3"),
    ],
)
def test_the_same_weights_with_another_config_are_another_model(
    capsys, tmp_path, finished_run, file, changes, difference
):
    before = objects(finished_run.out)
    model = edited_model(finished_run, tmp_path, file, changes)
    line = refused(capsys, finished_run.inputs.flags(finished_run.out, f"--model={model}"))
    assert difference in line
    # And nothing else: neither the path, nor what another key implies.
    assert line.count(" there and ") == 1
    assert objects(finished_run.out) == before


def test_what_a_config_says_of_its_saving_and_training_does_not_make_another_model(
    finished_run, tmp_path
):
    changes = {
        "transformers_version": "4.40.0",
        "torch_dtype": "bfloat16",
        "_name_or_path": "elsewhere",
        "initializer_range": 0.5,
        "hidden_dropout_prob": 0.5,
        "output_attentions": True,
    }
    model = edited_model(finished_run, tmp_path, "config.json", changes)
    config = finished_run.inputs.config(finished_run.out)
    moved = finished_run.inputs.config(finished_run.out, model=str(model))
    assert prepared(moved).run == prepared(config).run


@pytest.mark.parametrize(("flags", "exit_code"), [((), 1), (("--max-failed-fraction=0.4",), 0)])
def test_the_exit_code_says_whether_too_many_clips_failed(capsys, finished_run, flags, exit_code):
    assert finished_run.exit_code == 1
    # Finished, it computes nothing: the share that may fail is no part of what a run is.
    assert run_attribute(finished_run.inputs.flags(finished_run.out, *flags)) == exit_code
    stdout, stderr = capsys.readouterr()
    assert "14 clips: 9 ok" in stdout
    assert f"failures in {finished_run.out}/failures.parquet" in stdout
    # One more is too short, which isn't held against a run.
    assert ("28.6% of the clips failed" in stderr) == (exit_code == 1)


def test_as_a_command_it_prints_one_line_and_leaves_no_trace_of_ray(tmp_path, inputs):
    ray_folder = tmp_path / "ray"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "jobs.attribute",
            *inputs.flags(tmp_path / "run"),
            "--method.layers=7",
        ],
        cwd=ROOT,
        env=os.environ | {"RAY_TMPDIR": str(ray_folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("attribute: error: method.layers: 7 is not in ")
    assert done.stderr.count("\n") == 1
    assert not ray_folder.exists()
