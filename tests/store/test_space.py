"""Free space is that of the disk that a folder is, or will be, on; maps take what is assumed."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import StoreError
from pipeline.store.create import create_store
from pipeline.store.shards import write_shard
from pipeline.store.space import SMALLEST_SHARE, check_space, free_bytes, size
from tests.support.records import record_of
from tests.support.stores import LAYOUT, columns_of


def test_a_folder_that_is_not_there_yet_lies_on_the_disk_of_the_one_above(tmp_path):
    free = free_bytes(f"file://{tmp_path}/a/b/run")
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)


def test_a_storage_that_does_not_tell_refuses_nothing():
    assert free_bytes("memory://bucket/run") is None
    check_space("memory://bucket/run", LAYOUT, 10**15)


def test_a_disk_that_is_too_small_is_refused(tmp_path):
    check_space(str(tmp_path), LAYOUT, 10)
    with pytest.raises(StoreError, match=r"out: .* free, and the maps of 1,0.* clips take .*TB at"):
        check_space(str(tmp_path), LAYOUT, 10**15)


def test_maps_of_a_model_take_no_less_than_is_assumed(url, tmp_path):
    layout = replace(LAYOUT, n_rows=64, rows_per_shard=64, height=14, width=14, checksums=True)
    store = create_store(url, record_of(layout))
    write_shard(store, columns_of(layout, range(64)), np.arange(64))
    stored = sum(p.stat().st_size for p in (tmp_path).rglob("spatial/c/**/*") if p.is_file())
    assert stored > SMALLEST_SHARE * 64 * layout.map_bytes


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1234, "1.23 kB"), (10**9, "1 GB"), (5e15, "5,000 TB")],
)
def test_sizes_are_told_in_units(n_bytes, text):
    assert size(n_bytes) == text
