"""Rows that are computed again have the bits that are stored; a changed value is seen."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from jobs.cli import run_job
from jobs.verify import VerifyConfig, verify
from pipeline.errors import StoreError
from pipeline.run.recompute import plan_again, recompute, sample_rows
from pipeline.run.serial import execute_serially
from pipeline.status import Status
from pipeline.store.opening import open_store
from pipeline.store.removed import remove_rows
from pipeline.store.run_folder import store_url
from tests.support.clips import write_mp4
from tests.support.runs import prepared, random_frames, tree, write_inputs

pytestmark = pytest.mark.usefixtures("one_thread")
N_CLIPS = 10


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("recompute"), N_CLIPS, {3: "empty"})


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    execute_serially(prepared(inputs.config(out)))
    return out


@pytest.fixture
def out(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run"))


def opened(out, mode="r"):
    return open_store(store_url(str(out)), mode=mode)


def differences(out, rows):
    store = opened(out)
    return recompute(plan_again(str(out), store), store, np.array(rows))


def test_rows_have_equal_bits_also_failed_ones_and_one_of_a_batch(out):
    assert differences(out, [0, 3, 5, 8, 9]) == []


def test_rows_of_a_run_that_was_stopped_have_equal_bits_by_a_backward_pass_too(inputs, tmp_path):
    out = tmp_path / "run"
    given = {"method": {"name": "libragrad"}, "precision": "bfloat16"}
    execute_serially(prepared(inputs.config(out, **given)))
    stopped = opened(out, "r+")
    before = {name: stopped.array(name)[:] for name in ("spatial", "temporal", "signed", "target")}
    stopped.array("status")[4:8] = int(Status.PENDING)
    execute_serially(prepared(inputs.config(out, **given)))
    for name, values in before.items():
        np.testing.assert_array_equal(opened(out).array(name)[:], values)
    assert differences(out, range(N_CLIPS)) == []


def test_a_changed_value_is_named_with_how_far_it_is_off(out):
    store = opened(out, "r+")
    maps = store.array("temporal")[5]
    maps[0] += 0.25
    store.array("temporal")[5] = maps
    store.array("prediction")[8] = 77
    store.array("message")[3] = "another"
    changed = differences(out, range(N_CLIPS))
    assert [(one.row, one.arrays) for one in changed] == [
        (3, ("message",)),
        (5, ("temporal",)),
        (8, ("prediction",)),
    ]
    assert changed[1].largest == pytest.approx(0.25)
    assert str(changed[1]).startswith("row 5: temporal differ by 0.25 at the most")


def test_a_file_that_has_changed_is_the_reason(inputs, out, tmp_path):
    store = opened(out)
    plan = plan_again(str(out), store)
    clip = (
        Path(plan.manifest.root.removeprefix("file://"))
        / plan.manifest.rows(0, 1)["path"][0].as_py()
    )
    whole = clip.read_bytes()
    try:
        write_mp4(clip, random_frames(9, seed=99))
        (changed,) = recompute(plan, store, np.array([0]))
    finally:
        clip.write_bytes(whole)
    assert "clip_digest" in changed.arrays
    assert changed.reason == "the file has changed since"


def test_what_is_drawn_is_done_and_not_removed(out):
    store = opened(out, "r+")
    remove_rows(store, np.array([1]))
    store.array("status")[8:] = int(Status.PENDING)
    drawn = sample_rows(opened(out), 100, np.random.default_rng(0))
    assert drawn.tolist() == [0, 2, 3, 4, 5, 6, 7]
    assert len(sample_rows(opened(out), 3, np.random.default_rng(0))) == 3


def test_another_model_than_the_runs_is_told(inputs, out, tmp_path):
    group = opened(out, "r+").group
    group.attrs["identity"] = group.attrs["identity"] | {"batch_size": 4}
    store = opened(out)
    with pytest.raises(StoreError, match=r"made of something else .* batch_size was 4 and is 2"):
        plan_again(str(out), store)


def test_a_configuration_of_another_release_is_told(out):
    group = opened(out, "r+").group
    group.attrs["config"] = group.attrs["config"] | {"of_later": 1}
    with pytest.raises(StoreError, match="can't run its configuration: of_later: "):
        plan_again(str(out), opened(out))


def test_the_command_compares_a_sample_and_changes_nothing(out, capsys):
    before = tree(out)

    def run(*flags):
        return run_job(VerifyConfig, verify, verb="verify", argv=[str(out), *flags])

    assert run("--sample=4") == 0
    assert "verify: 4 of 4 rows have equal bits, computed again" in capsys.readouterr().out
    assert tree(out) == before
    opened(out, "r+").array("probability")[:] = np.float32(0.5)
    assert run("--sample=100") == 1
    told = capsys.readouterr()
    assert "verify: row 0: probability differ by " in told.out
    assert told.err.splitlines()[-1].startswith("verify: error: 10 of 10 rows of ")
    assert run() == 0
