"""Creating a store: cut off on the way, it does not count and is repeated."""

from dataclasses import replace

import pytest
import zarr

from pipeline.errors import StoreError
from pipeline.store.create import create_store
from pipeline.store.opening import (
    Unfinished,
    find_store,
    open_store,
)
from pipeline.store.pending import pending_rows
from tests.support.records import record_of
from tests.support.stores import EXPECTED, LAYOUT, RECORD


@pytest.mark.parametrize("n_arrays", [0, 3])
def test_a_creation_that_was_cut_off_is_done_anew(url, n_arrays):
    half = zarr.create_group(url, attributes={"schema": {"name": "staa", "version": 1}})
    for index in range(n_arrays):
        half.create_array(f"old_{index}", shape=(7,), dtype="int8")
    assert isinstance(find_store(url), Unfinished)
    with pytest.raises(StoreError, match="creation was cut off"):
        open_store(url)
    create_store(url, RECORD)
    assert set(open_store(url).group.array_keys()) == set(EXPECTED)


def test_a_creation_that_fails_on_the_way_does_not_count(url):
    impossible = replace(LAYOUT, n_ranks=-1)
    with pytest.raises(StoreError, match=f"can't create a store at {url}"):
        create_store(url, record_of(impossible))
    assert "spatial" in zarr.open_group(url, mode="r")
    assert isinstance(find_store(url), Unfinished)
    create_store(url, RECORD)
    assert pending_rows(open_store(url)).shards.tolist() == [0, 1, 2]
