"""Whoever reads a row again is told if its file is another than before."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.clips.fetch import OTHER_FILE
from pipeline.run.config import OneCall
from pipeline.run.job import real_stages
from pipeline.run.plan import plan_run
from pipeline.run.recompute import plan_again
from pipeline.run.reread import changed_files, read_before, reading_again
from pipeline.run.serial import execute_serially
from pipeline.run.tally import LocalChannel, Tally
from pipeline.status import Status
from pipeline.store.opening import open_store
from tests.support.clips import write_mp4
from tests.support.runs import (
    assert_same_columns,
    prepared,
    random_frames,
    run_attribute,
    stored_columns,
    write_inputs,
)

N_CLIPS = 9
SHORT = {1: "too_short", 4: "truncated", 5: "missing", 6: "too_short"}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    inputs = write_inputs(tmp_path_factory.mktemp("reread"), N_CLIPS, SHORT)
    out = tmp_path_factory.mktemp("made") / "run"
    assert run_attribute(inputs.flags(out, "--max-failed-fraction=1", "--serial")) == 0
    return inputs, out


@pytest.fixture
def run(made, tmp_path):
    """Inputs, and a finished run that a test may change."""
    inputs, out = made
    return inputs, shutil.copytree(out, tmp_path / "run")


@pytest.fixture
def replaced(made):
    """Put another file in the place of a row's; it is put back afterwards."""
    inputs, _ = made
    kept = []

    def replace(row, n_frames=12):
        clip = Path(inputs.manifest).parent / "clips" / f"{inputs.video_ids[row]}.mp4"
        kept.append((clip, clip.read_bytes() if clip.exists() else None))
        write_mp4(clip, random_frames(n_frames, seed=100 + row))
        return clip

    yield replace
    for clip, data in kept:
        clip.unlink() if data is None else clip.write_bytes(data)


def retry(inputs, out, capsys, *more):
    """Last lines of a call that computes failed rows again, and its exit code."""
    capsys.readouterr()
    code = run_attribute(inputs.flags(out, "--max-failed-fraction=1", "--serial", *more))
    return code, [line for line in capsys.readouterr().err.splitlines() if "other files" in line]


def test_retried_rows_of_other_files_are_named_on_one_line(run, replaced, capsys):
    inputs, out = run
    for row in (1, 4, 5):
        replaced(row)
    code, told = retry(inputs, out, capsys, "--retry-failed=all")
    assert code == 0
    # There was no file of row 5 before, and that of row 6 is the same.
    names = [inputs.video_ids[row] for row in (1, 4)]
    assert told == [
        "attribute: 2 of 3 rows that were read again are of other files than before: "
        f"row 1 ({names[0]}.mp4), row 4 ({names[1]}.mp4)"
    ]
    assert stored_columns(out)["status"][[1, 4, 5]].tolist() == [Status.OK] * 3


def test_nothing_is_said_where_files_are_the_same(run, capsys):
    inputs, out = run
    assert retry(inputs, out, capsys, "--retry-failed=all") == (0, [])


def test_rows_that_were_repaired_are_read_again_too(run, replaced, capsys):
    inputs, out = run
    before = stored_columns(out)
    open_store(f"{out}/attributions.zarr", mode="r+").array("status")[:4] = 0
    replaced(0)
    _, (line,) = retry(inputs, out, capsys)
    assert "1 of 4 rows that were read again are of other files than before: row 0 (" in line
    after = stored_columns(out)
    unchanged = np.arange(1, N_CLIPS)
    assert_same_columns(
        {name: values[unchanged] for name, values in after.items()},
        {name: values[unchanged] for name, values in before.items()},
    )


def test_a_new_run_and_one_that_is_made_over_have_read_nothing_before(run, tmp_path):
    inputs, out = run
    for config, call in (
        (inputs.config(tmp_path / "new"), OneCall()),
        (inputs.config(out), OneCall(overwrite=True)),
        (inputs.config(out), OneCall()),
    ):
        assert not len(read_before(plan_run(config, call)).rows)


def test_of_many_only_some_are_named(run, replaced, capsys):
    inputs, out = run
    open_store(f"{out}/attributions.zarr", mode="r+").array("status")[:] = 0
    for row in (0, 2, 3, 7, 8):
        replaced(row)
    _, (line,) = retry(inputs, out, capsys)
    assert line.count("row ") == 3
    assert line.endswith("and 2 more")


def test_a_damaged_digest_is_no_fault(run):
    inputs, out = run
    plan = plan_run(inputs.config(out), OneCall(retry_failed=("all",)))
    assert read_before(plan).rows.tolist() == [1, 4, 6]
    for path in (out / "attributions.zarr" / "clip_digest").rglob("*"):
        if path.is_file() and path.name != "zarr.json":
            path.write_bytes(b"damaged")
    assert not len(read_before(plan).rows)


def test_a_store_from_before_there_were_digests_says_nothing(inputs_without_digests):
    plan, before = inputs_without_digests
    assert not len(before.rows)
    assert changed_files(plan, before) == ""


@pytest.fixture
def inputs_without_digests(made, tmp_path):
    inputs, _ = made
    config = inputs.config(tmp_path / "old")
    plan = prepared(config)
    execute_serially(plan)
    store = open_store(plan.store_url, mode="r+")
    attributes = store.group.attrs.asdict()
    attributes["layout"]["optional"].remove("clip_digest")
    store.group.update_attributes(attributes)
    again = plan_run(config, OneCall(retry_failed=("all",)))
    return again, read_before(again)


def loaded(plan, rows):
    """Columns that the stages of a plan load of some rows of its manifest."""
    table = plan.manifest.take(np.asarray(rows))
    columns = {name: table[name].to_numpy() for name in table.column_names}
    load = real_stages(plan, "cpu", LocalChannel(Tally(4))).load
    return load(columns | {"row": np.asarray(rows)})


def test_a_clip_that_is_looked_at_again_is_told_to_be_another_file(run, replaced):
    _, out = run
    replaced(2)
    # What is too short says so, whatever it was before.
    replaced(3, n_frames=2)
    store = open_store(f"{out}/attributions.zarr")
    plan = plan_again(str(out), store)
    rows = np.array([0, 1, 2, 3, 5])
    again = loaded(reading_again(plan, store, rows), rows)
    plainly = loaded(plan, rows)
    assert again["status"].tolist()[2] == Status.UNREADABLE
    assert again["message"][2] == OTHER_FILE
    assert not again["frames"][2].any()
    assert set(again["frame_index"][2].tolist()) == {-1}
    assert again["status"].tolist()[3] == Status.TOO_SHORT
    others = [0, 1, 3, 4]
    assert_same_columns(
        {name: values[others] for name, values in again.items()},
        {name: values[others] for name, values in plainly.items()},
    )
