"""Preparing makes what a plan needs, and nothing else: the store, its new rows, rows to retry."""

import pyarrow.parquet as pq
import pytest

from pipeline.dataset.manifest import write_manifest
from pipeline.errors import RunMismatchError, StoreError
from pipeline.run.config import OneCall
from pipeline.run.frames import with_frames
from pipeline.run.plan import plan_run
from pipeline.run.prepare import absolute_url, caches_of, prepare
from pipeline.run.serial import execute_serially
from pipeline.status import Status
from pipeline.store.opening import open_store
from pipeline.store.pending import pending_rows, read_status
from pipeline.store.run_folder import CACHES_NAME
from pipeline.store.verify import verify_store
from tests.support.runs import tree, write_inputs

N_ROWS = 6


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("prepare"), N_ROWS)


def prepared(config, **call):
    plan = plan_run(config, OneCall(**call))
    return plan, prepare(plan)


@pytest.fixture
def run(inputs, tmp_path):
    """Configuration of a run whose rows have several statuses."""
    config = inputs.config(tmp_path / "run")
    plan, _ = prepared(config)
    codes = [Status.OK, Status.TIMEOUT, Status.OK, Status.MISSING, Status.OK, Status.PENDING]
    open_store(plan.store_url, mode="r+").array("status")[:] = codes
    return config, plan.store_url, [int(code) for code in codes]


def statuses(url):
    return read_status(open_store(url)).tolist()


def test_a_new_runs_store_says_what_the_plan_does_and_every_row_is_pending(inputs, tmp_path):
    plan, retried = prepared(inputs.config(tmp_path / "run"))
    store = open_store(plan.store_url)
    assert store.record == plan.record
    assert pending_rows(store).n_rows == N_ROWS
    assert retried == {}


def using(inputs, folder, cache, **call):
    """Prepare a run that uses a cache: the caches that are known to have frames of it."""
    config = inputs.config(folder / "run", frames_cache=cache)
    (plan,) = with_frames([plan_run(config, OneCall(**call))], str(folder / "run"))
    prepare(plan)
    return caches_of(config.out, open_store(plan.store_url).record)


def test_each_cache_that_a_run_uses_is_noted_beside_its_store(inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert using(inputs, tmp_path, None) == ()
    assert not (tmp_path / "run" / CACHES_NAME).exists()
    first, second = f"file://{tmp_path}/first", f"file://{tmp_path}/second"
    # One that is given later, and relative to where the job is started.
    assert using(inputs, tmp_path, "first") == (first,)
    assert using(inputs, tmp_path, f"{tmp_path}/second") == (first, second)
    assert using(inputs, tmp_path, None) == (first, second)
    assert using(inputs, tmp_path, None, overwrite=True) == (first, second)


def test_a_cache_that_only_the_record_names_is_noted_before_the_record_changes(
    inputs, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    config = inputs.config(tmp_path / "run", frames_cache="cache")
    store_url = prepared(config)[0].store_url
    note = tmp_path / "run" / CACHES_NAME
    # It had no room, or there was nothing to compute.
    assert caches_of(config.out, open_store(store_url).record) == ()
    # As an earlier release leaves it.
    note.unlink()
    assert caches_of(config.out, open_store(store_url).record) == ("cache",)
    (tmp_path / "cache").mkdir()
    found = f"file://{tmp_path}/cache"
    assert caches_of(config.out, open_store(store_url).record) == (found,)
    assert using(inputs, tmp_path, None, overwrite=True) == (found,)
    assert using(inputs, tmp_path, "other") == (found, f"file://{tmp_path}/other")


def test_a_note_of_caches_that_can_not_be_read_is_told(inputs, tmp_path):
    using(inputs, tmp_path, str(tmp_path / "cache"))
    (tmp_path / "run" / CACHES_NAME).write_text("{}")
    with pytest.raises(StoreError, match=r"frames_caches\.json says which caches"):
        using(inputs, tmp_path, None)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket/a/../b", "s3://bucket/a/../b"),
        ("file:///a/b/", "file:///a/b"),
        ("/a/./b", "file:///a/b"),
    ],
)
def test_a_url_is_absolute_already_and_a_path_becomes_one(url, expected):
    assert absolute_url(url) == expected


def test_going_on_changes_nothing(run, tmp_path):
    config, _, _ = run
    before = tree(tmp_path / "run")
    assert prepared(config)[1] == {}
    assert tree(tmp_path / "run") == before


def test_rows_to_retry_are_pending_and_counted_and_the_others_stay(run):
    config, url, _ = run
    assert prepared(config, retry_failed=("timeout",))[1] == {Status.TIMEOUT: 1}
    assert statuses(url) == [1, 0, 1, int(Status.MISSING), 1, 0]
    assert prepared(config, retry_failed=("timeout",))[1] == {}
    assert prepared(config, retry_failed=("all",))[1] == {Status.MISSING: 1}


def test_overwriting_begins_again_also_as_another_run(run, tmp_path):
    config, url, _ = run
    (tmp_path / "run" / "failures.parquet").write_bytes(b"of the former run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    other = config.model_copy(update={"batch_size": 4})
    plan, _ = prepared(other, overwrite=True)
    assert statuses(url) == [0] * N_ROWS
    assert open_store(url).record == plan.record
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "attributions.zarr",
        "notes.txt",
    }


@pytest.fixture
def longer(run, inputs, tmp_path):
    """The run's configuration with a manifest of three more clips."""
    config, _, _ = run
    table = pq.read_table(inputs.manifest)
    first, path = table.slice(0, 1).to_pylist()[0], str(tmp_path / "longer.parquet")
    more = [first | {"video_id": f"new{n}", "path": f"new{n}.mp4"} for n in range(3)]
    rows = table.to_pylist() + more
    write_manifest(type(table).from_pylist(rows, schema=table.schema), path)
    return config.model_copy(update={"manifest": path})


def test_rows_that_were_added_are_pending_and_the_others_stay(run, longer, tmp_path):
    _, url, codes = run
    plan, _ = prepared(longer, append=True)
    assert statuses(url) == [*codes, 0, 0, 0]
    assert open_store(url).record == plan.record
    # The same command again, and a plain one, find nothing more to do.
    before = tree(tmp_path / "run")
    prepared(longer, append=True)
    prepared(longer)
    assert tree(tmp_path / "run").keys() == before.keys()
    assert statuses(url) == [*codes, 0, 0, 0]


def test_an_append_that_was_cut_off_is_finished_by_a_plain_call(run, longer):
    _, url, codes = run
    plan = plan_run(longer, OneCall(append=True))
    open_store(url, mode="r+").group.attrs.put(plan.record.to_attributes())
    assert open_store(url).array("status").shape == (N_ROWS,)
    prepared(longer)
    store = open_store(url)
    assert {store.array(name).shape[0] for name in store.layout.arrays()} == {N_ROWS + 3}
    assert statuses(url) == [*codes, 0, 0, 0]


def test_a_store_whose_creation_was_cut_off_is_made_again(inputs, tmp_path):
    plan, _ = prepared(inputs.config(tmp_path / "run"))
    group = open_store(plan.store_url, mode="r+").group
    schema = group.attrs["schema"]
    group.attrs.put({"schema": schema})
    plan, _ = prepared(inputs.config(tmp_path / "run"))
    assert open_store(plan.store_url).record == plan.record


@pytest.mark.parametrize("call", [{}, {"append": True}])
def test_a_store_keeps_the_arrays_that_it_was_made_with(inputs, tmp_path, call):
    """Whatever a new one would get: older ones lack some, and resuming may ask for others."""
    config = inputs.config(tmp_path / "run", pooled=False)
    plan, _ = prepared(config)
    arrays = set(open_store(plan.store_url).layout.arrays())
    assert "pooled" not in arrays
    again, _ = prepared(inputs.config(tmp_path / "run", pooled=True), **call)
    assert set(again.layout.arrays()) == arrays
    assert set(open_store(plan.store_url).layout.arrays()) == arrays
    execute_serially(again)
    store = open_store(plan.store_url)
    assert pending_rows(store).n_rows == 0
    assert not verify_store(store)


def test_a_run_that_was_made_since_the_plan_was_checked_is_not_written_into(inputs, tmp_path):
    plan = plan_run(inputs.config(tmp_path / "run", precision="bfloat16"))
    first, _ = prepared(inputs.config(tmp_path / "run"))
    with pytest.raises(RunMismatchError, match="precision is 'float32' there and 'bfloat16' here"):
        prepare(plan)
    assert open_store(first.store_url).record == first.record
