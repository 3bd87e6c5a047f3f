"""`--overwrite`: what it deletes, when it does, and what it leaves."""

import shutil
from pathlib import Path

import pytest
import zarr

from pipeline.errors import StorageError, StoreError
from pipeline.run.resources import Machine
from pipeline.store import run_folder
from pipeline.store.discard import discard_run
from pipeline.store.opening import Unfinished, find_store, open_store
from pipeline.store.pending import pending_rows
from pipeline.store.run_folder import (
    CACHES_NAME,
    DERIVED_NAMES,
    LEASE_NAME,
    REMOVED_NAME,
    RUN_NAMES,
    STORE_NAME,
    store_url,
)
from tests.support.runs import objects, prepared, run_attribute, tree


@pytest.fixture
def out(finished_run, tmp_path):
    """A finished run with what other jobs derive from one, and a file of the user's."""
    out = Path(shutil.copytree(finished_run.out, tmp_path / "run"))
    for name in DERIVED_NAMES:
        if not (out / name).exists():
            (out / name).mkdir()
            (out / name / "part").write_text("of the old run")
    (out / "notes.txt").write_text("mine")
    return out


def names(out):
    return sorted(path.name for path in out.iterdir())


def test_the_derived_names_are_those_of_the_jobs_that_make_them():
    named = {value for name, value in vars(run_folder).items() if name.endswith("_NAME")}
    assert named == set(RUN_NAMES)
    assert set(DERIVED_NAMES) == named - {STORE_NAME, LEASE_NAME, REMOVED_NAME, CACHES_NAME}


def test_the_store_is_empty_and_of_the_new_run_and_nothing_derived_is_left(finished_run, out):
    config = finished_run.inputs.config(out, precision="bfloat16")
    plan = prepared(config, overwrite=True)
    assert names(out) == ["attributions.zarr", "notes.txt"]
    assert objects(out) == {}
    store = open_store(plan.store_url)
    assert store.record.identity.precision == "bfloat16"
    assert pending_rows(store).shards.tolist() == [0, 1, 2, 3]
    # A later call that leaves the flag out goes on with this run.
    assert "overwrite" not in store.record.config
    prepared(finished_run.inputs.config(out, precision="bfloat16"))


@pytest.mark.parametrize(
    "flags",
    [
        ["--method.layer=9"],
        ["--manifest=absent.parquet"],
        ["--model=absent"],
        ["--batch-size=3"],
        ["--n-models=64", "--cpus-per-model=64"],
    ],
)
def test_nothing_is_deleted_when_something_else_is_wrong(finished_run, out, flags, capsys):
    def execute(plan, lease):
        raise AssertionError("the run was started")

    machine = Machine(cpus=2, gpus=0)
    before = tree(out)
    argv = finished_run.inputs.flags(out, "--overwrite", *flags)
    assert run_attribute(argv, execute, machine) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert tree(out) == before


def test_weights_that_are_damaged_are_found_before_anything_is_deleted(
    finished_run, out, tmp_path, capsys
):
    model = Path(shutil.copytree(finished_run.inputs.model, tmp_path / "model"))
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    before = tree(out)
    argv = finished_run.inputs.flags(out, "--overwrite", f"--model={model}")
    assert run_attribute(argv) == 2
    assert tree(out) == before


def foreign_group(store):
    zarr.create_group(store, attributes={"schema": "of another product"})


def foreign_folder(store):
    store.mkdir(parents=True)
    (store / "thesis.tex").write_text("mine")


@pytest.mark.parametrize("make", [foreign_group, foreign_folder])
def test_what_is_not_a_store_of_this_product_is_refused(finished_run, tmp_path, capsys, make):
    out = tmp_path / "run"
    make(out / "attributions.zarr")
    (out / "report").mkdir()
    (out / "report" / "index.html").write_text("mine")
    before = tree(out)
    argv = finished_run.inputs.flags(out, "--overwrite")
    assert run_attribute(argv) == 2
    assert f"out: {out}/attributions.zarr is" in capsys.readouterr().err
    assert tree(out) == before


@pytest.mark.parametrize("n_deletions", [0, 1, 5, 13])
def test_an_overwriting_that_was_cut_off_is_finished_by_the_next(
    finished_run, out, monkeypatch, n_deletions
):
    from fsspec.implementations.local import LocalFileSystem

    delete, deleted = LocalFileSystem.rm, []

    def cut_off(self, path, recursive=False, maxdepth=None):
        if len(deleted) == n_deletions:
            raise OSError("the machine died")
        deleted.append(path)
        delete(self, path, recursive=recursive)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "rm", cut_off)
        with pytest.raises(StoreError, match=r"can't delete the run in .*: the machine died"):
            discard_run(str(out))
    assert isinstance(find_store(store_url(str(out))), Unfinished)
    prepared(finished_run.inputs.config(out), overwrite=True)
    assert names(out) == ["attributions.zarr", "notes.txt"]
    assert objects(out) == {}


def test_where_nothing_is_a_run_is_begun(finished_run, tmp_path):
    plan = prepared(finished_run.inputs.config(tmp_path / "new"), overwrite=True)
    assert len(pending_rows(open_store(plan.store_url)).shards) == 4


def test_without_it_a_refusal_names_it(finished_run, out, capsys):
    before = tree(out)
    argv = finished_run.inputs.flags(out, "--batch-size=1")
    assert run_attribute(argv) == 2
    stderr = capsys.readouterr().err
    assert "batch_size is 2 there and 1 here" in stderr
    assert "--overwrite" in stderr
    assert tree(out) == before


def test_a_storage_that_stays_away_midway_does_not_lead_to_it_being_given_again(
    finished_run, out, capsys
):
    def execute(plan, lease):
        raise StorageError(f"{plan.store_url}: stays away")

    argv = finished_run.inputs.flags(out, "--overwrite")
    assert run_attribute(argv, execute) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith("and the same command without --overwrite goes on")


def test_a_file_that_a_cluster_reads_again_can_not_have_it(finished_run, out, tmp_path, capsys):
    before = tree(out)
    (tmp_path / "run.yaml").write_text("overwrite: true\n")
    argv = finished_run.inputs.flags(out, f"--config={tmp_path / 'run.yaml'}")
    assert run_attribute(argv) == 2
    assert "overwrite, which is for one call: give it as a flag" in capsys.readouterr().err
    assert tree(out) == before
