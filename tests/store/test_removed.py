"""Rows are matched by id or by path, and removed shard by shard, again and again."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import LeaseLostError, StoreError
from pipeline.status import Status
from pipeline.store.create import create_store
from pipeline.store.failures import write_failures_table
from pipeline.store.opening import open_store
from pipeline.store.removed import (
    Removals,
    delete_derived,
    digest_of_name,
    matching_rows,
    remove_rows,
)
from pipeline.store.run_folder import DERIVED_NAMES, FAILURES_NAME, PACE_NAME, failures_url
from pipeline.store.verify import verify_store
from tests.support.records import record_of
from tests.support.stores import CHECKED, objects


def test_rows_are_found_by_the_digests_of_stored_ids(store):
    ids = store.array("video_id")[:]
    names = frozenset(map(digest_of_name, [str(ids[1]), str(ids[9]), "nobody"]))
    matches = matching_rows(store, None, names)
    assert matches.rows.tolist() == [1, 9]
    assert matches.found == names - {digest_of_name("nobody")}


def test_removing_twice_is_removing_once_and_leaves_other_shards_alone(store, url):
    untouched = {name: data for name, data in objects(url).items() if "c/1" in name}
    remove_rows(store, np.array([0, 3, 9]))
    once = objects(url)
    remove_rows(open_store(url, mode="r+"), np.array([0, 3, 9]))
    assert objects(url) == once
    assert {name: data for name, data in once.items() if "c/1" in name} == untouched
    assert np.flatnonzero(store.array("status")[:] == Status.REMOVED).tolist() == [0, 3, 9]
    assert verify_store(open_store(url)) == []


def test_rows_of_a_shard_that_was_never_written_are_no_damage(url):
    store = create_store(url, record_of(CHECKED))
    remove_rows(store, np.array([5]))
    assert verify_store(open_store(url)) == []


def test_who_lost_the_lease_removes_nothing(store, url):
    class Lost:
        def check(self):
            raise LeaseLostError("somebody else")

    before = objects(url)
    with pytest.raises(LeaseLostError):
        remove_rows(store, np.array([0, 9]), Lost())
    assert objects(url) == before


def test_what_is_remembered_holds_no_name(tmp_path):
    run = str(tmp_path / "run")
    assert Removals.read(run) == Removals()
    removals = Removals() | ["a name", "täst/\udcff.mp4"]
    removals.write(run)
    assert "name" not in (tmp_path / "run" / "removed.json").read_text().replace('"names"', "")
    assert Removals.read(run) == removals
    assert not removals.is_erased
    assert removals.finished().is_erased


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', '{"version": 1}'])
def test_what_is_remembered_and_can_not_be_read_is_an_error(tmp_path, text):
    (tmp_path / "removed.json").write_text(text)
    with pytest.raises(StoreError, match=r"removed\.json"):
        Removals.read(str(tmp_path))


def test_whatever_jobs_derive_of_a_run_is_deleted_but_its_pace_and_other_failures(tmp_path):
    for name in DERIVED_NAMES:
        if name == FAILURES_NAME:
            write_failures_table(
                pa.table({"row": [1, 2], "path": ["a", "b"]}), failures_url(str(tmp_path))
            )
        else:
            (tmp_path / name).mkdir()
            (tmp_path / name / "part").write_text("of a clip")
    deleted = delete_derived(str(tmp_path), np.array([2]))
    assert {"interventions", "faithfulness", "report", "scores.parquet"} <= set(deleted)
    assert {path.name for path in tmp_path.iterdir()} == {FAILURES_NAME, PACE_NAME}
    assert pq.read_table(tmp_path / FAILURES_NAME)["path"].to_pylist() == ["a"]
