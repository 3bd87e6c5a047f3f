"""A stream that was explained is a run: its rows are those of `jobs.attribute` over segments."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow as pa
import pytest

from analysis import open_run
from jobs.attribute import attribute
from jobs.live import live
from jobs.status import StatusConfig, status
from pipeline.dataset.columns import SCHEMA
from pipeline.dataset.manifest import (
    FORMAT_VERSION,
    METADATA_KEYS,
    mark_segments,
    read_manifest,
    write_manifest,
)
from pipeline.errors import StoreError
from pipeline.run.config import AttributeJob
from pipeline.status import Status
from pipeline.store.opening import open_store
from pipeline.store.pending import read_status
from pipeline.store.run_folder import store_url
from pipeline.stream.config import LiveConfig, PageConfig
from pipeline.stream.sessions import urls_of
from tests.support.checkpoints import save_timesformer
from tests.support.clips import write_mp4
from tests.support.processes import wait_until
from tests.support.runs import random_frames, stored_columns

pytestmark = pytest.mark.usefixtures("one_thread")

N_FRAMES, FPS = 90, 30.0


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    return {
        "model": str(save_timesformer(folder / "model")),
        "a": write_mp4(folder / "a.mp4", random_frames(N_FRAMES, seed=1), FPS),
        "b": write_mp4(folder / "b.mkv", random_frames(N_FRAMES, seed=2), FPS),
        # Which a busy machine has time to interrupt.
        "long": write_mp4(folder / "long.mp4", random_frames(300, seed=3), 10.0),
    }


def config(inputs, out, names="a", **changes):
    values = {
        "sources": tuple(f"{name}={inputs[name]}" for name in names),
        "model": inputs["model"],
        "sampling": {"kind": "uniform"},
        "window": 0.7,
        "hop": 0.1,
        "fast": True,
        "batch_size": 2,
        "rows_per_shard": 8,
        "page": PageConfig(show=False),
        "out": str(out),
    }
    return LiveConfig.model_validate(values | changes)


def segments_manifest(inputs, folder, rows):
    metadata = (FORMAT_VERSION, str(inputs["a"].parent), "table")
    schema = SCHEMA.with_metadata(dict(zip(METADATA_KEYS, metadata, strict=True)))
    table = pa.Table.from_pylist(rows, schema=schema)
    folder.mkdir()
    write_manifest(mark_segments(table), str(folder / "segments.parquet"))
    return str(folder / "segments.parquet")


def ok_rows(session):
    columns = stored_columns(session)
    kept = columns["status"] == Status.OK
    return {name: values[kept] for name, values in columns.items()}


@pytest.mark.parametrize(
    ("names", "sampling"),
    [("a", {"kind": "uniform"}), ("a", {"kind": "strided", "stride": 7}), ("ab", None)],
    ids=["uniform", "strided", "two streams"],
)
def test_rows_are_those_of_attribute_over_a_manifest_of_the_windows(
    inputs, tmp_path, names, sampling, capsys
):
    changes = {"sampling": sampling} if sampling else {}
    assert live(config(inputs, tmp_path / "out", names, **changes)) == 0
    (session,) = urls_of(str(tmp_path / "out"))
    mine = ok_rows(tmp_path / "out" / session.rpartition("/")[2])
    table = read_manifest(f"{session}/manifest.parquet").whole_table().to_pylist()
    rows = [
        {key: row[key] for key in ("video_id", "path", "start_time", "end_time")}
        for row in table
        if row["stream"]
    ]
    assert len(rows) >= 23 * len(names) - len(names)
    job = AttributeJob(
        manifest=segments_manifest(inputs, tmp_path / "offline", rows),
        out=str(tmp_path / "offline/run"),
        model=inputs["model"],
        sampling=sampling or {"kind": "uniform"},
        # Of one stream, a batch is one window.
        batch_size=1,
        rows_per_shard=8,
        serial=True,
    )
    assert attribute(job) == 0
    theirs = stored_columns(tmp_path / "offline/run")
    assert set(mine) == set(theirs)
    for name in theirs.keys() - {"clip_digest"}:
        got, expected = mine[name], theirs[name]
        if names == "a" or got.dtype.kind not in "f":
            assert np.array_equal(got, expected, equal_nan=got.dtype.kind == "f"), name
        else:
            # Two numbers that close may be neighbours in half precision, 2^-10 of them apart.
            bound = 1e-5 + (1e-3 * np.abs(expected) if got.dtype == np.float16 else 0)
            assert (np.abs(got.astype(float) - expected) <= bound)[~np.isnan(expected)].all(), name
    assert "windows explained, 0 skipped" in capsys.readouterr().out


def test_it_is_read_while_it_grows(inputs, tmp_path):
    out = tmp_path / "out"
    changes = {"rows_per_shard": 4, "hop": 0.05}
    running = threading.Thread(target=live, args=(config(inputs, out, **changes),))
    running.start()
    sizes = set()
    while running.is_alive():
        for url in urls_of(str(out)):
            if (out / url.rpartition("/")[2] / "attributions.zarr/status/c/0").exists():
                ds = open_run(url)
                # What is done is right, whenever it is looked at.
                done = ds["status"].values == Status.OK
                assert np.isfinite(ds["temporal"].values[done]).all()
                assert status(StatusConfig(run=url)) == 0
                sizes.add(ds.sizes["clip"])
        # Between two looks.
        time.sleep(0.02)
    running.join()
    # How often a busy machine lets it be looked at isn't known.
    assert sizes


def test_the_audit_works_on_it(inputs, tmp_path, capsys):
    from jobs.audit import AuditConfig, audit_run

    live(config(inputs, tmp_path / "out", "ab"))
    (session,) = urls_of(str(tmp_path / "out"))
    assert audit_run(AuditConfig(run=session)) == 0
    assert "findings in" in capsys.readouterr().out


def test_a_folder_gets_a_session_each_time_and_events(inputs, tmp_path):
    for _ in range(2):
        live(config(inputs, tmp_path / "out"))
    assert len(urls_of(str(tmp_path / "out"))) == 2
    lines = (tmp_path / "out/events.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["event"] for line in lines]
    assert kinds.count("committed") == 6
    facts = json.loads(next((tmp_path / "out").glob("*/session.json")).read_text())
    assert facts["window_s"] == 0.7


def test_a_url_of_a_folder_here_is_that_folder(inputs, tmp_path):
    assert live(config(inputs, f"file://{tmp_path}/out")) == 0
    assert len(urls_of(str(tmp_path / "out"))) == 1
    assert '"committed"' in (tmp_path / "out/events.jsonl").read_text()


def test_a_file_that_can_not_be_read_to_its_end_is_told_by_the_exit_code(inputs, tmp_path, capsys):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(inputs["a"].read_bytes()[:-5000])
    sources = (f"a={inputs['a']}", f"cut={cut}")
    assert live(config(inputs, tmp_path / "out", sources=sources)) == 1
    told = capsys.readouterr().out
    assert "live: a: 24 windows explained, 0 skipped" in told
    assert "ended, broken off: " in told
    # What there was of the others is kept.
    (session,) = urls_of(str(tmp_path / "out"))
    assert (open_run(session)["status"].values == Status.OK).sum() == 24


def test_a_session_is_held_against_one_of_the_same_job_and_of_no_other(inputs, tmp_path):
    # Windows enough to be held against.
    usual = {"hop": 0.03, "rows_per_shard": 32}
    assert live(config(inputs, tmp_path / "usual", **usual)) == 0
    against = {**usual, "drift_against": str(tmp_path / "usual")}
    # How many windows are in a batch or a shard, and how they are taken, is no matter.
    changes = {"rows_per_shard": 8, "batch_size": 4, "hop": 0.1}
    assert live(config(inputs, tmp_path / "same", "b", **against | changes)) == 0
    (session,) = urls_of(str(tmp_path / "same"))
    assert (open_run(session)["status"].values == Status.OK).sum() > 20
    for changes, reason in (
        ({"model": str(save_timesformer(tmp_path / "other", seed=1))}, "is of the model .*model"),
        ({"sampling": {"kind": "strided", "stride": 7}}, "sampling.kind is 'uniform' there and"),
        ({"method": {"name": "staa"}}, "the streams are explained by staa-paper"),
    ):
        with pytest.raises(StoreError, match=f"^drift_against: .*usual/.*{reason}"):
            live(config(inputs, tmp_path / "refused", **against | changes))
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sources": ("x.mp4",)}, "source: x.mp4 isn't there"),
        ({"sources": ("a=rtsp://c", "a=rtsp://d")}, "sources: 2 of them are called 'a'"),
        ({"sources": ("rtsp://c/a",)}, "fast: a is no file"),
        ({"sources": ("rtsp://${NO_USER}@c/a",)}, "source: rtsp://.*: the environment has no NO_U"),
        ({"window": None}, "window: the model takes its frames evenly"),
        ({"model": "/nowhere/model"}, "model: '/nowhere/model'"),
        ({"out": "/dev/null/x"}, "out: can't write"),
        ({"window": 1e9}, "window: 1e.09 s of 1 stream at 30 frames/s take .* or less"),
    ],
)
def test_what_is_wrong_is_told_on_one_line_before_anything_is_started(
    inputs, tmp_path, changes, reason
):
    from pipeline.errors import StaaError

    with pytest.raises(StaaError, match=reason):
        live(config(inputs, **{"out": tmp_path / "out"} | changes))
    assert not urls_of(str(tmp_path / "out"))


def command(inputs, out, *more):
    flags = ["--model", inputs["model"], "--sampling.kind=uniform", "--window=500ms"]
    sizes = ["--hop=50ms", "--batch-size=1", "--rows-per-shard=2", "--no-page.show"]
    argv = [
        f"a={inputs['a']}",
        f"b={inputs['b']}",
        f"c={inputs['long']}",
        *flags,
        *sizes,
        f"--out={out}",
        *more,
    ]
    return [sys.executable, "-m", "jobs.live", *argv]


def n_committed(out):
    return sum(1 for _ in out.glob("*/attributions.zarr/status/c/*")) if out.exists() else 0


@pytest.mark.slow  # test_session.py cuts a session off at each step
def test_killed_at_any_moment_nothing_is_torn_and_interrupted_it_ends_tidily(inputs, tmp_path):
    out = tmp_path / "out"
    seed = int(time.strftime("%Y%m%d"))
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    process = subprocess.Popen(
        command(inputs, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: n_committed(out) >= 2, process, process.communicate, hang_s=120)
    # Amid whatever it does then.
    time.sleep(rng.uniform(0, 0.3))
    process.kill()
    process.communicate()
    process = subprocess.Popen(
        command(inputs, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    # Both have a shard: a session without a window leaves no store.
    first = "*/attributions.zarr/status/c/0"
    wait_until(lambda: len([*out.glob(first)]) == 2, process, process.communicate, hang_s=120)
    os.kill(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "live: a:" in stdout
    assert stderr.splitlines()[-1] == "live: interrupted; what was finished is kept"
    for url in urls_of(str(out)):
        store = open_store(store_url(url))
        codes = read_status(store)
        assert np.isin(codes, [Status.OK, Status.UNUSED]).all()
        ds = open_run(url, check=True)
        done = codes == Status.OK
        assert done.any()
        assert np.allclose(ds["temporal"].values[done].sum(axis=1), 1, atol=1e-3)


def test_help_loads_no_torch():
    code = (
        "import sys, runpy; sys.argv = ['live', '--help']\n"
        "try: runpy.run_module('jobs.live', run_name='__main__')\n"
        "except SystemExit: print('torch' in sys.modules, 'av' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == "False False"
