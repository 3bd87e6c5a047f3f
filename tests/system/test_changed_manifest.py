"""A manifest that is written anew, or is gone, while a run is going on: no row is mixed up."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.manifest import write_manifest
from pipeline.errors import ManifestChangedError
from pipeline.execution.passes import execute
from pipeline.run.job import Limits, real_stages
from pipeline.run.steps import _row_group
from pipeline.status import Status
from pipeline.store.opening import open_store
from pipeline.store.pending import reset_rows
from pipeline.store.shards import write_shard
from tests.support.runs import (
    assert_same_columns,
    pending_shards,
    prepared,
    run_attribute,
    stored_columns,
)

CHANGED = "manifest {url} was changed while the run was going on: put the file back"


@pytest.fixture
def manifest(finished_run, tmp_path):
    return Path(shutil.copy(finished_run.inputs.manifest, tmp_path / "clips.parquet"))


@pytest.fixture
def other(manifest, tmp_path):
    """A manifest of the same clips with one more in front, as the layout `folders` may give it."""
    table = pq.read_table(manifest)
    path = tmp_path / "other.parquet"
    write_manifest(pa.concat_tables([table.slice(9, 1), table]), str(path))
    return path


@dataclass(frozen=True)
class ForgetfulLoad:
    """Loads clips, as in a worker that reads rows for the first time."""

    load: Callable

    def __call__(self, rows):
        _row_group.cache_clear()
        return self.load(rows)


@dataclass(frozen=True)
class WriteThenAnotherManifest:
    """Writes shards; after the first, another manifest takes the place of the run's."""

    manifest: Path
    other: Path

    def __call__(self, store, columns, rows, **known):
        written = write_shard(store, columns, rows, **known)
        if rows[0] == 0:
            shutil.copy(self.other, self.manifest)
        return written


def run(inputs, out, manifest, execute=None):
    flags = inputs.flags(out, f"--manifest={manifest}", "--max-failed-fraction=1")
    return run_attribute(flags, execute)


@pytest.mark.slow
def test_a_run_whose_manifest_is_written_anew_ends_and_goes_on_when_it_is_put_back(
    finished_run, manifest, other, tmp_path, capsys
):
    out, kept = tmp_path / "run", tmp_path / "kept.parquet"
    shutil.copy(manifest, kept)

    def stages_of(*arguments):
        stages = real_stages(*arguments)
        return replace(
            stages,
            load=ForgetfulLoad(stages.load),
            write=WriteThenAnotherManifest(manifest, other),
        )

    # A shard a pass: what the second reads is read after the first was written.
    shard_by_shard = partial(execute, stages_of=stages_of, limits=Limits(batches_per_pass=2))
    assert run(finished_run.inputs, out, manifest, shard_by_shard) == 1
    stderr = capsys.readouterr().err
    changed = re.escape(CHANGED.format(url=manifest))
    assert re.search(f"^.* 3 of 3 shards are left: .*{changed}.*$", stderr, re.MULTILINE)
    assert re.search(f"^attribute: error: {changed}.*; what was finished is kept$", stderr, re.M)
    assert "Traceback" not in stderr
    # What was written stays, and is what a run gives that no one disturbed.
    assert pending_shards(out) == [1, 2, 3]
    expected = stored_columns(finished_run.out)
    got = stored_columns(out)
    assert_same_columns(
        {name: values[:4] for name, values in got.items()},
        {name: values[:4] for name, values in expected.items()},
    )

    # The other manifest isn't taken for the run's.
    assert run(finished_run.inputs, out, manifest) == 2
    shutil.copy(kept, manifest)
    assert run(finished_run.inputs, out, manifest) == 0
    assert_same_columns(stored_columns(out), expected)


@pytest.mark.parametrize("what", ["changed", "gone", "damaged"])
def test_a_manifest_that_is_lost_when_the_run_ends_is_no_bad_usage(
    finished_run, manifest, other, tmp_path, capsys, what
):
    out = tmp_path / "run"
    shutil.copytree(finished_run.out, out)
    (out / "failures.parquet").unlink()
    kept = stored_columns(out)

    def execute_without(plan, lease):
        if what == "changed":
            other.replace(manifest)
        elif what == "gone":
            manifest.unlink()
        else:
            manifest.write_bytes(manifest.read_bytes()[:100])
        return execute(plan)

    assert run(finished_run.inputs, out, manifest, execute_without) == 1
    stderr = capsys.readouterr().err
    told = {"changed": "was changed while", "gone": "No such file", "damaged": "not a parquet file"}
    last = stderr.splitlines()[-1]
    assert last.startswith("attribute: error: ")
    assert str(manifest) in last
    assert told[what] in last
    assert_same_columns(stored_columns(out), kept)


@pytest.mark.slow
def test_a_manifest_that_changes_between_plan_and_start_gives_no_row(
    finished_run, manifest, other, tmp_path, caplog
):
    out = tmp_path / "run"
    shutil.copytree(finished_run.out, out)
    plan = prepared(finished_run.inputs.config(out, manifest=str(manifest)))
    reset_rows(open_store(plan.store_url, mode="r+"), [s for s in Status if s.failed])
    before = pending_shards(out)
    shutil.copy(other, manifest)
    with pytest.raises(ManifestChangedError, match="was changed while the run was going on"):
        execute(plan)
    assert pending_shards(out) == before
    assert CHANGED.format(url=manifest) in caplog.text
