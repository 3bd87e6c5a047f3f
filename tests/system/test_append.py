"""A run takes in what was added to the end of its manifest, and computes nothing else anew."""

import pyarrow.parquet as pq
import pytest

from analysis import open_run
from jobs.attribute import attribute
from jobs.cli import run_job
from pipeline.dataset.manifest import write_manifest
from pipeline.errors import ConfigError, RunMismatchError, StoreError
from pipeline.run.config import AttributeJob
from pipeline.run.serial import execute_serially
from pipeline.store.opening import open_store
from pipeline.store.run_folder import store_url
from pipeline.store.state import read_state
from tests.support.runs import (
    assert_same_columns,
    objects,
    plain_columns,
    prepared,
    stored_columns,
    write_inputs,
)

N_CLIPS, N_FIRST = 14, 6
DAMAGED = {2: "missing", 9: "empty"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("append"), N_CLIPS, DAMAGED)


def first_rows(inputs, n_rows, folder):
    """URL of a manifest of the first rows alone."""
    url = str(folder / "first.parquet")
    write_manifest(pq.read_table(inputs.manifest).slice(0, n_rows), url)
    return url


def flags(inputs, out, manifest, *more):
    return inputs.flags(out, f"--manifest={manifest}", "--serial", *more)


def run(argv):
    return run_job(AttributeJob, attribute, verb="attribute", argv=argv)


def test_the_store_is_that_of_a_run_over_the_whole_manifest(inputs, tmp_path, one_thread):
    out = tmp_path / "run"
    assert (
        run(flags(inputs, out, first_rows(inputs, N_FIRST, tmp_path), "--max-failed-fraction=1"))
        == 0
    )
    before = objects(out)
    assert run(flags(inputs, out, inputs.manifest, "--append", "--max-failed-fraction=1")) == 0
    expected = plain_columns(prepared(inputs.config(tmp_path / "plain")))
    assert_same_columns(stored_columns(out), expected)
    after = objects(out)
    whole = {name for name in before if name.split("/")[2] == "0"}
    assert whole
    assert {name: after[name] for name in whole} == {name: before[name] for name in whole}
    assert len(pq.read_table(out / "failures.parquet")) == len(DAMAGED)
    # From now on it is a run like any other.
    assert run(flags(inputs, out, inputs.manifest, "--max-failed-fraction=1")) == 0
    assert objects(out) == after


def test_rows_of_a_short_batch_stay_as_they_are(inputs, tmp_path, one_thread):
    out, n_first = tmp_path / "run", 5
    execute_serially(prepared(inputs.config(out, manifest=first_rows(inputs, n_first, tmp_path))))
    before = stored_columns(out)
    execute_serially(prepared(inputs.config(out), append=True))
    after = stored_columns(out)
    assert_same_columns({name: values[:n_first] for name, values in after.items()}, before)
    expected = plain_columns(prepared(inputs.config(tmp_path / "plain")))
    assert_same_columns(
        {name: values[n_first:] for name, values in after.items()},
        {name: values[n_first:] for name, values in expected.items()},
    )


def test_an_unfinished_run_is_added_to(inputs, tmp_path):
    out = tmp_path / "run"
    prepared(inputs.config(out, manifest=first_rows(inputs, N_FIRST, tmp_path)))
    summary = execute_serially(prepared(inputs.config(out), append=True))
    assert (summary.n_rows, summary.n_pending) == (N_CLIPS, 0)


@pytest.mark.parametrize("n_enlarged", [0, 3])
def test_an_append_that_was_cut_off_is_finished_by_the_next_command(
    inputs, tmp_path, one_thread, n_enlarged
):
    out = tmp_path / "run"
    execute_serially(prepared(inputs.config(out, manifest=first_rows(inputs, N_FIRST, tmp_path))))
    whole = prepared(inputs.config(tmp_path / "whole"))
    group = open_store(store_url(str(out)), mode="r+").group
    group.update_attributes(whole.record.to_attributes())
    enlarged = sorted(whole.layout.arrays().keys() - {"status"})[:n_enlarged]
    for name in enlarged:
        group[name].resize((N_CLIPS, *group[name].shape[1:]))

    assert read_state(str(out)).summary.n_pending == N_CLIPS - N_FIRST
    with pytest.raises(StoreError, match=f"is being enlarged from {N_FIRST} to {N_CLIPS} rows"):
        open_run(str(out))
    summary = execute_serially(prepared(inputs.config(out)))
    assert (summary.n_rows, summary.n_pending) == (N_CLIPS, 0)
    expected = plain_columns(whole)
    assert_same_columns(stored_columns(out), expected)
    assert open_run(str(out)).sizes["clip"] == N_CLIPS


def test_without_the_flag_a_longer_manifest_is_refused_and_the_flag_named(inputs, tmp_path, capsys):
    out = tmp_path / "run"
    prepared(inputs.config(out, manifest=first_rows(inputs, N_FIRST, tmp_path)))
    assert run(flags(inputs, out, inputs.manifest)) == 2
    assert "--append takes in rows at the manifest's end" in capsys.readouterr().err


def test_only_a_manifest_that_begins_with_the_runs_rows_is_taken(inputs, tmp_path):
    out = tmp_path / "run"
    table = pq.read_table(inputs.manifest)
    prepared(inputs.config(out))
    for name, other in (
        ("shorter", table.slice(0, N_CLIPS - 1)),
        ("turned", table.take(list(reversed(range(N_CLIPS))))),
    ):
        url = str(tmp_path / f"{name}.parquet")
        write_manifest(other, url)
        with pytest.raises(RunMismatchError, match="doesn't begin with the 14 rows"):
            prepared(inputs.config(out, manifest=url), append=True)
    with pytest.raises(RunMismatchError, match="batch_size is 2 there and 4 here"):
        prepared(inputs.config(out, batch_size=4), append=True)
    assert open_store(store_url(str(out))).layout.n_rows == N_CLIPS


def test_there_must_be_a_run_to_add_to(inputs, tmp_path):
    with pytest.raises(ConfigError, match="append: there is no run"):
        prepared(inputs.config(tmp_path / "none"), append=True)
    assert not (tmp_path / "none").exists()
