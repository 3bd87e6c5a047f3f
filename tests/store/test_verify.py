"""Damage to a store is seen, named and repaired: single bits, cut ends, lost objects."""

import datetime
import random
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import StoreError
from pipeline.status import Status
from pipeline.store.create import create_store
from pipeline.store.opening import open_store
from pipeline.store.pending import pending_rows, read_status
from pipeline.store.shards import write_shard
from pipeline.store.verify import repair_store, verify_store
from tests.support.records import record_of
from tests.support.stores import CHECKED, LAYOUT, columns_of, write

SEED = datetime.datetime.now(datetime.UTC).date().toordinal()
"""Of the day, so that other objects are damaged every day."""


@pytest.fixture(autouse=True)
def seed():
    print(f"seed {SEED}")
    return random.Random(SEED)


def objects_of(url):
    return sorted(
        path for path in Path(url).rglob("*") if path.is_file() and path.name != "zarr.json"
    )


def test_a_whole_store_has_no_damage(store, url):
    seen = []
    assert verify_store(open_store(url), on_shard=seen.append) == []
    assert seen == [0, 1, 2]


def test_what_is_not_committed_is_not_missed(url):
    write(create_store(url, record_of(CHECKED)), 1)
    assert verify_store(open_store(url)) == []


def test_every_flipped_bit_of_a_commit_mark_is_seen(store, url):
    path = Path(url) / "status" / "c" / "1"
    whole, opened = path.read_bytes(), open_store(url)
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert [damage.array for damage in verify_store(opened)] == ["status"], bit
    path.write_bytes(whole)


def flipped(data, seed):
    bit = seed.randrange(8 * len(data))
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def cut(data, seed):
    return data[: seed.randrange(len(data))]


def zeroed(data, seed):
    return bytes(len(data))


@pytest.mark.parametrize("damage", [flipped, cut, zeroed])
def test_damage_is_named_by_object_and_rows(store, url, damage, seed):
    for path in seed.sample(objects_of(url), 20):
        whole = path.read_bytes()
        path.write_bytes(damage(whole, seed))
        (found,) = verify_store(open_store(url))
        assert found.url == str(path)
        name, _, shard, *_ = path.relative_to(url).parts
        assert (found.array, found.shard) == (name, int(shard))
        assert found.rows == CHECKED.shard_rows(int(shard))
        assert len(str(found).splitlines()) == 1
        path.write_bytes(whole)


@pytest.mark.parametrize("name", sorted(set(LAYOUT.arrays()) - {"status"}))
def test_a_lost_object_is_named_also_if_it_held_fill_values_alone(url, name):
    store = create_store(url, record_of(CHECKED))
    rows = range(4, 8)
    filled = CHECKED.arrays()[name].filled(4)
    write_shard(store, columns_of(CHECKED, rows) | {name: filled}, np.array(rows))
    assert verify_store(open_store(url)) == []
    Path(open_store(url).object_url(name, 1)).unlink()
    (found,) = verify_store(open_store(url))
    assert (found.array, found.shard, found.reason) == (name, 1, "the object is lost")


def test_a_repaired_store_goes_on_with_the_damaged_shards_alone(store, url, seed):
    before = {path: path.read_bytes() for path in objects_of(url)}
    for shard in (0, 2):
        path = Path(open_store(url).object_url(seed.choice(["spatial", "label", "status"]), shard))
        path.write_bytes(flipped(path.read_bytes(), seed))
    opened = open_store(url, mode="r+")
    rows = repair_store(opened, verify_store(opened))
    assert rows.tolist() == [0, 1, 2, 3, 8, 9]
    assert verify_store(open_store(url)) == []
    assert pending_rows(open_store(url)).shards.tolist() == [0, 2]
    for shard in (0, 2):
        write(open_store(url, mode="r+"), shard)
    assert {path: path.read_bytes() for path in objects_of(url)} == before


@pytest.mark.parametrize("text", [None, "", "{", "{}"])
def test_lost_or_damaged_metadata_of_an_array_is_written_again(store, url, text):
    path = Path(url) / "temporal" / "zarr.json"
    whole = path.read_text()
    path.unlink() if text is None else path.write_text(text)
    (found,) = verify_store(open_store(url))
    assert found.url == str(path)
    opened = open_store(url, mode="r+")
    assert repair_store(opened, [found]).tolist() == []
    assert path.read_text() == whole
    assert verify_store(open_store(url)) == []


def test_a_code_that_no_release_knows_is_damage(store, url):
    open_store(url, mode="r+").array("status")[5] = 77
    (found,) = verify_store(open_store(url))
    assert found.reason == "holds codes [77]"


def test_an_old_store_is_read_as_far_as_it_can_be(group, url):
    for shard in range(3):
        write(group, shard)
    group.array("status")[:] = int(Status.OK)
    assert not open_store(url).layout.checksums
    assert verify_store(open_store(url)) == []
    Path(open_store(url).object_url("spatial", 1)).unlink()
    (found,) = verify_store(open_store(url))
    assert (found.array, found.shard) == ("spatial", 1)


def test_a_commit_mark_that_can_not_be_read_leads_to_verify(store, url):
    path = Path(store.object_url("status", 2))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"status/c/2 can't be read: .*; jobs.verify names"):
        read_status(open_store(url))
