"""A run without a cluster: the bits of a plain loop and of Ray's, and no Ray at all."""

import errno
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.attribution.method import Method
from pipeline.clips.views import ViewsConfig
from pipeline.errors import ConfigError, StorageError
from pipeline.models.device import n_gpus
from pipeline.run.config import SamplingConfig
from pipeline.run.job import real_stages
from pipeline.run.serial import check_serial, execute_serially
from pipeline.status import Status
from pipeline.store.opening import open_store
from pipeline.store.pending import reset_rows
from tests.support.runs import (
    assert_same_columns,
    objects,
    pending_shards,
    plain_columns,
    prepared,
    run_attribute,
    stored_columns,
    write_inputs,
)

ROOT = Path(__file__).parents[2]
N_CLIPS = 14
DAMAGED = {1: "missing", 3: "truncated", 6: "empty", 8: "unreadable", 13: "too_short"}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("serial"), N_CLIPS, DAMAGED)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": Method(name="staa-paper", layers="all", heads="keep")},
        {"method": Method(name="evidence", layers="all", heads="keep", target="label")},
        {"method": Method(name="evidence", target="top2", layers="last")},
        {"method": Method(name="rollout")},
        {"method": Method(name="libragrad", target="top2")},
        {"batch_size": 4, "rows_per_shard": 12},
        {"sampling": SamplingConfig(kind="strided", stride=2), "views": ViewsConfig(clips=3)},
    ],
    ids=[
        "usual",
        "layers and heads",
        "evidence",
        "top2",
        "rollout",
        "backward pass",
        "one and a short shard",
        "views",
    ],
)
def test_what_is_stored_is_what_a_plain_loop_gives_bit_for_bit(inputs, tmp_path, changes):
    plan = prepared(inputs.config(tmp_path / "run", **changes))
    summary = execute_serially(plan)
    assert summary.n_pending == 0
    assert summary.seconds > 0
    assert_same_columns(stored_columns(tmp_path / "run"), plain_columns(plan))


def test_the_store_is_that_of_a_run_on_ray_to_the_byte(finished_run, tmp_path):
    out = tmp_path / "run"
    flags = finished_run.inputs.flags(out, "--serial", "--max-failed-fraction=0.5")
    assert run_attribute(flags) == 0
    assert {name: data for name, (data, _) in objects(out).items()} == {
        name: data for name, (data, _) in objects(finished_run.out).items()
    }
    failures = pq.read_table(out / "failures.parquet")
    assert failures.equals(pq.read_table(finished_run.out / "failures.parquet"))


def test_ray_is_not_even_there(inputs, tmp_path):
    """In an interpreter that can't import Ray, as a machine on which it isn't installed."""
    flags = inputs.flags(tmp_path / "run", "--serial", "--max-failed-fraction=0.5")
    code = """
import sys
sys.modules["ray"] = None
from jobs.attribute import AttributeJob, attribute, run_job
sys.exit(run_job(AttributeJob, attribute, verb="attribute"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *flags],
        cwd=ROOT,
        env=os.environ | {"RAY_ADDRESS": "nowhere:1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "14 clips: 9 ok, 1 missing, 1 empty, 1 unreadable, 1 truncated, 1 too_s" in done.stdout
    last = [line for line in done.stderr.splitlines() if line.startswith("attribute: 100%")][-1]
    assert "14/14" in last
    assert "failed=5" in last
    assert "stored=14" in last
    assert pq.read_table(tmp_path / "run" / "failures.parquet")["row"].to_pylist() == [*DAMAGED]


@dataclass(frozen=True)
class LoaderThatEnds:
    """Loads clips, and raises an error in place of those of one row."""

    load: object
    row: int
    error: BaseException

    def __call__(self, rows):
        if self.row in rows["row"]:
            raise self.error
        return self.load(rows)


def ending(row, error):
    """`execute_serially`, with an error when a row is loaded."""

    def stages_of(*arguments):
        stages = real_stages(*arguments)
        return replace(stages, load=LoaderThatEnds(stages.load, row, error))

    return partial(execute_serially, stages_of=stages_of)


def test_ctrl_c_keeps_what_was_finished_and_the_same_command_goes_on(inputs, tmp_path, capsys):
    out = tmp_path / "run"
    flags = inputs.flags(out, "--max-failed-fraction=0.5")
    assert run_attribute(flags, ending(9, KeyboardInterrupt())) == 130
    assert "interrupted; what was finished is kept" in capsys.readouterr().err.splitlines()[-1]
    assert pending_shards(out) == [2, 3]
    before = objects(out)
    assert run_attribute([*flags, "--serial"]) == 0
    assert before.items() <= objects(out).items()
    assert_same_columns(
        stored_columns(out), plain_columns(prepared(inputs.config(tmp_path / "plain")))
    )


@pytest.mark.parametrize(("row", "left"), [(5, [1]), (13, [3])])
def test_a_storage_that_fails_for_a_clip_holds_up_its_shard_alone(inputs, tmp_path, row, left):
    out = tmp_path / "run"
    away = ending(row, StorageError("clips/five.mp4: its storage fails for it"))
    summary = away(prepared(inputs.config(out)))
    assert pending_shards(out) == left
    assert summary.n_pending == (2 if left == [3] else 4)
    assert execute_serially(prepared(inputs.config(out))).n_pending == 0


def test_an_error_of_the_program_is_raised_as_it_is(inputs, tmp_path):
    with pytest.raises(ZeroDivisionError, match="a bug"):
        ending(5, ZeroDivisionError("a bug"))(prepared(inputs.config(tmp_path / "run")))
    assert pending_shards(tmp_path / "run") == [1, 2, 3]


def test_rows_that_are_done_keep_what_is_stored(inputs, tmp_path):
    out = tmp_path / "run"
    plan = prepared(inputs.config(out))
    execute_serially(plan)
    before = stored_columns(out)
    reset_rows(open_store(plan.store_url, mode="r+"), [Status.MISSING])
    clip = Path(inputs.manifest).parent / "clips" / f"{inputs.video_ids[0]}.mp4"
    clip.rename(tmp_path / "away.mp4")
    try:
        assert execute_serially(plan).counts[Status.MISSING] == 1
    finally:
        (tmp_path / "away.mp4").rename(clip)
    assert_same_columns(stored_columns(out), before)


def test_a_finished_run_does_nothing_when_it_is_run_again(inputs, tmp_path):
    plan = prepared(inputs.config(tmp_path / "run"))
    execute_serially(plan)
    before = objects(tmp_path / "run")
    assert execute_serially(plan).seconds == 0
    assert objects(tmp_path / "run") == before


def test_the_flag_is_not_recorded(inputs, tmp_path):
    assert run_attribute(inputs.flags(tmp_path / "run", "--serial")) == 1
    group = open_store(str(tmp_path / "run" / "attributions.zarr"))
    assert "serial" not in group.record.config


def test_a_gpu_that_is_not_there_is_refused(inputs, tmp_path):
    if n_gpus():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="device: 'cuda'"):
        check_serial(inputs.config(tmp_path / "run", device="cuda"))


@dataclass(frozen=True)
class FullDisk:
    """Writes shards until a disk is full."""

    write: object

    def __call__(self, store, columns, rows, **known):
        if rows[0] >= 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.write(store, columns, rows, **known)


def test_a_full_disk_ends_the_run_with_one_line_that_names_the_store(inputs, tmp_path, capsys):
    out = tmp_path / "run"

    def stages_of(*arguments):
        stages = real_stages(*arguments)
        return replace(stages, write=FullDisk(stages.write))

    full = partial(execute_serially, stages_of=stages_of)
    assert run_attribute(inputs.flags(out), full) == 1
    stderr = capsys.readouterr().err
    assert stderr.splitlines()[-1] == (
        "attribute: error: 6 rows are pending, since a pass was broken off: rows 12 to 13: can't "
        f"write {out}/attributions.zarr: No space left on device; what was finished is kept, and "
        "the same command goes on"
    )
    assert "Traceback" not in stderr
    assert pending_shards(out) == [2, 3]
