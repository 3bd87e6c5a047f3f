"""A run's metrics as Prometheus would scrape them, and its log lines where Ray keeps them."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from pipeline.execution.passes import execute
from tests.support.runs import prepared, stored_columns, write_inputs

pytestmark = pytest.mark.slow

SAMPLE = re.compile(r"^(ray_\w+)\{(.*)\} (\S+)$")
TAG = re.compile(r'(\w+)="([^"]*)"')
HANG_S = 120
"""Only a guard: Ray sends what it has every few seconds."""

N_CLIPS = 10


def scraped():
    """Sums of the samples of this machine's Ray, by name and the values of run, status and le."""
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=HANG_S) as response:
        lines = response.read().decode().splitlines()
    sums = {}
    for name, tags, value in (match.groups() for match in map(SAMPLE.match, lines) if match):
        tag = dict(TAG.findall(tags))
        key = (name, tag.get("run"), tag.get("status"))
        if "le" not in tag:
            sums[key] = sums.get(key, 0.0) + float(value)
    return sums


@pytest.fixture(scope="module")
def run(local_ray, tmp_path_factory):
    """A run whose logs are JSON; its plan."""
    folder = tmp_path_factory.mktemp("observed")
    inputs = write_inputs(folder, N_CLIPS, {2: "missing", 7: "empty"})
    plan = prepared(inputs.config(folder / "run", log_format="json"))
    assert execute(plan).n_pending == 0
    return plan


@pytest.fixture(scope="module")
def samples(run):
    """What is scraped once all of the run has arrived."""
    deadline = time.monotonic() + HANG_S
    # A task decodes a batch or more, of one shard.
    expected = {"decode": (3, 5), "transfer": (5, 5), "forward": (5, 5), "write": (3, 3)}
    while True:
        found = scraped()
        counts = {
            stage: found.get((f"ray_staa_{stage}_seconds_count", run.run, None), 0)
            for stage in expected
        }
        observed = all(low <= counts[stage] <= high for stage, (low, high) in expected.items())
        # Told by another process than the seconds, and so perhaps later.
        if observed and sum(clips_by_status(found, run).values()) == N_CLIPS:
            return found
        assert time.monotonic() < deadline, counts
        time.sleep(0.5)


def clips_by_status(samples, run):
    return {
        status: value
        for (name, run_tag, status), value in samples.items()
        if (name, run_tag) == ("ray_staa_clips_total", run.run)
    }


def test_clips_are_counted_by_status(run, samples):
    assert clips_by_status(samples, run) == {"ok": 8, "missing": 1, "empty": 1}


def test_bytes_are_those_of_all_arrays(run, samples):
    stored = stored_columns(Path(run.config.out))
    n_bytes = sum(values.nbytes for values in stored.values())
    assert samples["ray_staa_bytes_written_total", run.run, None] == n_bytes


def test_seconds_of_every_stage_are_positive_and_less_than_the_run(run, samples):
    for stage in ("decode", "transfer", "forward", "write"):
        assert 0 < samples[f"ray_staa_{stage}_seconds_sum", run.run, None] < HANG_S


def worker_records():
    """The JSON lines of all workers' logs."""
    folder = Path(ray._private.worker._global_node.get_logs_dir_path())
    for file in folder.glob("worker-*.err"):
        for line in file.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                yield json.loads(line)


def test_each_shard_that_is_committed_is_a_record_of_its_workers_log(run):
    records = [
        record
        for record in worker_records()
        if record["message"] == "shard committed" and record["run"] == run.run
    ]
    by_shard = {record["shard"]: record for record in records}
    assert sorted(record["shard"] for record in records) == [0, 1, 2]
    assert [by_shard[shard]["rows"] for shard in range(3)] == [4, 4, 2]
    assert (by_shard[0]["ok"], by_shard[0]["missing"]) == (3, 1)
    assert (by_shard[1]["ok"], by_shard[1]["empty"]) == (3, 1)
    assert by_shard[2]["ok"] == 2
    for record in records:
        assert record["level"] == "INFO"
        assert record["logger"] == "pipeline.run.steps"
        assert record["seconds"] >= 0
