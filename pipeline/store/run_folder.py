"""Names and URLs of what lies in a run's folder."""

STORE_NAME = "attributions.zarr"
"""The store of attributions."""
FAILURES_NAME = "failures.parquet"
"""The table of failed clips."""
STATISTICS_NAME = "statistics.zarr"
"""Statistics of the classes."""
METRICS_NAME = "metrics.zarr"
"""What `jobs.evaluate` has measured."""
PARTIAL_METRICS_NAME = "metrics.partial.zarr"
"""The same while it is measured, shard by shard."""
FAITHFULNESS_NAME = "faithfulness"
"""Folder of what was measured by asking the model about perturbed clips."""
FAITHFULNESS_MANIFEST = "manifest.parquet"
"""The clips that were asked about, in that folder."""
LEASE_NAME = "lease.json"
"""Who is working on the run."""
REMOVED_NAME = "removed.json"
"""What was taken out of the run and must not come back."""
CACHES_NAME = "frames_caches.json"
"""Which caches of frames the run has used: the record has that of its first call alone, or of the
last that appended, as it was given."""
PACE_NAME = "pace.json"
"""How fast the run goes, and what bounds it."""
REPORT_NAME = "report"
"""Folder of the page."""
SCORES_NAME = "scores.parquet"
"""The table of scores of each clip."""
MAPS_NAME = "spatial_maps.zarr"
"""The map of each clip, summed over time."""
FINDINGS_NAME = "findings.parquet"
"""What `jobs.audit` has found."""
FINDINGS_JSON_NAME = "findings.json"
"""The same as JSON."""
INTERVENTIONS_NAME = "interventions"
"""Folder of what came of interventions, by `jobs.audit --verify`."""

DERIVED_NAMES = (
    *(FAILURES_NAME, STATISTICS_NAME, METRICS_NAME, REPORT_NAME),
    *(PACE_NAME, SCORES_NAME, MAPS_NAME, FINDINGS_NAME, FINDINGS_JSON_NAME, INTERVENTIONS_NAME),
    *(PARTIAL_METRICS_NAME, FAITHFULNESS_NAME),
)
"""What jobs leave beside the store in a run's folder."""
RUN_NAMES = (STORE_NAME, LEASE_NAME, REMOVED_NAME, CACHES_NAME, *DERIVED_NAMES)
"""What in a run's folder is the run's."""


def in_run(run_url: str, name: str) -> str:
    """URL of what is called ``name`` in a run's folder."""
    return f"{run_url.rstrip('/')}/{name}"


def store_url(run_url: str) -> str:
    """Where the store is in a run's folder."""
    return in_run(run_url, STORE_NAME)


def failures_url(run_url: str) -> str:
    """Where the table of failed clips is in a run's folder."""
    return in_run(run_url, FAILURES_NAME)


def statistics_url(run_url: str) -> str:
    """Where the statistics are in a run's folder."""
    return in_run(run_url, STATISTICS_NAME)


def metrics_url(run_url: str) -> str:
    """Where the metrics are in a run's folder."""
    return in_run(run_url, METRICS_NAME)


def faithfulness_url(run_url: str) -> str:
    """Where the folder is of what perturbed clips have told."""
    return in_run(run_url, FAITHFULNESS_NAME)


def scores_url(run_url: str) -> str:
    """Where the table of scores is in a run's folder."""
    return in_run(run_url, SCORES_NAME)


def maps_url(run_url: str) -> str:
    """Where the maps that are summed over time are in a run's folder."""
    return in_run(run_url, MAPS_NAME)


def findings_url(run_url: str) -> str:
    """Where the findings are in a run's folder."""
    return in_run(run_url, FINDINGS_NAME)


def findings_json_url(run_url: str) -> str:
    """Where the findings are in a run's folder, as JSON."""
    return in_run(run_url, FINDINGS_JSON_NAME)


def lease_url(run_url: str) -> str:
    """Where the lease of a run is, see `pipeline.store.lease`."""
    return in_run(run_url, LEASE_NAME)


def removed_url(run_url: str) -> str:
    """Where it is kept what was taken out of a run, see `pipeline.store.removed`."""
    return in_run(run_url, REMOVED_NAME)


def interventions_url(run_url: str) -> str:
    """Where the outcomes of interventions are in a run's folder."""
    return in_run(run_url, INTERVENTIONS_NAME)


def pace_url(run_url: str) -> str:
    """Where the pace of a run is, see `pipeline.store.pace`."""
    return in_run(run_url, PACE_NAME)
