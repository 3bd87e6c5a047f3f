"""Names of what lies in a run's folder."""

import pytest

from pipeline.store.run_folder import store_url


@pytest.mark.parametrize("run_url", ["s3://bucket/run", "s3://bucket/run/", "/data/run//"])
def test_the_store_lies_in_the_runs_folder(run_url):
    assert store_url(run_url) == f"{run_url.rstrip('/')}/attributions.zarr"
