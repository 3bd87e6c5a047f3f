"""Creating a store: cut off on the way, it does not count and is repeated."""

import warnings
from dataclasses import replace

import pytest
import xarray as xr
import zarr

from pipeline.errors import StoreError
from pipeline.store.append import append_rows
from pipeline.store.create import consolidate, create_store, unconsolidate
from pipeline.store.opening import (
    Unfinished,
    find_store,
    open_store,
)
from pipeline.store.pending import pending_rows
from tests.support.records import record_of
from tests.support.stores import EXPECTED, LAYOUT, RECORD, objects, write


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


def is_consolidated(url):
    return zarr.open_group(url, mode="r").metadata.consolidated_metadata is not None


def test_a_store_that_is_complete_is_opened_at_once_and_without_a_warning(url):
    store = create_store(url, RECORD)
    for shard in range(3):
        write(store, shard)
    before = objects(url)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        consolidate(store)
        dataset = xr.open_zarr(url)
    assert dict(dataset.sizes)["clip"] == LAYOUT.n_rows
    assert set(dataset) == set(EXPECTED)
    assert dataset.attrs["identity"] == RECORD.to_attributes()["identity"]
    consolidate(store)
    assert objects(url) == before
    unconsolidate(open_store(url, mode="r+"))
    assert not is_consolidated(url)
    assert open_store(url).record == RECORD


def test_rows_that_are_appended_take_the_consolidated_metadata_away(url):
    consolidate(create_store(url, RECORD))
    assert is_consolidated(url)
    longer = record_of(replace(LAYOUT, n_rows=13))
    append_rows(open_store(url, mode="r+"), longer)
    assert not is_consolidated(url)
    assert open_store(url).array("spatial").shape[0] == 13
