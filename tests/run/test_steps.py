"""The steps of a run, each alone: what they do to a batch, and what they tell of it."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import View, Views
from pipeline.dataset.manifest import read_manifest
from pipeline.errors import LeaseLostError, StorageError, StoreError
from pipeline.run.gather import concatenated
from pipeline.run.steps import Explain, Load, Stages, Write, read_rows
from pipeline.run.tally import LocalChannel, Tally
from pipeline.status import Status
from pipeline.store.create import create_store
from pipeline.store.opening import open_store
from pipeline.store.pending import pending_rows
from pipeline.store.shards import write_shard
from tests.benchmarks.orchestration import write_stand_in_manifest
from tests.support.stores import LAYOUT, RECORD, columns_of, objects

ONE_VIEW = View(Sampling("uniform", 4), Preprocessing(shortest_edge=32))


@pytest.fixture
def url(tmp_path):
    url = str(tmp_path / "attributions.zarr")
    create_store(url, RECORD)
    return url


@pytest.fixture
def channel():
    return LocalChannel(Tally(LAYOUT.rows_per_shard))


def pending(url):
    return pending_rows(open_store(url))


@pytest.mark.parametrize("n_views", [1, 3])
def test_rows_are_those_of_the_manifest_repeated_for_their_views(tmp_path, n_views):
    write_stand_in_manifest(tmp_path / "m.parquet", 9)
    manifest = read_manifest(str(tmp_path / "m.parquet"))
    rows = range(4, 8)
    table = read_rows(manifest, rows, Views((ONE_VIEW,) * n_views))
    assert table["row"].to_pylist() == list(rows)
    assert table["video_id"].to_pylist() == [f"video-{row // n_views:09d}" for row in rows]


@dataclass
class NotingLoader:
    rows: list = field(default_factory=list)

    def __call__(self, rows):
        self.rows.extend(rows["row"].tolist())
        n_clips = len(rows["row"])
        return {
            "row": rows["row"],
            "frames": np.full((n_clips, 2), 7, np.uint8),
            "status": np.full(n_clips, Status.OK, np.uint8),
            "message": np.full(n_clips, "x", object),
        }


def test_rows_that_are_done_keep_their_place_and_are_not_loaded(url, channel):
    open_store(url, mode="r+").array("status")[2] = Status.OK
    loader = NotingLoader()
    loaded = Load(loader, pending(url), channel)({"row": np.arange(4)})
    assert loader.rows == [0, 1, 3]
    assert loaded["row"].tolist() == [0, 1, 2, 3]
    assert loaded["status"].tolist() == [1, 1, Status.PENDING, 1]
    assert loaded["frames"].tolist() == [[7, 7], [7, 7], [0, 0], [7, 7]]
    assert loaded["message"].tolist() == ["x", "x", "", "x"]
    assert channel.tally.progress().decoded == 3


def test_a_load_that_fails_tells_the_rows_that_it_was_for(url, channel):
    def away(rows):
        raise StorageError("clips/a.mp4: away")

    with pytest.raises(StorageError):
        Load(away, pending(url), channel)({"row": np.arange(4, 8)})
    (fault,) = channel.tally.end_pass()
    assert (fault.stage, fault.rows, fault.reason) == ("decode", (4, 7), "clips/a.mp4: away")


class Scaling:
    def __init__(self, by):
        self.by = by

    def __call__(self, batch):
        return {"row": batch["row"], "scaled": batch["row"] * self.by}


def test_the_model_is_made_once_and_only_pending_rows_are_told_as_explained(channel):
    stages = Stages(load=None, attribute=Scaling, attribute_arguments={"by": 3}, attribute_bytes=1)
    explain = Explain(stages, channel, 4)
    batch = {"row": np.arange(3), "status": np.array([1, 0, 4], np.uint8)}
    assert explain(batch)["scaled"].tolist() == [0, 3, 6]
    assert channel.tally.progress().explained == 2


def shard(n):
    rows = LAYOUT.shard_rows(n)
    return columns_of(LAYOUT, rows) | {
        "row": np.asarray(rows),
        "status": np.full(len(rows), Status.OK, np.uint8),
    }


def write_to(url, channel, write=write_shard, lease=None):
    return Write(url, "run-1", write, pending(url), channel, lease)


def test_a_shard_is_written_and_told_once(url, channel, caplog):
    caplog.set_level("INFO", "pipeline")
    write = write_to(url, channel)
    columns = shard(1)
    columns["status"][1] = Status.MISSING
    write(columns)
    store = open_store(url)
    np.testing.assert_array_equal(store.array("spatial")[4:8], columns["spatial"])
    assert store.array("video_id")[4:8].tolist() == columns["video_id"].tolist()
    # A task that is tried again writes the same bytes again: who wrote them may not have told.
    before = objects(url)
    write(columns)
    assert objects(url) == before
    progress = channel.tally.progress()
    assert (progress.committed, progress.failed) == (4, 1)
    records = [(record.message, record.fields["shard"]) for record in caplog.records]
    assert records == [("shard committed", 1), ("shard committed", 1)]
    assert caplog.records[0].fields["missing"] == 1


def test_a_shard_of_which_rows_are_done_keeps_them(url, channel, caplog):
    write_to(url, channel)(shard(1))
    store = open_store(url, mode="r+")
    kept = store.array("spatial")[4:8]
    store.array("status")[5:6] = Status.PENDING
    others = {name: values.copy() for name, values in shard(1).items()}
    others["spatial"] += np.float16(1)
    write_to(url, channel)(others)
    stored = open_store(url).array("spatial")[4:8]
    np.testing.assert_array_equal(stored[[0, 2, 3]], kept[[0, 2, 3]])
    np.testing.assert_array_equal(stored[1], others["spatial"][1])


def test_what_is_not_one_shard_is_refused_and_told(url, channel):
    columns = {name: values[:3] for name, values in shard(1).items()}
    with pytest.raises(StoreError, match="not a whole shard"):
        write_to(url, channel)(columns)
    (fault,) = channel.tally.end_pass()
    assert (fault.stage, fault.rows) == ("write", (4, 6))
    assert channel.tally.progress().committed == 0


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (OSError(28, "No space left on device"), "attributions.zarr"),
        (PermissionError(13, "Permission denied", "/run/spatial/c/1"), "/run/spatial/c/1"),
    ],
)
def test_a_storage_that_refuses_is_told_with_the_object_or_the_store(url, channel, error, where):
    def refuse(store, columns, rows, **known):
        raise error

    with pytest.raises(StorageError, match=f"can't write .*{where}: {error.strerror}"):
        write_to(url, channel, refuse)(shard(0))
    (fault,) = channel.tally.end_pass()
    assert fault.reason.endswith(f"{where}: {error.strerror}")


class LostLease:
    token = "lost"

    def check(self):
        raise LeaseLostError("taken over")


def test_nothing_is_written_once_the_lease_is_lost(url, channel):
    with pytest.raises(LeaseLostError):
        write_to(url, channel, lease=LostLease())(shard(0))
    assert pending(url).n_rows == LAYOUT.n_rows


def test_batches_are_put_together_in_their_order():
    batches = [{"row": np.arange(2)}, {"row": np.arange(2, 5)}]
    assert concatenated(batches)["row"].tolist() == [0, 1, 2, 3, 4]
