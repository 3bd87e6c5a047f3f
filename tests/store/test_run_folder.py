"""Names of what lies in a run's folder."""

import pytest

from pipeline.store import run_folder
from pipeline.store.run_folder import (
    DERIVED_NAMES,
    RUN_NAMES,
    failures_url,
    in_run,
    lease_url,
    metrics_url,
    statistics_url,
    store_url,
)


@pytest.mark.parametrize("run_url", ["s3://bucket/run", "s3://bucket/run/", "/data/run//"])
@pytest.mark.parametrize(
    ("url_of", "name"),
    [
        # Readers and dashboards of users know these names.
        (store_url, "attributions.zarr"),
        (failures_url, "failures.parquet"),
        (statistics_url, "statistics.zarr"),
        (metrics_url, "metrics.zarr"),
        (lease_url, "lease.json"),
        (lambda run_url: in_run(run_url, "report"), "report"),
    ],
)
def test_what_a_run_leaves_lies_in_its_folder(run_url, url_of, name):
    assert url_of(run_url) == f"{run_url.rstrip('/')}/{name}"
    assert name in RUN_NAMES


def test_every_name_of_the_module_goes_with_the_run():
    names = {value for key, value in vars(run_folder).items() if key.endswith("_NAME")}
    assert names == set(RUN_NAMES)
    assert set(RUN_NAMES) - set(DERIVED_NAMES) == {
        "attributions.zarr",
        "lease.json",
        "removed.json",
        "frames_caches.json",
    }
