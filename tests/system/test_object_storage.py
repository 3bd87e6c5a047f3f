"""Runs whose manifest, clips and store are all on a real S3 server, before which faults happen."""

import re
import sys
from contextlib import suppress
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from fsspec.registry import _registry

from jobs.attribute import attribute
from jobs.cli import run_job
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import write_manifest
from pipeline.run.config import AttributeJob
from pipeline.run.serial import execute_serially
from pipeline.status import Status
from pipeline.storage.retries import PATIENCE_VARIABLE
from tests.support.object_storage import (
    BUCKET,
    CANARIES,
    FAULTS,
    OWNER,
    READER,
    STRANGER,
    Identity,
    all_refused,
    environment,
    filesystem_at,
    seeded,
)
from tests.support.processes import HANG_S
from tests.support.runs import (
    Inputs,
    assert_same_columns,
    objects,
    prepared,
    stored_columns,
    write_inputs,
)
from tests.system.test_resume import start_job

N_CLIPS = 20
DAMAGED = {3: "missing", 12: "empty"}
N_SHARDS = 10


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Inputs on the local disk, and the folder of their run, which is the same without Ray."""
    folder = tmp_path_factory.mktemp("undisturbed")
    inputs = write_inputs(folder, N_CLIPS, DAMAGED)
    execute_serially(prepared(inputs.config(folder / "run", rows_per_shard=2)))
    return inputs, folder


@pytest.fixture(scope="module")
def uploaded(undisturbed, s3_server):
    """The same inputs on the server."""
    inputs, folder = undisturbed
    filesystem = filesystem_at(s3_server)
    for path in (folder / "clips").iterdir():
        filesystem.pipe_file(f"{BUCKET}/runs/clips/{path.name}", path.read_bytes())
    patch = pytest.MonkeyPatch()
    with environment(patch, OWNER.environment(s3_server)):
        clips = f"s3://{BUCKET}/runs/clips"
        table = build_manifest(layout="list", clips=clips, annotations=str(folder / "clips.txt"))
        write_manifest(table, f"s3://{BUCKET}/runs/clips.parquet")
    return Inputs(
        f"s3://{BUCKET}/runs/clips.parquet", inputs.model, inputs.video_ids, inputs.labels
    )


@pytest.fixture
def s3(proxy, monkeypatch):
    with environment(monkeypatch, OWNER.environment(proxy.endpoint)):
        yield proxy


def data_objects(counted, out):
    """Of what is counted by a path on the server, that of the data objects of a run's store."""
    store = f"/{out.removeprefix('s3://')}/attributions.zarr/"
    return {
        path.removeprefix(store): count
        for path, count in counted.items()
        if path.startswith(store) and not path.endswith("zarr.json")
    }


def assert_as_undisturbed(out, folder):
    """Bit for bit, but for the place that a message names."""
    got, expected = stored_columns(out), stored_columns(folder / "run")
    clips, there = f"{BUCKET}/runs/clips/", f"{folder}/clips/"
    got["message"] = got["message"].astype(object)
    expected["message"] = expected["message"].astype(object)
    for row, message in enumerate(got["message"]):
        got["message"][row] = message.replace(clips, there)
    assert_same_columns(got, expected)
    with fsspec.open(f"{out}/failures.parquet") as file:
        assert pq.read_table(file)["row"].to_pylist() == list(DAMAGED)


def assert_no_canary(s3_server, logs, *texts):
    """No credential in what was printed, in Ray's logs, or in any object on the server."""
    found = []
    for text in texts:
        found += [key for key in CANARIES if key in text]
    logged = [path for path in Path(logs).rglob("*") if path.is_file()]
    assert logged
    filesystem = filesystem_at(s3_server)
    stored = filesystem.find(BUCKET)
    assert len(stored) > N_CLIPS
    for path in logged:
        with suppress(FileNotFoundError):
            found += [(path, key) for key in CANARIES if key.encode() in path.read_bytes()]
    for path in stored:
        found += [(path, key) for key in CANARIES if key.encode() in filesystem.cat_file(path)]
    assert not found


def test_a_run_through_faults_gives_what_an_undisturbed_one_does(
    s3, s3_server, undisturbed, uploaded, ray_folder
):
    _, folder = undisturbed
    out = f"s3://{BUCKET}/runs/faults"
    s3.reset(seeded(1, share=0.3))
    job = start_job(uploaded, out, ray_folder)
    stdout, stderr = job.communicate(timeout=HANG_S)
    assert job.returncode == 0, stderr
    assert not [fault for fault in FAULTS if not s3.faults[fault]]
    written, contents = data_objects(s3.puts, out), data_objects(s3.bodies, out)
    s3.reset()
    # Written again only where the answer was lost, and then with the same bytes.
    assert written.keys() == objects(folder / "run").keys()
    assert {len(bodies) for bodies in contents.values()} == {1}
    assert_as_undisturbed(out, folder)
    assert_no_canary(s3_server, ray_folder, stdout, stderr)


@pytest.mark.slow
def test_a_storage_that_goes_away_loses_nothing_and_the_same_command_goes_on(
    s3, s3_server, undisturbed, uploaded, ray_folder, monkeypatch
):
    _, folder = undisturbed
    out = f"s3://{BUCKET}/runs/outage"
    committed = []

    def refuse_behind_the_third_commit(method, path):
        if method == "PUT" and "/status/c/" in path:
            committed.append(path)
            if len(committed) == 3:
                s3.plan = all_refused

    s3.on_done = refuse_behind_the_third_commit
    monkeypatch.setenv(PATIENCE_VARIABLE, "2")
    job = start_job(uploaded, out, ray_folder)
    stdout, stderr = job.communicate(timeout=HANG_S)
    assert job.returncode == 1, stderr
    last = stderr.splitlines()[-1]
    assert last.startswith("attribute: error: ")
    assert last.endswith("what was finished is kept, and the same command goes on")
    s3.reset()
    status = stored_columns(out)["status"]
    done = [int(path.rsplit("/", 1)[1]) for path in committed]
    assert 3 <= len(done) < N_SHARDS
    # An answer that was on its way when the storage went away is a commit all the same.
    for shard in range(N_SHARDS):
        assert (status[2 * shard : 2 * shard + 2] != Status.PENDING).all() == (shard in done)
    # Nothing is marked as failed that only couldn't be reached.
    assert set(DAMAGED) >= {row for row, code in enumerate(status) if Status(code).failed}

    resumed = start_job(uploaded, out, ray_folder)
    stdout, stderr = resumed.communicate(timeout=HANG_S)
    assert resumed.returncode == 0, stderr
    written = data_objects(s3.puts, out)
    s3.reset()
    # Two tasks never write one object, and none writes what was done.
    assert set(written.values()) == {1}
    assert {int(name.split("/")[2]) for name in written} == set(range(N_SHARDS)) - set(done)
    assert_as_undisturbed(out, folder)
    assert_no_canary(s3_server, ray_folder, stdout, stderr)


def refused(capsys, inputs, out):
    """Run a job that must not start; gives its exit code and what it said."""
    code = run_job(AttributeJob, attribute, verb="attribute", argv=inputs.flags(out))
    said = capsys.readouterr()
    assert not said.out
    assert not [key for key in CANARIES if key in said.err]
    return code, said.err


@pytest.mark.parametrize("known", [False, True])
def test_wrong_credentials_are_bad_input_and_are_not_told(
    proxy, monkeypatch, capsys, uploaded, known
):
    user = Identity(OWNER.access_key if known else STRANGER.access_key, STRANGER.secret_key)
    with environment(monkeypatch, user.environment(proxy.endpoint)):
        code, said = refused(capsys, uploaded, f"s3://{BUCKET}/runs/wrong")
    assert code == 2
    assert re.fullmatch(r"attribute: error: can't read (manifest )?s3://.*\n", said)


def test_a_target_that_may_not_be_written_is_bad_input(proxy, monkeypatch, capsys, uploaded):
    with environment(monkeypatch, READER.environment(proxy.endpoint)):
        code, said = refused(capsys, uploaded, f"s3://{BUCKET}/runs/sealed")
        assert code == 2
        assert f"out: can't write s3://{BUCKET}/runs/sealed/" in said

    # A store that is there already, to be gone on with.
    with environment(monkeypatch, OWNER.environment(proxy.endpoint)):
        prepared(uploaded.config(f"s3://{BUCKET}/runs/begun"))
    with environment(monkeypatch, READER.environment(proxy.endpoint)):
        code, said = refused(capsys, uploaded, f"s3://{BUCKET}/runs/begun")
    assert code == 2
    assert "out: can't write" in said


def test_an_endpoint_that_is_away_is_told_on_one_line(s3, monkeypatch, capsys, uploaded):
    # Tried once: each further try is a warning of its own.
    monkeypatch.setenv(PATIENCE_VARIABLE, "0")
    s3.plan = all_refused
    code, said = refused(capsys, uploaded, f"s3://{BUCKET}/runs/away")
    assert code == 1
    # Nothing was begun, so there is nothing that goes on.
    told = r"attribute: error: .*runs/away/.*: .*the same command may succeed later\n"
    assert re.fullmatch(told, said)


@pytest.mark.parametrize(
    ("protocol", "driver", "extra"),
    [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs"), ("az", "adlfs", "azure")],
)
@pytest.mark.parametrize("key", ["manifest", "out"])
def test_a_driver_that_is_not_installed_is_named_by_its_extra(
    undisturbed, tmp_path, monkeypatch, capsys, protocol, driver, extra, key
):
    inputs, _ = undisturbed
    monkeypatch.delitem(_registry, protocol, raising=False)
    for module in [name for name in sys.modules if name.split(".")[0] == driver]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, driver, None)
    flag = f"--{key}={protocol}://bucket/it"
    argv = inputs.flags(tmp_path / "run", flag)
    assert run_job(AttributeJob, attribute, verb="attribute", argv=argv) == 2
    said = capsys.readouterr().err
    assert f"install the extra '{extra}'" in said
    assert len(said.splitlines()) == 1
