"""`ray job submit` as the documents have it, on a head and two workers of `ray start`."""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import pipeline
from pipeline.store.opening import open_store
from pipeline.store.run_folder import store_url
from pipeline.store.shards import write_shard
from tests.support.job_cluster import RAY, job_cluster
from tests.support.nursery import HANG_S
from tests.support.processes import wait_until
from tests.support.runs import (
    assert_same_columns,
    n_done,
    objects,
    plain_columns,
    prepared,
    stored_columns,
    write_inputs,
)

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux alone has nurseries"),
    pytest.mark.slow,
]

ROOT = Path(__file__).parents[2]
ROWS_PER_SHARD = 4
N_CLIPS = 24
STALLED = 14
"""Row whose clip doesn't come until the first job was stopped."""
N_BEFORE = N_CLIPS - ROWS_PER_SHARD
"""Rows of the other shards, which that clip doesn't hold up."""
UPLOADED = f"{pipeline.__version__}+uploaded"


class User:
    """Who submits to a cluster by the documents' lines, from a clone of the repository."""

    def __init__(self, cluster, clone):
        block = documented_block().replace("127.0.0.1:8265", cluster.address)
        self.environment = cluster.environment | dict(
            re.findall(r"^export (\w+)=(\S+)$", block, re.MULTILINE)
        )
        (line,) = re.findall(r"^ray (job submit .*)$", block, re.MULTILINE)
        self._submit = line.split()
        self._clone = clone

    def configure(self, config, **changes):
        values = config.model_dump(mode="json", exclude_unset=True) | changes
        (self._clone / "run.yaml").write_text(yaml.safe_dump(values))

    def ray(self, *words, **environment):
        """Run a command of Ray to its end; stdout and stderr come as one."""
        return subprocess.run(
            [RAY, *words],
            cwd=self._clone,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=HANG_S,
        )

    def submit(self, **environment):
        return self.ray(*self._submit, **environment)

    @contextmanager
    def submitting(self, log: Path) -> Iterator[subprocess.Popen]:
        """While open, a job is submitted, and its command writes to a log."""
        with log.open("w") as stream:
            command = subprocess.Popen(
                [RAY, *self._submit],
                cwd=self._clone,
                env=self.environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        try:
            yield command
        finally:
            command.kill()
            command.wait()


def documented_block():
    """The lines that submit a job."""
    blocks = re.findall(
        r"```console\n(.*?)```", (ROOT / "cluster" / "README.md").read_text(), re.DOTALL
    )
    (block,) = (block for block in blocks if "ray job submit" in block)
    return block


@pytest.fixture(scope="module")
def cluster():
    # Each has room for one task that decodes.
    with job_cluster(n_workers=2, cpus_per_worker=1) as started:
        yield started


@pytest.fixture
def user(cluster, tmp_path):
    """Their clone can be told from the packages that are installed where the tests run."""
    clone = tmp_path / "clone"
    for package in ("pipeline", "analysis", "jobs"):
        # But for megabytes of weights that no run here asks for.
        ignored = shutil.ignore_patterns("__pycache__", "checkpoints")
        shutil.copytree(ROOT / package, clone / package, ignore=ignored)
    version = clone / "pipeline" / "__init__.py"
    version.write_text(version.read_text().replace(pipeline.__version__, UPLOADED))
    return User(cluster, clone)


@contextmanager
def served(folder: Path, stalled: str, released: threading.Event) -> Iterator[str]:
    """URL of a server of a folder's files, of which one has to wait."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=folder)

        def do_GET(self):
            if stalled in self.path:
                released.wait(HANG_S)
            super().do_GET()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    # Those who wait are killed.
    server.handle_error = lambda *_: None
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def move_root(manifest, root):
    table = pq.read_table(manifest)
    metadata = table.schema.metadata | {b"staa.root": root.encode()}
    pq.write_table(table.replace_schema_metadata(metadata), manifest)


def nodes_of_batches(user):
    """Nodes on which clips are decoded or explained, or were."""
    listed = user.ray("list", "tasks", "--format=json", "--limit=1000")
    assert listed.returncode == 0, listed.stdout
    tasks = json.loads(listed.stdout[listed.stdout.index("[") :])
    nodes = {task["node_id"] for task in tasks if "MapBatches" in task["name"]}
    # Of tasks that have not started, or that Ray has not been told of yet.
    return nodes - {None}


def test_a_job_is_stopped_and_goes_on_when_it_is_submitted_again(user, tmp_path, one_thread):
    inputs = write_inputs(tmp_path, N_CLIPS, {1: "missing"})
    out, log = tmp_path / "run", tmp_path / "log"
    user.configure(inputs.config(out, rows_per_shard=ROWS_PER_SHARD))
    released = threading.Event()
    with served(tmp_path / "clips", inputs.video_ids[STALLED], released) as root:
        move_root(inputs.manifest, root)
        with user.submitting(log) as command:
            # The log comes while the job is running, which it will be until it is stopped.
            wait_until(
                lambda: f"attribute: {N_CLIPS} clips" in log.read_text(), command, log.read_text
            )
            wait_until(lambda: n_done(out) == N_BEFORE, command, log.read_text)
            wait_until(lambda: len(nodes_of_batches(user)) == 2, command, log.read_text)
            (job,) = re.findall(r"Job '(\w+)' submitted", log.read_text())
            stopped = user.ray("job", "stop", job)
            assert stopped.returncode == 0, stopped.stdout
            command.wait(HANG_S)
        assert f"Job '{job}' was stopped" in log.read_text()
        before = objects(out)
        assert n_done(out) == N_BEFORE

        released.set()
        again = user.submit()
        assert again.returncode == 0, again.stdout
        assert f"{N_CLIPS - 1} ok, 1 missing" in again.stdout
        expected = plain_columns(prepared(inputs.config(tmp_path / "plain")))
    assert_same_columns(stored_columns(out), expected)
    assert before.items() <= objects(out).items()
    packages = open_store(store_url(str(out))).record.packages
    assert packages["staa"] == UPLOADED


def carry_out(config):
    """Complete a run of one shard, in a loop and without Ray."""
    plan = prepared(config)
    columns = plain_columns(plan)
    for name in ("video_id", "message"):
        columns[name] = columns[name].astype(np.dtypes.StringDType())
    write_shard(open_store(plan.store_url, mode="r+"), columns, np.arange(plan.layout.n_rows))


@pytest.mark.parametrize(
    ("changes", "code", "reason"),
    [
        ({"max_failed_fraction": 0.3}, 1, "more than max_failed_fraction=30.0%"),
        ({"batch_size": 3}, 2, "rows_per_shard=4 is not a multiple of batch_size=3"),
    ],
)
def test_a_job_that_fails_says_why_and_with_which_exit_code(user, tmp_path, changes, code, reason):
    config = write_inputs(tmp_path, 2, {0: "missing"}).config(tmp_path / "run")
    carry_out(config)
    user.configure(config, **changes)
    failed = user.submit()
    # Ray's own code; the job's is in its message.
    assert failed.returncode == 1, failed.stdout
    assert reason in failed.stdout
    assert f"failed with exit code {code}" in failed.stdout


def test_who_has_another_token_is_refused(user):
    refused = user.submit(RAY_AUTH_TOKEN="another")
    assert refused.returncode == 1, refused.stdout
    assert "token" in refused.stdout
    assert "submitted" not in refused.stdout
