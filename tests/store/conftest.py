"""A store of ten rows in three shards, with nothing written yet."""

import pytest

from pipeline.store.create import create_store
from tests.support.records import record_of
from tests.support.stores import CHECKED, RECORD, write


@pytest.fixture
def url(tmp_path):
    return str(tmp_path / "attributions.zarr")


@pytest.fixture
def group(url):
    return create_store(url, RECORD)


@pytest.fixture
def store(url):
    """Such a store with checksums, all of which is written."""
    store = create_store(url, record_of(CHECKED))
    for shard in range(3):
        write(store, shard)
    return store
