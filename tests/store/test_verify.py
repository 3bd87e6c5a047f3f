"""Damage to a store is seen, named and repaired: single bits, cut ends, lost objects."""

import datetime
import random
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from zarr.core.sync import sync

from jobs.cli import run_job
from jobs.verify import VerifyConfig, verify
from pipeline.errors import StoreError
from pipeline.status import Status
from pipeline.storage.files import write_bytes
from pipeline.store.append import append_rows
from pipeline.store.create import create_store
from pipeline.store.opening import open_store
from pipeline.store.pending import pending_rows, read_status
from pipeline.store.run_folder import store_url
from pipeline.store.shards import write_shard
from pipeline.store.verify import repair_all, repair_store, verify_store
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


def test_a_damaged_object_is_deleted_by_its_name():
    base = f"memory://{uuid4().hex}"
    for name in ("lr[1]", "lr1"):
        opened = create_store(f"{base}/{name}", record_of(CHECKED))
        for shard in range(3):
            write(opened, shard)
    damaged = open_store(f"{base}/lr[1]", mode="r+")
    write_bytes(damaged.object_url("spatial", 1), b"damaged")
    assert repair_store(damaged, verify_store(damaged)).tolist() == [4, 5, 6, 7]
    assert verify_store(open_store(f"{base}/lr1")) == []
    assert pending_rows(open_store(f"{base}/lr1")).n_rows == 0


def metadata_of(url):
    return {path: path.read_bytes() for path in Path(url).rglob("*/zarr.json")}


@pytest.mark.parametrize("text", [None, "", "{", "{}"])
def test_where_those_of_status_are_damaged_no_other_array_is_told_to_be(store, url, text):
    path = Path(url) / "status" / "zarr.json"
    whole = metadata_of(url)
    path.unlink() if text is None else path.write_text(text)
    others = {each: each.stat().st_ino for each in metadata_of(url) if each != path}
    (found,) = verify_store(open_store(url))
    assert (found.url, found.shard) == (str(path), None)
    opened = open_store(url, mode="r+")
    repair = repair_all(opened, [found])
    assert (repair.rows.tolist(), repair.left) == ([], [])
    assert metadata_of(url) == whole
    assert {each: each.stat().st_ino for each in others} == others
    assert verify_store(open_store(url)) == []


@pytest.mark.parametrize("of", ["status", "spatial", "label"])
def test_what_damaged_metadata_have_hidden_is_repaired_too(store, url, seed, of):
    chunks = [Path(store.object_url(name, 1)) for name in ("spatial", "label")]
    for path in chunks:
        path.write_bytes(flipped(path.read_bytes(), seed))
    (Path(url) / of / "zarr.json").write_text("{")
    opened = open_store(url, mode="r+")
    checks = []
    repair = repair_all(opened, verify_store(opened), check=lambda: checks.append(None))
    assert (repair.rows.tolist(), repair.left) == ([4, 5, 6, 7], [])
    assert len(checks) == (2 if of == "status" else 1)
    assert verify_store(open_store(url)) == []
    assert pending_rows(open_store(url)).shards.tolist() == [1]


def test_metadata_that_are_lost_while_rows_are_appended_are_repaired(store, url):
    longer = replace(CHECKED, n_rows=14)
    append_rows(store, record_of(longer))
    whole = metadata_of(url)
    # As if it was cut off: one array is enlarged, and ``status`` isn't.
    for name in longer.arrays().keys() - {"temporal"}:
        array = open_store(url, mode="r+").group[name]
        array.resize((10, *array.shape[1:]))
    (Path(url) / "status" / "zarr.json").write_text("{")
    opened = open_store(url, mode="r+")
    repair = repair_all(opened, verify_store(opened))
    assert (repair.rows.tolist(), repair.left) == ([], [])
    assert metadata_of(url) == whole
    assert pending_rows(open_store(url)).n_rows == 4


def run_verify(run, *flags):
    return run_job(VerifyConfig, verify, verb="verify", argv=[str(run), *flags])


@pytest.fixture
def run(tmp_path):
    """Folder of a run, whose metadata of ``status`` and one chunk are damaged."""
    folder = tmp_path / "run"
    store = create_store(store_url(str(folder)), record_of(CHECKED))
    for shard in range(3):
        write(store, shard)
    chunk = Path(store.object_url("spatial", 0))
    chunk.write_bytes(cut(chunk.read_bytes(), random.Random(SEED)))
    (Path(store.url) / "status" / "zarr.json").write_text("{")
    return folder


def test_the_job_repairs_all_before_it_says_so(run, capsys):
    assert run_verify(run) == 1
    assert "is damaged; with --repair" in capsys.readouterr().err
    assert run_verify(run, "--repair") == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split(" of ")[0] for line in told if " of up to " in line] == [
        "verify: 1 damaged",
        "verify: 1 damaged",
        "verify: 0 damaged",
    ]
    assert told[-1].startswith("verify: 4 rows are pending; ")
    assert run_verify(run) == 0


class Cutting(MemoryFileSystem):
    """A storage that cuts short what is written as metadata of labels, once it is told to."""

    protocol = "cutting"
    cuts = False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("cutting://"))

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        is_cut = Cutting.cuts and path.endswith("label/zarr.json")
        return super().pipe_file(path, value[: -1 if is_cut else None], mode, **kwargs)


def test_the_job_fails_where_damage_remains(capsys, monkeypatch):
    fsspec.register_implementation("cutting", Cutting, clobber=True)
    run = f"cutting://{uuid4().hex}"
    opened = create_store(store_url(run), record_of(CHECKED))
    write(opened, 0)
    monkeypatch.setattr(Cutting, "cuts", True)
    metadata = opened.group.store_path / "label" / "zarr.json"
    sync(metadata.set(sync(metadata.get())))
    assert run_verify(run, "--repair") == 1
    told = capsys.readouterr()
    assert told.out.splitlines()[-1].startswith("verify: 0 rows are pending")
    assert told.err.splitlines()[-1] == (
        f"verify: error: {run} is damaged still, after each repair: 1 objects, the first is "
        f"{store_url(run)}/label/zarr.json"
    )


def test_repairs_end_and_what_is_left_is_told(store, url):
    """A disk that damages what is written to it."""
    path = Path(store.object_url("label", 1))
    path.unlink()

    def read(opened):
        path.unlink(missing_ok=True)
        return verify_store(opened)

    opened = open_store(url, mode="r+")
    # Rows that are pending have nothing to lose.
    assert repair_all(opened, verify_store(opened), verify=read).left == []
    metadata = Path(url) / "label" / "zarr.json"

    def read_cut(opened):
        metadata.write_text("{")
        return verify_store(open_store(url))

    (left,) = repair_all(opened, read_cut(opened), verify=read_cut).left
    assert left.url == str(metadata)


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
