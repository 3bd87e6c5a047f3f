"""What the driver of a run reads and writes of its store, and what it says when that is gone."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.manifest import METADATA_KEYS, SCHEMA, read_manifest, write_manifest
from pipeline.errors import LeaseLostError, StorageError, StoreError, StoreGoneError
from pipeline.status import Status
from pipeline.store.create import consolidate, create_store
from pipeline.store.lease import leased
from pipeline.store.ledger import Ledger
from pipeline.store.opening import open_store
from pipeline.store.pace import Pace, read_pace
from pipeline.store.run_folder import store_url
from tests.support.stores import LAYOUT, RECORD, write

PACE = Pace(2.0, {"decode": 0.5, "transfer": 0.0, "model": 1.0, "storage": 0.1})


@pytest.fixture
def run(tmp_path):
    """Folder of a run of ten rows in three shards, of which nothing is written yet."""
    run = str(tmp_path / "run")
    create_store(store_url(run), RECORD)
    return run


@pytest.fixture
def ledger(run, tmp_path):
    metadata = dict(zip(METADATA_KEYS, ("1", "/clips", "files"), strict=True))
    rows = [{"video_id": f"v{n}", "path": f"v{n}.mp4"} for n in range(LAYOUT.n_rows)]
    url = str(tmp_path / "m.parquet")
    write_manifest(pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata)), url)
    return Ledger(run, store_url(run), read_manifest(url))


def written(run, *shards):
    """Write shards as a worker does: by a store that it has opened itself."""
    store = open_store(store_url(run), mode="r+")
    for shard in shards:
        write(store, shard)
    store.array("status")[2] = Status.TIMEOUT


def is_consolidated(run):
    return "consolidated_metadata" in json.loads(Path(store_url(run), "zarr.json").read_text())


def test_what_is_left_is_read_as_it_is_by_now(run, ledger):
    assert ledger.begin().shards.tolist() == [0, 1, 2]
    written(run, 0, 2)
    assert ledger.left().shards.tolist() == [1]


def test_every_row_is_told_and_the_failed_ones_are_listed(run, ledger):
    written(run, 0)
    summary = ledger.close()
    assert summary.n_pending == 6
    assert summary.counts[Status.TIMEOUT] == 1
    assert pq.read_table(Path(run, "failures.parquet"))["video_id"].to_pylist()[-1] == "v2"


def test_metadata_lie_side_by_side_only_while_no_row_is_pending(run, ledger):
    written(run, 0, 1)
    ledger.close()
    assert not is_consolidated(run)
    consolidate(open_store(store_url(run), mode="r+"))
    ledger.begin()
    assert not is_consolidated(run)
    written(run, 2)
    ledger.close()
    assert is_consolidated(run)
    ledger.begin()
    assert is_consolidated(run)


def test_a_pace_is_noted_and_no_run_fails_where_it_can_not_be(run, ledger):
    ledger.note(PACE)
    assert read_pace(run) == PACE
    Path(run, "pace.json").unlink()
    Path(run, "pace.json").mkdir()
    ledger.note(PACE)


def test_who_has_lost_the_lease_is_told_before_anything_is_written(run, ledger):
    with leased(run, verb="attribute") as lease:
        driver = Ledger(ledger.run_url, ledger.store_url, ledger.manifest, lease)
        driver.left()
        driver.close()
        Path(run, "failures.parquet").unlink()
        Path(lease.url).unlink()
        for read in (driver.left, driver.close):
            with pytest.raises(LeaseLostError, match=r"lease\.json, is gone"):
                read()
    assert not Path(run, "failures.parquet").exists()


def test_an_error_says_if_the_store_was_deleted(run, ledger):
    error = OSError("the disk is full")
    assert str(ledger.explained(error)) == "the disk is full"
    assert type(ledger.explained(error)) is StorageError
    shutil.rmtree(store_url(run))
    with pytest.raises(StoreError, match="there is no store"):
        ledger.left()
    gone = ledger.explained(error)
    assert type(gone) is StoreGoneError
    assert str(gone) == f"{store_url(run)} was deleted while the run went on"
    Path(store_url(run)).mkdir()
    Path(store_url(run), "mine").touch()
    assert "delete what was written there since" in str(ledger.explained(error))
