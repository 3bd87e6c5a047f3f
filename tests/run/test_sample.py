"""A sample of a run goes through the model again: durable, every clip accounted for."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from scipy.stats import spearmanr

from jobs import evaluate as job
from jobs.cli import run_job
from jobs.evaluate import EvaluateConfig, evaluate, planned, stages_of
from pipeline.clips.columns import Columns
from pipeline.dataset.manifest import read_manifest
from pipeline.errors import RunMismatchError, StoreError
from pipeline.evaluation.measures import MEASURES, measures_of
from pipeline.evaluation.stage import MeasureClips
from pipeline.run.sample import plan_sample, prepare_sample, stratified
from pipeline.run.serial import execute_serially
from pipeline.status import Status
from pipeline.store.measured import GROUPS
from pipeline.store.opening import open_store
from pipeline.store.pending import pending_rows, reset_rows
from pipeline.store.run_folder import store_url
from tests.support.clips import write_mp4
from tests.support.runs import prepared, random_frames, write_inputs

ROOT = Path(__file__).parents[2]
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
    out, err = capsys.readouterr()
    assert f"evaluate: 100% {len(ok)}/{len(ok)}" in err
    assert f"evaluate: {len(ok)} clips" in out
    figure = (values["gap"] - values["random_gap"])[:, :, 0].mean()
    (line,) = [line for line in out.splitlines() if line.startswith("gap patches  ")]
    assert line.split()[2] == f"{figure:.3f}"


def test_a_clip_by_itself_has_the_same_values(run):
    plan = planned(config_of(run))
    prepare_sample(plan)
    execute_serially(plan, stages_of=stages_of(config_of(run)))
    whole = measured(run)
    few = planned_elsewhere(run, clips=3)
    execute_serially(few, stages_of=stages_of(config_of(run)))
    part = measured(run)
    rows = np.searchsorted(whole["run_row"], part["run_row"])
    assert len(rows) == 3
    for name in ("gap", "removed", "random_kept", "paper_tau"):
        np.testing.assert_array_equal(part[name], whole[name][rows])


EVERYTHING = {"time": True, "sanity": True}


def test_clips_are_held_against_random_orders_of_their_own(tmp_path):
    """One order for all would leave its luck in the mean over any number of clips."""
    inputs = write_inputs(tmp_path, 3)
    first, *others = sorted((tmp_path / "clips").glob("*.mp4"))
    for path in others:
        shutil.copy(first, path)
    execute_serially(prepared(inputs.config(tmp_path / "run")))
    assert command(tmp_path / "run", "--clips=0") == 0
    values = measured(tmp_path / "run")
    for name in ("random_gap", "random_removed"):
        of_clips = values[name].reshape(3, -1)
        # The same clip three times, and not the same by rounding.
        assert len(np.unique(of_clips.round(5), axis=0)) == 3


@pytest.fixture(scope="module")
def with_importance(inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("importance") / "run"
    method = {"name": "evidence", "frame_importance": "insertion"}
    execute_serially(prepared(inputs.config(out, method=method)))
    return out


def test_time_and_sanity_are_measured_of_the_same_clips_in_as_many_passes_as_they_need(
    with_importance, tmp_path, capsys
):
    run = Path(shutil.copytree(with_importance, tmp_path / "run"))
    versions, n_seen = set(), 0

    class Counting(MeasureClips):
        def __init__(self, *args, **given):
            super().__init__(*args, **given)
            self._model._adapter.model.register_forward_pre_hook(self.count, with_kwargs=True)

        def count(self, module, args, given):
            nonlocal n_seen
            n_seen += len(given["pixel_values"])
            weights = sum(float(p.double().sum()) for p in module.parameters())
            versions.update((clip.numpy().tobytes(), weights) for clip in given["pixel_values"])

    config = config_of(run, clips=3, **EVERYTHING)
    plan = planned(config)
    prepare_sample(plan)
    execute_serially(
        plan,
        stages_of=lambda *given: replace(stages_of(config)(*given), attribute=Counting),
    )
    values = measured(run)
    assert n_seen == values["n_forward"].sum() <= 1.1 * len(versions)
    store = open_store(store_url(str(run)))
    for measure in measures_of(GROUPS, store.layout):
        assert values[measure.name].shape == (3, *measure.shape)
        assert np.isfinite(values[measure.name]).all()
    assert "importance_agreement" in values
    for row, clip in zip(values["run_row"], range(3), strict=True):
        importance = store.array("frame_importance")[int(row)]
        expected = spearmanr(importance, values["shapley"][clip]).statistic
        assert values["importance_agreement"][clip] == pytest.approx(
            0 if np.isnan(expected) else expected, abs=1e-6
        )
    # What the run has stored, with S in half precision.
    np.testing.assert_allclose(values["recomputed"], 1, atol=1e-4)
    # The same command finds all of it done, and prints it.
    assert command(run, "--clips=3", "--time", "--sanity") == 0
    out = capsys.readouterr().out
    own = f"{values['shapley_agreement'].mean():.3f}"
    for name, array in (("T of the map", "temporal"), ("frame importance", "importance")):
        (line,) = [line for line in out.splitlines() if line.startswith(name)]
        assert f"{values[f'{array}_agreement'].mean():.3f}" in line
        assert line.split("(few videos)")[1].strip() == own
    assert "absent frames show the clip's median frame" in out
    assert "correlation with the runner-up's map" in out
    assert "by construction" not in out
    assert max(map(len, out.splitlines()[:-1])) <= 100


def test_each_group_can_be_asked_for_alone(run, capsys):
    faithful = measured_by(run, capsys, "--faithfulness")
    assert "by class" not in faithful
    time = measured_by(run, capsys, "--time")
    sanity = measured_by(run, capsys, "--sanity")
    assert "T of the map" in time
    assert "less random orders" not in time
    assert "sanity" in sanity
    assert "gap frames !" in faithful
    assert "Shapley" not in faithful


def test_every_group_alone_is_printed_by_class_too(run, capsys):
    heads = {
        "--faithfulness": "gap patches of class",
        "--time": "T of the map of class",
        "--sanity": "class sensitivity of class",
    }
    store = open_store(store_url(str(run)))
    for flag, head in heads.items():
        out = measured_by(run, capsys, flag, "--by-class")
        (line,) = [line for line in out.splitlines() if line.startswith(head)]
        assert line.endswith("  clips")
        told = {
            name
            for name in store.record.class_names
            if any(part.startswith(f"{name} ") for part in out.partition(head)[2].splitlines())
        }
        labels = store.array("label")[:][measured(run)["run_row"]]
        assert told == {store.record.class_names[label] for label in labels}
        assert f"analysis.measured_by_class('{run}')" in out


def test_of_a_method_that_is_blind_to_the_class_it_is_told(inputs, tmp_path, capsys):
    config = inputs.config(tmp_path / "run", method={"name": "rollout"})
    execute_serially(prepared(config))
    out = measured_by(tmp_path / "run", capsys, "--sanity", "--by-class")
    assert "random blocks of class" in out
    assert "This method doesn't look at the class: the first two are 1 by construction." in out
    assert (measured(tmp_path / "run")["n_forward"] == 5).all()


def measured_by(run, capsys, *flags):
    argv = [str(run), *flags, "--serial", "--device=cpu", "--clips=2", "--overwrite"]
    assert run_job(EvaluateConfig, evaluate, verb="evaluate", argv=argv) == 0
    return capsys.readouterr().out


def test_a_sample_is_known_by_how_it_was_measured_and_another_group_is_one_line(run, capsys):
    """What these values are named decides whether a sample that was begun before goes on."""
    plan = planned(config_of(run, clips=4))
    identity = plan.record.identity.measured
    assert {name: identity[name] for name in ("by", "version", "n_random")} == {
        **{"by": "faithfulness", "version": 2, "n_random": 1}
    }
    assert set(identity) == {"by", "version", "n_random", "run", "seed"}
    assert plan.record.layout.measures == MEASURES
    prepare_sample(plan)
    assert command(run, "--clips=4", "--time") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "holds what another sample has told: measured.by is 'faithfulness' there" in captured.err
    assert captured.err.count("\n") == 1
    assert command(run, "--clips=4") == 0


def test_a_process_that_is_killed_loses_one_shard_at_most(run, tmp_path):
    """Killed within the third clip; the same command goes on, in the same bits."""
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal, sys\n"
        "from dataclasses import replace\n"
        "from jobs.evaluate import stages_of\n"
        "from pipeline.evaluation.stage import MeasureClips\n"
        "from pipeline.run.sample import prepare_sample\n"
        "from pipeline.run.serial import execute_serially\n"
        "from tests.run.test_sample import EVERYTHING, config_of, in_shards_of_two\n"
        "class Killed(MeasureClips):\n"
        "    n_batches = 0\n"
        "    def __call__(self, batch):\n"
        "        self.n_batches += 1\n"
        "        if self.n_batches == 3:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().__call__(batch)\n"
        "config = config_of(sys.argv[1], **EVERYTHING)\n"
        "plan = in_shards_of_two(config)\n"
        "prepare_sample(plan)\n"
        "execute_serially(plan, stages_of=lambda *given: replace("
        "stages_of(config)(*given), attribute=Killed))\n"
    )
    killed = subprocess.run(
        [sys.executable, script, run], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert (measured(run)["status"] == Status.OK).tolist() == [True] * 4 + [False] * 4
    config, calls = config_of(run, **EVERYTHING), []

    class Noting(MeasureClips):
        def __call__(self, batch):
            calls.extend(batch["row"].tolist())
            return super().__call__(batch)

    plan = in_shards_of_two(config)
    prepare_sample(plan)
    execute_serially(
        plan, stages_of=lambda *given: replace(stages_of(config)(*given), attribute=Noting)
    )
    assert calls == [4, 5, 6, 7]
    resumed = measured(run)
    shutil.rmtree(run / "faithfulness")
    whole = in_shards_of_two(config)
    prepare_sample(whole)
    execute_serially(whole, stages_of=stages_of(config))
    for name, values in measured(run).items():
        np.testing.assert_array_equal(resumed[name], values, err_msg=name)


@pytest.mark.parametrize("damage", ["cut", "lost"])
@pytest.mark.parametrize(
    "name", ["spatial", "temporal", "target", "clip_digest", "frame_importance"]
)
def test_what_is_damaged_of_the_run_is_not_measured(
    with_importance, tmp_path, capsys, name, damage
):
    """Zarr makes up NaN and class -1 for it, by which parts can be ordered and a model asked.

    Nor is it another file, or the model's fault, which would be kept in the sample.
    """
    run = Path(shutil.copytree(with_importance, tmp_path / "run"))
    path = object_of(store_url(str(run)), name)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
        found = "can't be read: "
    else:
        path.unlink()
        found = "has lost objects: of rows 0 to "
    assert command(run, "--clips=2", "--time") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{name} {found}" in err
    assert "; jobs.verify" in err
    assert "Traceback" not in err
    assert (measured(run)["status"] == Status.PENDING).all()


@pytest.mark.parametrize("damage", ["cut", "lost"])
def test_no_sample_is_drawn_by_labels_that_are_damaged(run, capsys, damage):
    path = object_of(store_url(str(run)), "label")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        path.unlink()
    assert command(run, "--clips=2") == 2
    _, err = capsys.readouterr()
    assert "/label " in err
    assert "; jobs.verify" in err
    assert not (run / "faithfulness").exists()


@pytest.mark.parametrize("name", ["gap", "run_row"])
@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_what_is_damaged_of_a_sample_is_in_no_mean(run, capsys, name, damage):
    assert command(run, "--clips=2") == 0
    path = object_of(f"{run}/faithfulness/metrics.zarr", name)
    if damage == "lost":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-3])
    capsys.readouterr()
    assert command(run, "--clips=2") == 2
    out, err = capsys.readouterr()
    assert "gap patches" not in out
    assert "--overwrite measures the sample again" in err
    assert name in err
    assert command(run, "--clips=2", "--overwrite") == 0


def object_of(url, name):
    return Path(open_store(url).object_url(name, 0))


def in_shards_of_two(config):
    return plan_sample(
        config.run,
        f"{config.run}/faithfulness",
        measures_of(config.groups, open_store(store_url(config.run)).layout),
        {"by": ",".join(config.groups)},
        n_videos=0,
        seed=0,
        options={"device": "cpu"},
        rows_per_shard=2,
    )


def planned_elsewhere(run, **changes):
    shutil.rmtree(run / "faithfulness")
    plan = planned(config_of(run, **changes))
    prepare_sample(plan)
    return plan


def test_it_goes_on_where_it_was_and_ends_in_the_same_bits(run):
    calls = []

    class Noting(MeasureClips):
        def __call__(self, batch):
            calls.extend(batch["row"][batch["status"] == Status.OK].tolist())
            return super().__call__(batch)

    def noting(plan, device, channel):
        return replace(stages_of(config_of(run))(plan, device, channel), attribute=Noting)

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

    class Short(MeasureClips):
        def __init__(self, *args, **given):
            super().__init__(*args, **{**given, "timed": short})

    plan = planned(config_of(run))
    prepare_sample(plan)
    execute_serially(
        plan,
        stages_of=lambda *given: replace(stages_of(config_of(run))(*given), attribute=Short),
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


def test_a_sample_is_kept_where_its_clips_are_gone_and_it_is_to_be_measured_again(
    run, inputs, capsys, tmp_path
):
    assert command(run, "--clips=2") == 0
    clips = Path(read_manifest(inputs.manifest).root.removeprefix("file:"))
    clips.rename(tmp_path / "away")
    try:
        assert command(run, "--clips=2", "--overwrite") == 2
    finally:
        (tmp_path / "away").rename(clips)
    assert "clips: " in capsys.readouterr().err
    names = read_manifest(str(run / "faithfulness/manifest.parquet"))
    for path in names.rows(0, names.n_rows)["path"].to_pylist():
        (clips / path).rename(tmp_path / path)
    try:
        assert command(run, "--clips=2", "--overwrite") == 2
    finally:
        for path in names.rows(0, names.n_rows)["path"].to_pylist():
            (tmp_path / path).rename(clips / path)
    assert "none of the 2 clips of" in capsys.readouterr().err
    assert len(measured(run)["status"]) == 2


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
