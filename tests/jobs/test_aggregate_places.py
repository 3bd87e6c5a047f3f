"""`jobs.aggregate` gives the same bits wherever it computes, and wherever the run lies."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import dask
import distributed
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from analysis import open_run
from jobs.aggregate import AggregateConfig, aggregate
from jobs.cli import run_job
from pipeline.status import Status
from pipeline.storage.zarr_store import zarr_location
from pipeline.store.run_folder import SCORES_NAME, maps_url, scores_url, statistics_url
from tests.analysis.stores import manifest_of, random_columns, small_layout, write_run
from tests.support.object_storage import BUCKET, OWNER, filesystem_at
from tests.support.processes import HANG_S, until

ROOT = Path(__file__).parents[2]
SEED = int(datetime.now(UTC).strftime("%Y%m%d"))

N_ROWS = 18_000
"""In blocks of 1,400 clips: more than the pass keeps in memory at a time, and than one task merges,
and the last one is short."""
N_BLOCKS = 13
N_CLASSES = 40


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run over which nothing was computed: some clips failed, some have no label, and classes
    come in one after the other, so that blocks have different ones."""
    print("seed", SEED)
    folder = tmp_path_factory.mktemp("source")
    layout = small_layout(N_ROWS, rows_per_shard=700)
    rng = np.random.default_rng(SEED)
    status = np.full(N_ROWS, Status.OK, np.uint8)
    status[rng.random(N_ROWS) < 0.02] = Status.EMPTY
    begun = np.minimum(1 + np.arange(N_ROWS) // 300, N_CLASSES)
    label = rng.integers(0, begun).astype(np.int32)
    label[rng.random(N_ROWS) < 0.05] = -1
    columns = random_columns(layout, SEED, n_classes=N_CLASSES, status=status, label=label)
    columns["label_probability"][label < 0] = np.nan
    manifest, digest = manifest_of(folder, N_ROWS)
    names = tuple(f"class {index}" for index in range(N_CLASSES))
    url = write_run(
        folder / "run", layout, columns, class_names=names, manifest=manifest, digest=digest
    )
    assert open_run(url)["spatial"].data.numblocks[0] == N_BLOCKS
    return Path(url)


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    """What threads of this process give, from a local disk."""
    out = shutil.copytree(source, tmp_path_factory.mktemp("threads") / "run")
    aggregated(out)
    found = results(str(out))
    assert {
        *("scores.parquet/class_agreement", "scores.parquet/movement", "scores.parquet/split"),
        *("statistics.zarr/by_label/spatial_map", "statistics.zarr/by_prediction/entropy_std"),
        "spatial_maps.zarr/spatial_map",
    } <= found.keys()
    return found


@pytest.fixture
def local(source, tmp_path):
    """A copy of the run on the local disk."""
    return str(shutil.copytree(source, tmp_path / "run"))


@pytest.fixture
def in_bucket(source, s3, s3_server, tmp_path):
    """A copy in the object storage, whose credentials are in this process's environment."""
    url = f"s3://{BUCKET}/places/{tmp_path.name}"
    filesystem_at(s3_server).put(str(source), url, recursive=True)
    return url


@pytest.fixture(scope="module")
def scheduler(s3_server, tmp_path_factory):
    """Address of a Dask scheduler with two workers, each a process, which may read the bucket."""
    address = tmp_path_factory.mktemp("dask") / "scheduler.json"
    common = ["--scheduler-file", str(address)]
    commands = [
        ["scheduler", "--host=127.0.0.1", "--port=0", "--dashboard-address=127.0.0.1:0"],
        *[["worker", "--nthreads=1", "--no-nanny", "--no-dashboard"]] * 2,
    ]
    environment = environment_of(**OWNER.environment(s3_server))
    with ExitStack() as stack:
        log = stack.enter_context((address.parent / "log").open("w"))
        for command, *flags in commands:
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{command}", *flags, *common],
                cwd=address.parent,
                env=environment,
                stdout=log,
                stderr=log,
            )
            stack.callback(ended, process)
        read = (address.parent / "log").read_text
        until(lambda: address.exists() and address.read_text(), seconds=HANG_S, told=read)
        yield json.loads(address.read_text())["address"]


def transitions(address):
    """How often a task's state has changed on a scheduler since its start."""
    with distributed.Client(address, set_as_default=False) as client:
        return client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.transition_counter)


def ended(process):
    """End a process, by force if it doesn't listen."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def environment_of(**variables):
    """Environment of a process that computes with this code."""
    kept = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return kept | {"PYTHONPATH": str(ROOT)} | variables


def aggregated(url, *flags):
    """Aggregate in this process."""
    argv = [str(url), "--no-report", *flags]
    assert run_job(AggregateConfig, aggregate, verb="aggregate", argv=argv) == 0


def aggregated_apart(url, *flags, **variables):
    """Aggregate in a process of its own: clusters leave threads and child processes behind."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.aggregate", url, "--no-report", *flags],
        cwd=ROOT,
        env=environment_of(**variables),
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr


def results(url):
    """Everything that the job keeps, by name: numbers as bytes, with their types."""
    found = {}
    with fsspec.open(scores_url(url)) as file:
        table = pq.read_table(file)
    for name in table.column_names:
        column = table[name].combine_chunks()
        floating = pa.types.is_floating(column.type)
        # Their bytes, so that NaN equals NaN and the two zeros differ.
        values = column.to_numpy(zero_copy_only=False).tobytes() if floating else column.to_pylist()
        found[f"{SCORES_NAME}/{name}"] = str(column.type), column.null_count, values
    for store in (statistics_url(url), maps_url(url)):
        group = zarr.open_group(zarr_location(store), mode="r")
        for name, item in group.members(max_depth=None):
            name = f"{store.rpartition('/')[2]}/{name}"
            found[f"attributes of {name}"] = dict(item.attrs)
            if isinstance(item, zarr.Array):
                values = item[...]
                plain = values.tolist() if values.dtype.kind in "OT" else values.tobytes()
                found[name] = str(values.dtype), values.shape, plain
    return found


def assert_same(url, expected):
    """Compare all of it, and name what differs."""
    got = results(url)
    assert got.keys() == expected.keys()
    assert not [name for name, value in expected.items() if got[name] != value]


@pytest.mark.parametrize("n_threads", [1, 5])
def test_on_any_number_of_threads(n_threads, local, expected):
    with dask.config.set(num_workers=n_threads):
        aggregated(local)
    assert_same(local, expected)


def test_from_object_storage(in_bucket, expected):
    aggregated(in_bucket)
    assert_same(in_bucket, expected)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["local", "in_bucket"])
def test_on_a_dask_cluster_that_the_job_starts(place, expected, request):
    url = request.getfixturevalue(place)
    aggregated_apart(url, "--workers=2")
    assert_same(url, expected)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["local", "in_bucket"])
def test_on_a_dask_cluster_that_is_there(place, scheduler, expected, request):
    url = request.getfixturevalue(place)
    before = transitions(scheduler)
    aggregated_apart(url, f"--dask={scheduler}")
    # Each block is a task at least, which is processed and then in memory there.
    assert transitions(scheduler) - before > 2 * N_BLOCKS
    assert_same(url, expected)


@pytest.mark.slow
def test_on_ray(local_ray, local, expected):
    aggregated(local, "--ray")
    assert_same(local, expected)


@pytest.mark.slow
def test_on_ray_from_object_storage(ray_folder, in_bucket, expected):
    aggregated_apart(in_bucket, "--ray", RAY_TMPDIR=ray_folder)
    assert_same(in_bucket, expected)
