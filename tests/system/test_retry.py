"""`--retry-failed`: the clips it computes anew, and all others, whose bytes stay."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from jobs.attribute import attribute
from jobs.cli import parse, run_job
from pipeline.clips.loader import ClipLoader
from pipeline.errors import ConfigError, StoreError
from pipeline.models.attributor import Attributor
from pipeline.run.config import AttributeJob, OneCall
from pipeline.run.plan import plan_run
from pipeline.run.prepare import prepare
from pipeline.run.serial import execute_serially as execute
from pipeline.run.steps import Load
from pipeline.run.tally import LocalChannel, Tally
from pipeline.status import Status
from pipeline.store.opening import open_store
from pipeline.store.pending import pending_rows, reset_rows
from pipeline.store.run_folder import store_url
from pipeline.store.shards import write_shard
from tests.support.clips import write_mp4
from tests.support.runs import (
    assert_same_columns,
    objects,
    plain_columns,
    prepared,
    random_frames,
    stored_columns,
    write_inputs,
)

REQUIRED = ("--manifest=m", "--model=m", "--out=o")


def retried(*argv):
    return parse(AttributeJob, verb="attribute", argv=(*REQUIRED, *argv)).retry_failed


def test_statuses_are_named_with_commas_or_one_by_one_or_all():
    assert retried() == ()
    assert retried("--retry-failed", "timeout,crashed") == ("timeout", "crashed")
    assert retried("--retry-failed=timeout", "--retry-failed=crashed") == ("timeout", "crashed")
    assert set(retried("--retry-failed", "all")) == {s.label for s in Status if s.failed}


@pytest.mark.parametrize("names", ["ok", "pending", "Timeout", "timeout,lost", "all,timeout", ""])
def test_what_is_no_way_to_fail_is_refused(names):
    with pytest.raises(ConfigError, match=r"retry_failed: .*'all' or any of missing, empty"):
        retried("--retry-failed", names)


def test_overwriting_and_retrying_at_once_is_refused():
    with pytest.raises(ConfigError, match="overwrite and retry_failed"):
        retried("--retry-failed=all", "--overwrite")


@pytest.fixture(scope="module")
def mended(tmp_path_factory):
    """A run with four failed clips, of which two are whole by now."""
    folder = tmp_path_factory.mktemp("mended")
    inputs = write_inputs(folder, 10, {1: "missing", 4: "empty", 5: "missing", 9: "empty"})
    out = folder / "run"
    execute(prepared(inputs.config(out)))
    for row in (1, 4):
        name = f"{inputs.video_ids[row]}.mp4"
        write_mp4(folder / "clips" / name, random_frames(8 + row % 5, seed=row))
    return inputs, out


def copied(mended, tmp_path):
    inputs, out = mended
    return inputs, Path(shutil.copytree(out, tmp_path / "run"))


def test_a_retried_run_has_the_bits_of_one_that_never_failed(mended, tmp_path, capsys, one_thread):
    inputs, out = copied(mended, tmp_path)
    argv = inputs.flags(
        out, "--serial", "--retry-failed=missing,empty", "--max-failed-fraction=0.5"
    )
    assert run_job(AttributeJob, attribute, verb="attribute", argv=argv) == 0
    stdout, stderr = capsys.readouterr()
    assert "attribute: retrying 4 rows: 2 missing, 2 empty\n" in stderr
    assert "10 clips: 8 ok, 1 missing, 1 empty" in stdout
    last = [line for line in stderr.splitlines() if line.startswith("attribute: 100%")][-1]
    assert "10/10" in last
    assert_same_columns(stored_columns(out), plain_columns(prepared(inputs.config(out))))


def test_the_statuses_that_are_not_named_stay_as_they_are(mended, tmp_path):
    inputs, out = copied(mended, tmp_path)
    plan = plan_run(inputs.config(out), OneCall(retry_failed=("empty",)))
    assert prepare(plan) == {Status.EMPTY: 2}
    assert pending_rows(open_store(plan.store_url)).rows_of_partial.tolist() == [4, 9]
    execute(plan)
    status = stored_columns(out)["status"]
    assert status[[1, 4, 5, 9]].tolist() == [
        Status.MISSING, Status.OK, Status.MISSING, Status.EMPTY,
    ]  # fmt: skip


def test_a_retry_that_was_cut_off_is_finished_by_a_plain_call(mended, tmp_path):
    inputs, out = copied(mended, tmp_path)
    reset_rows(open_store(store_url(str(out)), mode="r+"), [Status.EMPTY])
    assert execute(prepared(inputs.config(out))).counts[Status.EMPTY] == 1


def test_nothing_to_retry_writes_nothing(mended, tmp_path, capsys):
    inputs, out = copied(mended, tmp_path)
    before = objects(out)
    argv = inputs.flags(out, "--serial", "--retry-failed=timeout", "--max-failed-fraction=0.5")
    assert run_job(AttributeJob, attribute, verb="attribute", argv=argv) == 0
    assert "attribute: retrying 0 rows\n" in capsys.readouterr().err
    assert objects(out) == before


def test_only_the_pending_rows_of_a_batch_are_loaded_and_their_bits_are_the_same(
    mended, tmp_path, one_thread
):
    inputs, out = copied(mended, tmp_path)
    plan = prepared(inputs.config(out, batch_size=4), overwrite=True)
    checkpoint = plan.checkpoint
    paths = []

    class Listening(ClipLoader):
        def __call__(self, rows):
            paths.extend(rows["path"])
            return super().__call__(rows)

    loader = Listening(
        root=plan.manifest.root,
        views=plan.views,
        input_size=checkpoint.geometry.input_size,
        class_of_label=plan.class_of_label,
    )
    attributor = Attributor(
        checkpoint, plan.config.method, plan.layout, device="cpu", precision="float32", n_threads=1,
    )  # fmt: skip
    table = plan.manifest.rows(0, 4)
    rows = {name: table[name].to_numpy() for name in table.column_names} | {"row": np.arange(4)}
    group = open_store(plan.store_url, mode="r+")
    whole = Load(loader, pending_rows(group), LocalChannel(Tally(4)))(rows)
    expected = attributor(whole)
    row_numbers = expected.pop("row")
    for name in ("video_id", "message"):
        expected[name] = expected[name].astype(np.dtypes.StringDType())
    write_shard(group, expected, row_numbers)
    reset_rows(group, [Status.OK])
    group.array("status")[2] = Status.OK
    paths.clear()
    part = Load(loader, pending_rows(group), LocalChannel(Tally(4)))(rows)
    assert paths == [rows["path"][row] for row in (0, 1, 3)]
    got = attributor(part)
    for name in ("spatial", "temporal", "top_probabilities", "probability"):
        np.testing.assert_array_equal(got[name][[0, 1, 3]], expected[name][[0, 1, 3]])
    assert got["status"].tolist() == [1, 1, 0, 1]


def test_a_row_that_is_done_is_never_written_over(mended, tmp_path):
    _, out = copied(mended, tmp_path)
    url = store_url(str(out))
    before = stored_columns(out)
    reset_rows(open_store(url, mode="r+"), [Status.MISSING])
    others = {name: values[:4][::-1].copy() for name, values in before.items()}
    others["status"][:] = Status.TIMEOUT
    written = write_shard(open_store(url, mode="r+"), others, np.arange(4))
    assert written.tolist() == [False, True, False, False]
    after = stored_columns(out)
    for name, values in before.items():
        np.testing.assert_array_equal(after[name][[0, 2, 3]], values[[0, 2, 3]])
        np.testing.assert_array_equal(after[name][1], others[name][1])


def test_a_row_left_pending_by_its_columns_is_refused(mended, tmp_path):
    _, out = copied(mended, tmp_path)
    url = store_url(str(out))
    reset_rows(open_store(url, mode="r+"), [Status.MISSING])
    before = objects(out)
    columns = {name: values[:4].copy() for name, values in stored_columns(out).items()}
    with pytest.raises(StoreError, match="still pending"):
        write_shard(open_store(url, mode="r+"), columns, np.arange(4))
    assert objects(out) == before
