"""What a dry run says is what the run then does, and the target stays as it was."""

import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from pipeline.dataset.manifest import write_manifest
from pipeline.errors import ConfigError, StoreError
from pipeline.run.config import OneCall
from pipeline.run.forecast import Forecast, Measured, forecast
from pipeline.run.plan import plan_run
from pipeline.run.resources import ModelPool, Room
from pipeline.run.serial import execute_serially
from pipeline.status import Status
from pipeline.store.opening import open_store
from pipeline.store.pending import reset_rows
from tests.support.runs import objects, prepared, run_attribute, tree, write_inputs

N_CLIPS = 14


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("forecast"), N_CLIPS, {1: "missing"})


MEASURED = Measured(n_clips=8, n_ok=8, decode_s=0.2, explain_s=0.01, row_bytes=1000)


@pytest.mark.parametrize(
    ("room", "clips_per_s", "lacking"),
    [
        # 2 models explain 200 clips/s, for which 40 cores decode.
        (Room(10, ModelPool("cuda", 2, 2), 1), 50, 30),
        (Room(60, ModelPool("cuda", 2, 2), 1), 200, 0),
        # On CPUs, a clip takes time of the same cores twice.
        (Room(10, ModelPool("cpu", 10, 10), 1), 10 / 0.21, 0),
        (Room(10, ModelPool("cpu", 5, 5), 2), 10 / 0.22, 0),
        (None, 1 / 0.21, 0),
    ],
)
def test_the_slower_side_bounds_the_rate(room, clips_per_s, lacking):
    told = Forecast(36_000, MEASURED, room, n_shards=141, n_arrays=15, free=None)
    assert told.clips_per_s == pytest.approx(clips_per_s)
    assert told.seconds == pytest.approx(36_000 / clips_per_s)
    assert told.lacking_cores == pytest.approx(lacking)
    assert (told.n_bytes, told.n_objects) == (36_000_000, 2115)
    assert any("cores more" in line for line in told.lines()) == bool(lacking)


def test_bytes_and_objects_are_those_that_the_run_then_writes(inputs, tmp_path):
    plan = plan_run(inputs.config(tmp_path / "run"))
    told = forecast(plan, None)
    assert not (tmp_path / "run").exists()
    execute_serially(prepared(inputs.config(tmp_path / "run")))
    written = objects(tmp_path / "run")
    assert told.n_rows == N_CLIPS
    assert told.n_objects == len(written)
    # Of tiny maps most of an object is its frame; of larger shards less.
    n_bytes = sum(len(data) for data, _ in written.values())
    assert 0.4 * n_bytes < told.n_bytes < 1.5 * n_bytes


def test_only_what_is_pending_counts(inputs, tmp_path):
    out = tmp_path / "run"
    execute_serially(prepared(inputs.config(out)))
    with pytest.raises(ConfigError, match=r"no row of .* is pending"):
        forecast(plan_run(inputs.config(out)), None)
    reset_rows(open_store(f"{out}/attributions.zarr", mode="r+"), [Status.MISSING])
    store = open_store(f"{out}/attributions.zarr", mode="r+")
    store.array("status")[8:12] = int(Status.PENDING)
    told = forecast(plan_run(inputs.config(out)), None)
    assert (told.n_rows, told.n_shards) == (5, 2)
    assert told.measured.n_clips == 5


def test_rows_that_this_call_adds_or_retries_count_and_no_others(inputs, tmp_path):
    out = tmp_path / "run"
    execute_serially(prepared(inputs.config(out)))
    before = tree(tmp_path)
    # The missing clip can't be explained in a dry run either: with others it would count as one.
    with pytest.raises(ConfigError, match=r"none of 1 clips .* could be explained"):
        forecast(plan_run(inputs.config(out), OneCall(retry_failed=("all",))), None)
    table = pq.read_table(inputs.manifest)
    more = [row | {"video_id": f"again {row['video_id']}"} for row in table.to_pylist()[4:9]]
    longer = str(tmp_path / "longer.parquet")
    write_manifest(type(table).from_pylist(table.to_pylist() + more, schema=table.schema), longer)
    config = inputs.config(out).model_copy(update={"manifest": longer})
    told = forecast(plan_run(config, OneCall(append=True)), None)
    # The last shard of the run has two rows, and gets two more.
    assert (told.n_rows, told.n_shards) == (5, 2)
    (tmp_path / "longer.parquet").unlink()
    assert tree(tmp_path) == before


def test_clips_of_which_none_can_be_explained_are_told(inputs, tmp_path):
    config = inputs.config(tmp_path / "run")
    plan = plan_run(config)
    gone = replace(plan, manifest=replace(plan.manifest, root=str(tmp_path)), witness=None)
    (tmp_path / "something").touch()
    with pytest.raises(ConfigError, match=r"none of 6 clips .* could be explained: no object at"):
        forecast(gone, None)


def test_the_command_says_it_and_changes_nothing(inputs, tmp_path, capsys):
    out = tmp_path / "run"
    before = tree(tmp_path)
    assert run_attribute(inputs.flags(out, "--serial", "--dry-run")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"attribute: 14 clips at [\d.]+ clips/s take \d+ s, in one process", lines[0])
    assert re.match(r"attribute: what is stored takes .* objects; .* are free there", lines[-1])
    assert tree(tmp_path) == before


def disk_with(free):
    """Give what tells how full a disk is: no test can fill one."""
    return lambda folder: SimpleNamespace(free=free)


def test_a_target_with_less_space_than_the_maps_take_is_refused(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", disk_with(100))
    with pytest.raises(
        StoreError, match=r"out: .*run has 100 bytes free, and the maps of 14 clips"
    ):
        plan_run(inputs.config(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_rows_that_are_done_need_no_space(inputs, tmp_path, monkeypatch):
    out = tmp_path / "run"
    execute_serially(prepared(inputs.config(out)))
    monkeypatch.setattr(shutil, "disk_usage", disk_with(1))
    plan_run(inputs.config(out))
