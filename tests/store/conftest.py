"""A store of ten rows in three shards, with nothing written yet."""

import pytest

from pipeline.store.create import create_store
from tests.support.stores import RECORD


@pytest.fixture
def url(tmp_path):
    return str(tmp_path / "attributions.zarr")


@pytest.fixture
def group(url):
    return create_store(url, RECORD)
