"""What `jobs.forget` takes out is nowhere in a run's folder, and no command brings it back."""

import re
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from analysis import open_run, run_summary, scores
from jobs import forget as job_module
from jobs.aggregate import AggregateConfig, aggregate
from jobs.cli import run_job
from jobs.forget import ForgetConfig, forget
from jobs.status import StatusConfig, status
from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.run.serial import execute_serially
from pipeline.status import Status
from pipeline.store.lease import Lease
from pipeline.store.opening import open_store
from pipeline.store.pending import read_status
from pipeline.store.removed import Removals
from pipeline.store.run_folder import CACHES_NAME, lease_url, store_url
from pipeline.store.verify import repair_store, verify_store
from tests.support.runs import (
    given_once,
    prepared,
    run_attribute,
    stored_columns,
    write_inputs,
)

N_CLIPS = 10
GONE = (2, 5)
"""One row of each of the first two shards; the last of them is a failed one."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("forget"), N_CLIPS, {5: "empty", 7: "missing"})


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    execute_serially(prepared(inputs.config(out)))
    assert (
        run_job(AggregateConfig, aggregate, verb="aggregate", argv=[str(out), "--no-report"]) == 0
    )
    (out / "report").mkdir()
    (out / "report" / "clip.js").write_text(" ".join(inputs.video_ids))
    return out


@pytest.fixture
def out(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.fixture
def listed(inputs, tmp_path):
    """A file with the id of one video and the path of another."""
    path = read_manifest(inputs.manifest).rows(GONE[1], GONE[1] + 1)["path"][0].as_py()
    file = tmp_path / "videos.txt"
    # As some editors write it.
    file.write_text(f"{inputs.video_ids[GONE[0]]}\n\n{path}\n", encoding="utf-8-sig")
    return file


@pytest.fixture
def run(capsys):
    def of(out, listed, *flags):
        argv = [str(out), f"--videos={listed}", *flags]
        # What was said before isn't the command's.
        capsys.readouterr()
        return run_job(ForgetConfig, forget, verb="forget", argv=argv), *capsys.readouterr()

    return of


def assert_gone(out, rows, before=None):
    """Nothing but the status is left of rows, and everything of others."""
    columns = stored_columns(out)
    fills = {name: spec.fill_value for name, spec in layout(out).arrays().items()}
    for name, values in columns.items():
        gone, kept = values[rows], np.delete(values, rows, axis=0)
        if name == "status":
            assert (gone == Status.REMOVED).all()
            assert (kept != Status.REMOVED).all()
        elif values.dtype.kind == "f":
            assert np.isnan(gone).all(), name
        else:
            assert (gone == fills[name]).all(), name
        if before is not None:
            np.testing.assert_array_equal(kept, np.delete(before[name], rows, axis=0))
    assert verify_store(open_store(store_url(str(out)))) == []


def layout(out):
    return open_store(store_url(str(out))).layout


def occurrences(folder, *texts):
    """Files below a folder that hold one of some texts."""
    return [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and any(text.encode() in path.read_bytes() for text in texts)
    ]


def test_nothing_is_left_of_the_videos_and_all_of_the_others(inputs, out, listed, run):
    before = stored_columns(out)
    exit_code, stdout, stderr = run(out, listed)
    assert (exit_code, stderr) == (0, "")
    assert stdout.startswith(f"forget: 2 rows of {out} are removed, and stay so\n")
    assert "deleted statistics.zarr, report, scores.parquet, spatial_maps.zarr; " in stdout
    assert_gone(out, list(GONE), before)
    failures = pq.read_table(out / "failures.parquet")
    assert failures["row"].to_pylist() == [7]
    left = {path.name for path in out.iterdir()}
    assert left == {"attributions.zarr", "failures.parquet", "pace.json", "removed.json"}
    assert occurrences(out, *(inputs.video_ids[row] for row in GONE)) == []


def parts_of(cache):
    """Frames and entries of each part of a cache."""
    groups = [zarr.open_group(part, mode="r") for part in cache.glob("*.zarr")]
    return [(group["frames"][:], group["entries"][:]) for group in groups]


def test_frames_leave_the_runs_cache(inputs, tmp_path, listed, run):
    out, cache = tmp_path / "cached", tmp_path / "frames"
    argv = inputs.flags(out, "--serial", f"--frames-cache={cache}", "--max-failed-fraction=0.5")
    assert run_attribute(argv) == 0
    (part,) = cache.iterdir()
    before = {name: zarr.open_group(part)[name][:] for name in ("frames", "entries")}
    assert all(values[GONE[0]].any() for values in before.values())
    exit_code, stdout, _ = run(out, listed)
    assert exit_code == 0
    assert f"forget: file://{cache} gave up the frames of 1 rows\n" in stdout
    for name, values in before.items():
        after = zarr.open_group(part)[name][:]
        assert not after[list(GONE)].any()
        kept = np.delete(np.arange(N_CLIPS), GONE)
        np.testing.assert_array_equal(after[kept], values[kept])


def test_frames_leave_every_cache_that_was_used_wherever_the_commands_are_started(
    inputs, tmp_path, listed, run, monkeypatch
):
    """One is given relatively, and the other when the run is resumed; both lose the same clip."""
    out, table = tmp_path / "cached", pq.read_table(inputs.manifest)
    flags = inputs.flags(out, "--serial", "--max-failed-fraction=0.5")
    monkeypatch.chdir(tmp_path)
    assert run_attribute([*flags, "--frames-cache=first"]) == 0
    # What has failed is pending again, and more rows are.
    longer = str(tmp_path / "longer.parquet")
    rows = [*table.to_pylist(), table.to_pylist()[GONE[0]] | {"video_id": "another"}]
    write_manifest(type(table).from_pylist(rows, schema=table.schema), longer)
    second = [f"--frames-cache={tmp_path / 'second'}", f"--manifest={longer}", "--append"]
    assert run_attribute(given_once([*flags, *second])) == 0
    digest = open_store(store_url(str(out))).array("clip_digest")[GONE[0]].tobytes()
    caches = [tmp_path / "first", tmp_path / "second"]
    assert all(digest in entries.tobytes() for cache in caches for _, entries in parts_of(cache))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    exit_code, stdout, stderr = run(out, listed)
    assert (exit_code, stderr) == (0, "")
    for cache in caches:
        assert f"forget: file://{cache} gave up the frames of 1 rows\n" in stdout
        (entries,) = (entries for _, entries in parts_of(cache))
        assert digest not in entries.tobytes()
    gone = (inputs.video_ids[row] for row in GONE)
    assert occurrences(tmp_path, *(f'"{name}"' for name in gone)) == []


@pytest.mark.parametrize("release", ["this", "earlier"])
def test_a_cache_that_is_not_there_is_told_and_its_place_can_be_given(
    inputs, tmp_path, listed, run, monkeypatch, release
):
    out, moved = tmp_path / "cached", tmp_path / "moved"
    monkeypatch.chdir(tmp_path)
    argv = inputs.flags(out, "--serial", "--frames-cache=frames", "--max-failed-fraction=0.5")
    assert run_attribute(argv) == 0
    (tmp_path / "frames").rename(moved)
    if release == "earlier":
        (out / CACHES_NAME).unlink()
    ((_, before),) = parts_of(moved)
    exit_code, stdout, stderr = run(out, listed)
    assert exit_code == 1
    assert "2 rows of " in stdout
    where = f"file://{tmp_path}/frames" if release == "this" else "frames"
    assert stderr.startswith(f"forget: warning: {where} isn't there")
    exit_code, stdout, stderr = run(out, listed, f"--frames-cache={moved}")
    assert (exit_code, stderr) == (0, "")
    assert f"forget: file://{moved} gave up the frames of 1 rows\n" in stdout
    ((_, after),) = parts_of(moved)
    assert before[GONE[0]].any()
    assert not after[GONE[0]].any()
    exit_code, _, stderr = run(out, listed, f"--frames-cache={tmp_path / 'nowhere'}")
    assert exit_code == 1
    assert f"file://{tmp_path}/nowhere isn't there" in stderr


def test_frames_that_can_not_be_found_without_the_manifest_are_not_taken_for_erased(
    inputs, tmp_path, listed, run
):
    out, cache = tmp_path / "cached", tmp_path / "frames"
    argv = inputs.flags(out, "--serial", f"--frames-cache={cache}", "--max-failed-fraction=0.5")
    assert run_attribute(argv) == 0
    group = open_store(store_url(str(out)), mode="r+").group
    group.attrs["config"] = group.attrs["config"] | {"manifest": str(tmp_path / "gone.parquet")}
    exit_code, stdout, stderr = run(out, listed)
    assert exit_code == 1
    assert "gave up the frames of 1 rows" in stdout
    assert f"file://{cache} may still have frames of videos that failed" in stderr


@pytest.mark.parametrize("order", ["longer", "reversed"])
def test_frames_leave_a_cache_whose_rows_are_those_of_another_manifest(
    inputs, tmp_path, listed, run, order
):
    """Of a longer one that begins with the run's, or of one in another order."""
    out, cache = tmp_path / "cached", tmp_path / "frames"
    shared = ("--serial", f"--frames-cache={cache}", "--max-failed-fraction=0.5")
    table = pq.read_table(inputs.manifest)
    rows = table.to_pylist()
    rows = rows[::-1] if order == "reversed" else [*rows, rows[0] | {"video_id": "another"}]
    other = tmp_path / "other.parquet"
    write_manifest(type(table).from_pylist(rows, schema=table.schema), str(other))
    if order == "longer":
        assert run_attribute(inputs.flags(out, *shared)) == 0
    of_other = inputs.flags(tmp_path / "other", *shared, f"--manifest={other}")
    assert run_attribute(of_other) == 0
    if order == "reversed":
        assert run_attribute(inputs.flags(out, *shared)) == 0
    store = open_store(store_url(str(tmp_path / "other")))
    digests = store.array("clip_digest")[:]
    place = GONE[0] if order == "longer" else N_CLIPS - 1 - GONE[0]
    assert any(digests[place].tobytes() in entries.tobytes() for _, entries in parts_of(cache))
    assert run(out, listed)[0] == 0
    kept = {bytes(digests[row]) for row in np.flatnonzero(read_status(store) == Status.OK)}
    kept.remove(bytes(digests[place]))
    for frames, entries in parts_of(cache):
        stored = entries.tobytes()
        assert digests[place].tobytes() not in stored
        assert all(digest in stored for digest in kept)
        assert not frames[~entries.any(axis=1)].any()


def test_tables_that_are_made_again_have_the_rows_without_what_they_were(inputs, out, listed, run):
    run(out, listed)
    table = scores(str(out))
    assert table["status"].astype(str).tolist().count("removed") == len(GONE)
    of_gone = table.iloc[list(GONE)]
    assert (of_gone["video_id"] == "").all()
    for name in ("path", "label", "prediction", "split", "start_time", "entropy", "probability"):
        assert of_gone[name].isna().all(), name
    for name in ("label_index", "prediction_index"):
        assert (of_gone[name] == -1).all(), name
    counts = run_summary(open_run(str(out)))
    assert counts["n_removed"] == len(GONE)
    assert counts["n_failed"] == 1
    assert counts["n_rows"] == sum(
        counts[name] for name in ("n_ok", "n_failed", "n_removed", "n_unused", "n_pending")
    )


@pytest.mark.parametrize(
    "flags", [(), ("--retry-failed=all",), ("--overwrite",)], ids=["again", "retry", "overwrite"]
)
def test_no_later_command_over_the_same_manifest_brings_them_back(
    inputs, out, listed, run, flags, capsys
):
    before = stored_columns(out)
    run(out, listed)
    argv = inputs.flags(out, "--serial", "--max-failed-fraction=0.5", *flags)
    assert run_attribute(argv) == 0
    assert "2 removed" in capsys.readouterr().out
    assert_gone(out, list(GONE), before)
    assert pq.read_table(out / "failures.parquet")["row"].to_pylist() == [7]


def test_rows_that_are_appended_stay_out_if_their_file_was_named(
    inputs, out, listed, run, tmp_path
):
    run(out, listed)
    table = pq.read_table(inputs.manifest)
    again = table.take([*range(N_CLIPS), GONE[0], 0])
    # Under another id, the file is the same.
    ids = [*table["video_id"].to_pylist(), "another-id", "a-copy"]
    again = again.set_column(0, "video_id", [ids])
    longer = str(tmp_path / "longer.parquet")
    write_manifest(again.cast(table.schema), longer)
    argv = inputs.flags(out, f"--manifest={longer}", "--serial", "--append")
    assert run_attribute([*argv, "--max-failed-fraction=0.5"]) == 0
    status = read_status(open_store(store_url(str(out))))
    assert np.flatnonzero(status == Status.REMOVED).tolist() == [*GONE, N_CLIPS]
    assert status[N_CLIPS + 1] == Status.OK


@pytest.mark.parametrize("array", ["spatial", "status"])
def test_a_repair_does_not_bring_them_back(inputs, out, listed, run, array):
    before = stored_columns(out)
    run(out, listed)
    damaged = Path(open_store(store_url(str(out))).object_url(array, 0))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    store = open_store(store_url(str(out)), mode="r+")
    rows = repair_store(store, verify_store(store))
    assert (GONE[0] in rows) == (array == "status")
    assert run_attribute(inputs.flags(out, "--serial", "--max-failed-fraction=0.5")) == 0
    assert_gone(out, list(GONE), before)


@dataclass(frozen=True)
class CutOff(Lease):
    """A lease during whose n-th check the command is interrupted."""

    nth: int = 1
    checks: list[None] = field(default_factory=list)

    def check(self):
        self.checks.append(None)
        if len(self.checks) >= self.nth:
            raise KeyboardInterrupt


def interrupted(out, listed, nth):
    store = open_store(store_url(str(out)), mode="r+")
    lease = CutOff(lease_url(str(out)), holder=None, nth=nth)
    argv = [str(out), f"--videos={listed}"]

    def job(config):
        return job_module._forget(config, job_module._names(config.videos), store, lease)

    assert run_job(ForgetConfig, job, verb="forget", argv=argv) == 130


@pytest.mark.parametrize("cut_at", ["nothing is erased", "rows are erased", "all but the note"])
def test_what_was_cut_off_is_finished_by_the_next_command(inputs, out, listed, run, cut_at):
    before = stored_columns(out)
    if cut_at == "rows are erased":
        interrupted(out, listed, nth=2)
        assert not (out / "scores.parquet").exists()
    else:
        kept = shutil.copytree(out, out.with_name("kept"))
        run(out, listed)
        if cut_at == "nothing is erased":
            told = (out / "removed.json").read_bytes()
            shutil.rmtree(out)
            shutil.move(kept, out)
            (out / "removed.json").write_bytes(told)
        replace(Removals.read(str(out)), is_erased=False).write(str(out))
    assert not Removals.read(str(out)).is_erased
    assert run_attribute(inputs.flags(out, "--serial", "--max-failed-fraction=0.5")) == 0
    assert_gone(out, list(GONE), before)
    assert Removals.read(str(out)).is_erased
    assert not (out / "report").exists()


def test_before_the_names_are_kept_nothing_is_changed(out, listed):
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    interrupted(out, listed, nth=1)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_without_its_manifest_a_run_is_matched_by_the_ids_that_it_stored(
    inputs, out, listed, run, tmp_path
):
    group = open_store(store_url(str(out)), mode="r+").group
    config = group.attrs["config"] | {"manifest": str(tmp_path / "gone.parquet")}
    group.attrs["config"] = config
    exit_code, stdout, stderr = run(out, listed)
    assert exit_code == 0
    assert "paths aren't known" in stderr
    assert "1 rows" in stdout
    assert "1 names are of no video of the run" in stdout


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "videos: can't read "),
        ("", "has no lines"),
        ("video_id,why\nx,consent\n", "videos: none of 2 lines of .* the first is 'video_id,why'"),
        (b"\xff\xfe", "videos: can't read "),
    ],
)
def test_a_list_that_names_nothing_changes_nothing(out, run, tmp_path, text, told):
    file = tmp_path / "list.txt"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    exit_code, _, stderr = run(out, file)
    assert exit_code == 2
    (line,) = stderr.splitlines()
    assert re.search(told, line)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_the_status_of_a_run_counts_them(out, listed, run, capsys):
    run(out, listed)
    assert run_job(StatusConfig, status, verb="status", argv=[str(out)]) == 0
    assert "10 of 10 done (100.0%), 0 pending, 1 failed, 2 removed" in capsys.readouterr().out


def test_a_damaged_list_of_what_was_removed_stops_a_run(inputs, out, listed, run):
    run(out, listed)
    (out / "removed.json").write_text("{")
    assert run_attribute(inputs.flags(out, "--serial")) == 2
