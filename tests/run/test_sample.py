"""A sample of a run goes through the model again: durable, every clip accounted for."""

import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import zarr

from jobs import evaluate as job
from jobs.cli import run_job
from jobs.evaluate import EvaluateConfig, evaluate, planned, stages_of
from pipeline.clips.columns import Columns
from pipeline.dataset.manifest import read_manifest
from pipeline.errors import RunMismatchError, StoreError
from pipeline.evaluation.stage import MEASURES, MeasureFaithfulness
from pipeline.run.sample import plan_sample, prepare_sample, stratified
from pipeline.run.serial import execute_serially
from pipeline.status import Status
from pipeline.store.opening import open_store
from pipeline.store.pending import pending_rows, reset_rows
from pipeline.store.run_folder import store_url
from tests.support.clips import write_mp4
from tests.support.runs import prepared, random_frames, write_inputs

N_CLIPS = 10
DAMAGED = {1: "missing", 5: "empty"}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("sample"), N_CLIPS, DAMAGED)


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    execute_serially(prepared(inputs.config(out)))
    return out


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


def config_of(run, **changes):
    given = {"run": str(run), "faithfulness": True, "serial": True, "clips": 0, "device": "cpu"}
    return EvaluateConfig.model_validate(given | changes)


def command(run, *flags):
    argv = [str(run), "--faithfulness", "--serial", "--device=cpu", *flags]
    return run_job(EvaluateConfig, evaluate, verb="evaluate", argv=argv)


def measured(run) -> Columns:
    group = zarr.open_group(f"{run}/faithfulness/metrics.zarr", mode="r")
    return {name: group[name][:] for name in group.array_keys()}


def test_classes_have_as_many_clips_each_as_far_as_they_have_them():
    rng = np.random.default_rng(20261128)
    labels = rng.permutation(np.repeat([0, 1, 2, -1], [100, 3, 40, 20]))
    chosen = stratified(labels, 43, 7)
    assert (np.diff(chosen) > 0).all()
    counts = [int((labels[chosen] == label).sum()) for label in (0, 1, 2, -1)]
    assert counts[1] == 3
    assert sum(counts) == 43
    assert max(counts[0], counts[2], counts[3]) - min(counts[0], counts[2], counts[3]) <= 1
    np.testing.assert_array_equal(chosen, stratified(labels, 43, 7))
    assert (chosen != stratified(labels, 43, 8)).any()
    for all_of_them in (0, 163, 500):
        np.testing.assert_array_equal(stratified(labels, all_of_them, 7), np.arange(163))


def test_every_ok_clip_is_measured_and_its_row_in_the_run_is_known(run, inputs, capsys):
    assert command(run, "--clips=0", "--by-class") == 0
    values = measured(run)
    ok = [row for row in range(N_CLIPS) if row not in DAMAGED]
    assert values["run_row"].tolist() == ok
    assert (values["status"] == Status.OK).all()
    assert values["video_id"].tolist() == [inputs.video_ids[row] for row in ok]
    prediction = open_store(store_url(str(run))).array("prediction")[:][ok]
    assert values["target"].tolist() == prediction.tolist()
    for measure in MEASURES:
        assert values[measure.name].shape == (len(ok), *measure.shape)
        assert np.isfinite(values[measure.name]).all()
    assert len(pq.read_table(run / "faithfulness/failures.parquet")) == 0
    out = capsys.readouterr().out
    assert f"evaluate: {len(ok)} clips" in out
    figure = (values["gap"] - values["random_gap"])[:, :, 0].mean()
    (line,) = [line for line in out.splitlines() if line.startswith("gap patches  ")]
    assert line.split()[2] == f"{figure:.3f}"


def test_a_clip_by_itself_has_the_same_values(run):
    plan = planned(config_of(run))
    prepare_sample(plan)
    execute_serially(plan, stages_of=stages_of(1))
    whole = measured(run)
    few = planned_elsewhere(run, clips=3)
    execute_serially(few, stages_of=stages_of(1))
    part = measured(run)
    rows = np.searchsorted(whole["run_row"], part["run_row"])
    assert len(rows) == 3
    for name in ("gap", "removed", "random_kept", "paper_tau"):
        np.testing.assert_array_equal(part[name], whole[name][rows])


def planned_elsewhere(run, **changes):
    shutil.rmtree(run / "faithfulness")
    plan = planned(config_of(run, **changes))
    prepare_sample(plan)
    return plan


def test_it_goes_on_where_it_was_and_ends_in_the_same_bits(run):
    calls = []

    class Noting(MeasureFaithfulness):
        def __call__(self, batch):
            calls.extend(batch["row"][batch["status"] == Status.OK].tolist())
            return super().__call__(batch)

    def noting(plan, device, channel):
        return replace(stages_of(1)(plan, device, channel), attribute=Noting)

    def measure():
        calls.clear()
        plan = plan_sample(
            str(run),
            f"{run}/faithfulness",
            MEASURES,
            {"by": "faithfulness"},
            n_videos=0,
            seed=0,
            options={"device": "cpu"},
            rows_per_shard=4,
        )
        prepare_sample(plan)
        execute_serially(plan, stages_of=noting)

    measure()
    assert calls == list(range(8))
    expected = measured(run)
    store = open_store(f"{run}/faithfulness/metrics.zarr", mode="r+")
    assert store.layout.n_shards == 2
    store.array("status")[4:] = Status.PENDING
    store.array("gap")[4:] = np.nan
    measure()
    assert calls == list(range(4, 8))
    got = measured(run)
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)
    measure()
    assert calls == []


def test_a_clip_that_does_not_fit_into_memory_alone_is_a_row_with_a_name(run):
    n_passes = 0

    @contextmanager
    def short(part):
        nonlocal n_passes
        n_passes += part == "forward"
        if part == "forward" and n_passes == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    class Short(MeasureFaithfulness):
        def __init__(self, *args, **given):
            super().__init__(*args, **{**given, "timed": short})

    plan = planned(config_of(run))
    prepare_sample(plan)
    execute_serially(
        plan,
        stages_of=lambda *given: replace(stages_of(1)(*given), attribute=Short),
    )
    values = measured(run)
    status = values["status"].tolist()
    assert status.count(Status.MODEL_ERROR) == 1
    assert status.count(Status.OK) == len(status) - 1
    (failure,) = pq.read_table(run / "faithfulness/failures.parquet").to_pylist()
    assert failure["message"] == "out of memory with 1 clip in a forward pass"
    assert np.isnan(values["gap"][status.index(Status.MODEL_ERROR)]).all()


def test_what_fails_is_a_row_with_a_name(run, inputs, capsys, tmp_path):
    clips = Path(read_manifest(inputs.manifest).root.removeprefix("file:"))
    kept = tmp_path / "kept"
    shutil.copytree(clips, kept)
    names = read_manifest(inputs.manifest).take(np.array([0, 2, 3]))["path"].to_pylist()
    try:
        (clips / names[0]).unlink()
        (clips / names[1]).write_bytes(b"")
        # Another clip under the same name.
        write_mp4(clips / names[2], random_frames(9, seed=99))
        assert command(run, "--clips=0") == 1
    finally:
        for name in names:
            shutil.copy(kept / name, clips / name)
    values = measured(run)
    by_row = dict(zip(values["run_row"].tolist(), values["status"].tolist(), strict=True))
    assert (by_row[0], by_row[2], by_row[3]) == (Status.MISSING, Status.EMPTY, Status.MISSING)
    assert sum(code != Status.OK for code in by_row.values()) == 3
    failures = pq.read_table(run / "faithfulness/failures.parquet").to_pylist()
    assert [row["status"] for row in failures] == ["missing", "empty", "missing"]
    assert failures[2]["message"] == "the file isn't the one that the run has read"
    captured = capsys.readouterr()
    assert "2 missing, 1 empty; failures in" in captured.out
    assert "more than the run's max_failed_fraction" in captured.err
    failed = values["status"] != Status.OK
    assert np.isnan(values["gap"][failed]).all()


def test_another_sample_or_another_model_is_refused(run, inputs, capsys, tmp_path):
    prepare_sample(planned(config_of(run, clips=5)))
    with pytest.raises(RunMismatchError, match="5 clips of another sample than the 6"):
        planned(config_of(run, clips=6))
    with pytest.raises(RunMismatchError, match=r"measured\.n_random is 1 there and 2 here"):
        prepare_sample(planned(config_of(run, clips=5, n_random=2)))
    assert command(run, "--clips=6", "--overwrite") == 0
    assert len(measured(run)["status"]) == 6
    other = write_inputs(tmp_path / "other", 4)
    with pytest.raises(RunMismatchError, match=r"manifest: .* is another one than the run's"):
        planned(config_of(run, clips=6, manifest=other.manifest, overwrite=True))
    # Refused before anything was deleted.
    assert len(measured(run)["status"]) == 6


def test_an_unfinished_run_is_refused(run):
    reset_rows(open_store(store_url(str(run)), mode="r+"), [Status.OK])
    assert pending_rows(open_store(store_url(str(run)))).n_rows
    with pytest.raises(StoreError, match="has 8 rows that are pending; expected a finished run"):
        planned(config_of(run))


@pytest.mark.slow
def test_on_ray_values_are_those_of_a_serial_run(run, local_ray):
    assert command(run, "--clips=0") == 0
    expected = measured(run)
    shutil.rmtree(run / "faithfulness")
    config = config_of(run, serial=False, n_models=1)
    plan = planned(config)
    prepare_sample(plan)
    summary = job.execute(config, plan, None)
    assert summary.n_pending == 0
    got = measured(run)
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)
