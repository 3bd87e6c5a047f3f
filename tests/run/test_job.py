"""How a run goes on over passes that break off; who carries the passes out plays no part."""

import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StorageError, StoreGoneError
from pipeline.run.job import Carriage, Limits, Pass, PassBrokenError, carry_out, real_stages
from pipeline.run.resources import Sizes
from pipeline.run.serial import execute_serially
from pipeline.run.tally import Fault, LocalChannel, Tally
from pipeline.status import Status
from pipeline.store.opening import open_store
from pipeline.store.pending import reset_rows
from tests.support.runs import pending_shards, prepared, stored_columns, write_inputs
from tests.support.stores import LAYOUT

ROWS_PER_SHARD = 4
N_SHARDS = 4


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("job"), 14)


@pytest.fixture(scope="module")
def plan(inputs, tmp_path_factory):
    """A plan whose run is finished, and that each test has pending rows of as it likes."""
    plan = prepared(inputs.config(tmp_path_factory.mktemp("job") / "run"))
    execute_serially(plan)
    return plan


class Passes:
    """Carries out passes of which some break off, and notes what each was to do.

    A shard is done as its rows are marked: what a pass does to the store, and nothing else.
    """

    def __init__(self, plan, breaks):
        self.plan, self.breaks = plan, list(breaks)
        self.shards = []

    @contextmanager
    def __call__(self, plan, n_pending):
        yield Carriage(self.run_pass, lambda: None, lambda progress: None)

    def run_pass(self, work):
        shards = work.shards
        self.shards.append(shards.tolist())
        n_done, error = self.breaks.pop(0) if self.breaks else (len(shards), None)
        status = open_store(self.plan.store_url, mode="r+").array("status")
        for shard in shards[:n_done].tolist():
            rows = self.plan.layout.shard_rows(shard)
            status[rows.start : rows.stop] = Status.OK
        if error is not None:
            raise error


def fault_in(shard):
    first = shard * ROWS_PER_SHARD
    return Fault("decode", "away", (first, first + ROWS_PER_SHARD - 1))


def broken(*shards):
    return PassBrokenError("a process died", tuple(map(fault_in, shards)))


def carried_out(plan, breaks, pending=(0, 1, 2, 3), **limits):
    """Shards of each pass, and those that are left."""
    status = open_store(plan.store_url, mode="r+").array("status")
    status[:] = Status.OK
    for shard in pending:
        rows = plan.layout.shard_rows(shard)
        status[rows.start : rows.stop] = Status.PENDING
    passes = Passes(plan, breaks)
    summary = carry_out(plan, passes, Limits(**limits))
    left = pending_shards(plan.config.out)
    assert summary.n_pending == sum(len(plan.layout.shard_rows(shard)) for shard in left)
    return passes.shards, left


def test_a_run_goes_on_where_a_pass_was_broken_off(plan, caplog):
    assert carried_out(plan, [(1, broken())], pending=(1, 3)) == ([[1, 3], [3]], [])
    assert "1 of 2 shards are left: a process died" in caplog.text


def test_a_fault_is_told_with_its_rows(plan, caplog):
    carried_out(plan, [(1, broken(2))])
    assert "3 of 4 shards are left: rows 8 to 11: away" in caplog.text


def test_a_pass_that_gets_nowhere_leaves_out_the_shards_that_it_failed_on(plan):
    passes, left = carried_out(plan, [(0, broken(1)), (1, broken(2)), (0, broken(2))])
    assert passes == [[0, 1, 2, 3], [0, 2, 3], [2, 3], [3]]
    assert left == [1, 2]


def test_shards_that_failed_together_are_left_out_together(plan):
    assert carried_out(plan, [(0, broken(0, 2))]) == ([[0, 1, 2, 3], [1, 3]], [0, 2])


def test_a_fault_of_no_rows_ends_the_run_once_a_pass_gets_nowhere(plan):
    of_all = PassBrokenError("", (Fault("read", "the manifest was changed", None),))
    assert carried_out(plan, [(1, of_all), (0, of_all)]) == ([[0, 1, 2, 3], [1, 2, 3]], [1, 2, 3])


def test_a_run_ends_if_pass_after_pass_gets_nowhere(plan):
    breaks = [(0, broken(shard)) for shard in range(4)]
    passes, left = carried_out(plan, breaks, max_stuck=3)
    assert passes == [[0, 1, 2, 3], [1, 2, 3], [2, 3]]
    assert left == [0, 1, 2, 3]


def test_a_long_run_is_carried_out_in_passes(plan):
    # A shard is two batches.
    assert carried_out(plan, [], pending=(0, 2), batches_per_pass=2) == ([[0], [2]], [])


def test_a_store_that_is_gone_is_the_storages_fault(inputs, tmp_path):
    plan = prepared(inputs.config(tmp_path / "run"))
    (tmp_path / "run" / "attributions.zarr" / "zarr.json").unlink()
    with pytest.raises(StorageError, match=r"attributions\.zarr"):
        execute_serially(plan)


@dataclass(frozen=True)
class ClipsThatStayAway:
    """Loads clips, but for some that a storage fails for as long as it is tried."""

    load: object
    rows: tuple[int, ...]

    def __call__(self, rows):
        if set(self.rows) & set(rows["row"].tolist()):
            raise StorageError("clips/five.mp4: its storage fails for it")
        return self.load(rows)


@pytest.mark.parametrize(("rows", "left"), [((5,), [1]), ((5, 9), [1, 2]), ((1, 13), [0, 3])])
def test_clips_that_their_storage_always_fails_for_hold_up_their_shards_alone(
    plan, caplog, rows, left
):
    expected = stored_columns(plan.config.out)
    reset_rows(open_store(plan.store_url, mode="r+"), [Status.OK])

    def stages_of(*arguments):
        stages = real_stages(*arguments)
        return replace(stages, load=ClipsThatStayAway(stages.load, rows))

    summary = execute_serially(plan, stages_of=stages_of)
    assert summary.n_pending == sum(len(plan.layout.shard_rows(shard)) for shard in left)
    assert pending_shards(plan.config.out) == left
    first = rows[0] // 2 * 2
    assert f"rows {first} to {first + 1}: clips/five.mp4: its storage fails for it" in caplog.text
    execute_serially(plan)
    np.testing.assert_equal(stored_columns(plan.config.out), expected)


def test_stages_are_wired_as_the_plan_says(plan):
    heard = Tally(ROWS_PER_SHARD)
    stages = real_stages(plan, "cpu", LocalChannel(heard))
    assert stages.load.root == plan.manifest.root
    assert stages.load.decode_timeout_s == plan.config.decode_timeout
    stages.load.on_clip(3)
    assert heard.progress().decoded == 1
    assert stages.attribute_arguments["n_threads"] == 1
    assert stages.attribute_bytes > 2 * plan.checkpoint.weights_bytes


def test_a_store_that_is_deleted_while_the_run_goes_on_leaves_nothing(inputs, tmp_path):
    plan = prepared(inputs.config(tmp_path / "run"))

    def stages_of(*arguments):
        stages = real_stages(*arguments)

        def write(store, columns, rows, **known):
            if rows[0] == 4:
                shutil.rmtree(tmp_path / "run")
            return stages.write(store, columns, rows, **known)

        return replace(stages, write=write)

    with pytest.raises(StoreGoneError, match=r"attributions\.zarr was deleted while"):
        execute_serially(plan, stages_of=stages_of)


@given(
    n_videos=st.integers(1, 40),
    n_views=st.integers(1, 12),
    batch_size=st.integers(1, 8),
    batches=st.integers(1, 12),
    units=st.integers(1, 4),
    n_small=st.integers(0, 3),
)
def test_tasks_are_all_rows_in_whole_batches_and_whole_videos(
    n_videos, n_views, batch_size, batches, units, n_small
):
    sizes = Sizes(batch_size, batch_size * batches, n_views)
    layout = replace(LAYOUT, n_rows=n_videos * n_views, rows_per_shard=sizes.rows_per_shard)
    shards = np.arange(layout.n_shards)
    work = Pass(SimpleNamespace(sizes=sizes, layout=layout), None, shards, None)
    for n_clips in (units * sizes.unit, units * batch_size):
        tasks = work.tasks(n_clips, n_small)
        assert [row for task in tasks for row in task] == list(range(layout.n_rows))
        ends = {shard_rows.stop for shard_rows in map(layout.shard_rows, shards.tolist())}
        unit = batch_size if n_clips % sizes.unit else sizes.unit
        # The models have something to do early.
        for number, task in enumerate(tasks):
            assert not n_small or len(task) <= unit << (number // n_small)
        for task in tasks:
            assert 0 < len(task) <= n_clips
            assert (task.start - layout.shard_rows(task.start // layout.rows_per_shard).start) % (
                batch_size
            ) == 0
            assert task.stop % unit == 0 or task.stop in ends
