"""How far a run is, from its store alone: new, half done, with failures, damaged."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import StoreError
from pipeline.status import Status
from pipeline.store.create import create_store
from pipeline.store.run_folder import store_url
from pipeline.store.schema import StoreLayout
from pipeline.store.shards import write_shard
from pipeline.store.state import read_state, summarise
from tests.support.records import record_of
from tests.support.stores import IDENTITY, LAYOUT, columns_of


def write_run(folder, codes):
    """A run whose shards are written as far as none of their rows is pending."""
    layout = StoreLayout(**{**vars(LAYOUT), "n_rows": len(codes)})
    group = create_store(store_url(str(folder)), record_of(layout))
    codes = np.array(codes, np.uint8)
    for shard in range(layout.n_shards):
        rows = np.array(layout.shard_rows(shard))
        if codes[rows].all():
            write_shard(group, columns_of(layout, rows) | {"status": codes[rows]}, rows)
    return group


def test_a_run_that_has_just_begun(tmp_path):
    write_run(tmp_path / "run", [0] * 10)
    state = read_state(str(tmp_path / "run"))
    assert state.run.startswith("run-")
    assert (state.n_shards, state.n_shards_done, state.last_written) == (3, 0, None)
    assert state.summary.counts == {Status.PENDING: 10}
    assert state.examples == {}
    assert state.to_json()["complete"] is False


def test_rows_shards_and_the_first_failure_of_each_kind(tmp_path):
    before = datetime.now(UTC)
    write_run(tmp_path / "run", [1, 2, 1, 2, 0, 0, 0, 0, 7, 1])
    state = read_state(str(tmp_path / "run"))
    assert state.summary.counts == {
        Status.PENDING: 4,
        Status.OK: 3,
        Status.MISSING: 2,
        Status.TIMEOUT: 1,
    }
    assert (state.n_shards, state.n_shards_done) == (3, 2)
    first = state.examples[Status.MISSING]
    assert (first.row, first.video_id, first.message) == (1, "video_id 1 é", "message 1 é")
    assert state.examples[Status.TIMEOUT].row == 8
    assert set(state.examples) == {Status.MISSING, Status.TIMEOUT}
    assert abs((state.last_written - before).total_seconds()) < 3600
    assert state.last_written.utcoffset().total_seconds() == 0
    assert state.manifest == {"url": "clips.parquet", "digest": IDENTITY.manifest}


def test_the_same_as_plain_values_for_programs(tmp_path):
    write_run(tmp_path / "run", [1, 2, 1, 1, 1, 1, 1, 1, 1, 1])
    told = json.loads(json.dumps(read_state(str(tmp_path / "run")).to_json()))
    assert told["complete"] is True
    assert told["rows"] == {
        "total": 10,
        "done": 10,
        "pending": 0,
        "failed": 1,
        "by_status": {"ok": 9, "missing": 1},
    }
    assert told["shards"] == {"total": 3, "done": 3}
    assert told["failures"]["missing"]["row"] == 1
    assert datetime.fromisoformat(told["last_written"]).utcoffset() is not None


def test_a_message_that_can_not_be_read_is_named_with_its_row(tmp_path):
    write_run(tmp_path / "run", [1, 1, 1, 1, 1, 2, 1, 1, 1, 1])
    (Path(store_url(str(tmp_path / "run"))) / "message" / "c" / "1").write_bytes(b"\0")
    with pytest.raises(StoreError, match="message: row 5 can't be read"):
        read_state(str(tmp_path / "run"))


def test_where_no_store_is_it_says_so(tmp_path):
    with pytest.raises(StoreError, match="no store at "):
        read_state(str(tmp_path / "none"))


def test_a_summary_counts_every_row_once_and_tells_shares():
    summary = summarise(np.array([0, 1, 1, 2, 7, 7], np.uint8), seconds=2)
    assert summary.n_rows == 6
    assert (summary.n_pending, summary.n_failed) == (1, 3)
    assert summary.failed_fraction == pytest.approx(3 / 6)


@pytest.mark.parametrize(
    ("codes", "fraction"),
    [
        ([Status.OK] * 8 + [Status.TOO_SHORT] * 2, 0.0),
        ([Status.OK] * 7 + [Status.TOO_SHORT] * 2 + [Status.MISSING], 0.1),
        # Where none is ok, the model is the wrong one.
        ([Status.TOO_SHORT] * 9 + [Status.MISSING], 1.0),
        ([Status.OK] * 5 + [Status.REMOVED] * 5, 0.0),
    ],
)
def test_clips_that_are_too_short_are_not_held_against_a_run_of_others(codes, fraction):
    summary = summarise(np.array(codes, np.uint8), seconds=0)
    assert summary.failed_fraction == pytest.approx(fraction)
