"""Evaluation of a store: every ok clip against its own ground truth, row for row."""

from dataclasses import replace

import numpy as np
import pytest
import zarr

from jobs.cli import run_job
from jobs.evaluate import EvaluateConfig, evaluate
from pipeline.errors import StoreError
from pipeline.evaluation.evaluate import METHODS, evaluate_lift
from pipeline.focus import joint_attribution
from pipeline.status import Status
from pipeline.synthetic.dataset import SynthesizeConfig, write_dataset
from pipeline.synthetic.ground_truth import open_ground_truth
from tests.analysis.stores import PREPROCESSING, random_columns, small_layout, write_run

N_CLIPS = 10
GRID = (2, 4, 4)
LAYOUT = replace(small_layout(N_CLIPS), height=4, width=4)
FAILED = {1: Status.MISSING, 2: Status.MODEL_ERROR, 8: Status.TOO_SHORT, 9: Status.EMPTY}
"""Rows that failed; the last shard, rows 8 and 9, has no clip that is ok."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """URL of the ground truth of a small dataset, and its clips."""
    folder = tmp_path_factory.mktemp("dataset")
    config = SynthesizeConfig(
        **{"out": str(folder), "n_clips": N_CLIPS, "n_workers": 1, "width": 86, "height": 64},
        **{"fps": 8, "min_duration_s": 1, "max_duration_s": 2},
    )
    clips = list(write_dataset(config))
    return str(folder / "ground_truth.zarr"), clips


def columns_of(clips, failed=FAILED, seed=0):
    """Columns of a run over the clips; in a failed row nothing was seen."""
    rng = np.random.default_rng(seed)
    frames = [np.sort(rng.choice(clip.scene.n_frames, 4, replace=False)) for clip in clips]
    status = np.full(len(clips), Status.OK, np.uint8)
    frame_index = np.array(frames, np.int32)
    for row, outcome in failed.items():
        status[row], frame_index[row] = outcome, -1
    video_ids = np.array([clip.video_id for clip in clips], object)
    return random_columns(LAYOUT, seed, status=status, frame_index=frame_index, video_id=video_ids)


def metrics_of(run):
    group = zarr.open_group(f"{run}/metrics.zarr", mode="r")
    return {name: group[name] for name in group.array_keys()}


def test_every_ok_clip_is_held_against_its_own_ground_truth(dataset, tmp_path):
    url, clips = dataset
    columns = columns_of(clips)
    truth = open_ground_truth(url)
    lifts = evaluate_lift(write_run(tmp_path / "run", LAYOUT, columns), truth)
    joint = joint_attribution(columns["spatial"], columns["temporal"])
    covered, on_mask = [], []
    for row, clip in enumerate(clips):
        if row not in FAILED:
            frames = columns["frame_index"][row]
            mask = truth.patches(clip.video_id, frames, PREPROCESSING, GRID).astype(float)
            covered.append(mask.mean())
            on_mask.append((mask * joint[row]).sum())
    assert tuple(lifts) == METHODS
    assert lifts["staa"].n_clips == len(covered) == 6
    assert lifts["staa"].share == pytest.approx(np.mean(on_mask))
    assert lifts["staa"].value == pytest.approx(np.mean(on_mask) / np.mean(covered))
    assert lifts["uniform"].value == pytest.approx(1, abs=1e-9)
    assert lifts["uniform"].standard_error == pytest.approx(0, abs=1e-9)
    stored = metrics_of(tmp_path / "run")
    run = zarr.open_group(f"{tmp_path}/run/attributions.zarr", mode="r")
    metrics = zarr.open_group(f"{tmp_path}/run/metrics.zarr", mode="r")
    assert metrics.attrs["identity"] == run.attrs["identity"]
    ok = [row for row in range(N_CLIPS) if row not in FAILED]
    np.testing.assert_allclose(stored["mask_covered"][:][ok], covered, rtol=1e-6)
    np.testing.assert_allclose(stored["mask_share_staa"][:][ok], on_mask, rtol=1e-6)


def test_metrics_are_rows_of_the_run_and_nan_where_a_clip_failed(dataset, tmp_path):
    url, clips = dataset
    evaluate_lift(write_run(tmp_path / "run", LAYOUT, columns_of(clips)), open_ground_truth(url))
    stored = metrics_of(tmp_path / "run")
    assert set(stored) == {"mask_covered", *(f"mask_share_{method}" for method in METHODS)}
    for array in stored.values():
        assert (array.shape, array.dtype) == ((N_CLIPS,), np.float32)
        assert array.metadata.dimension_names == ("clip",)
        assert np.flatnonzero(np.isnan(array[:])).tolist() == sorted(FAILED)


def test_rows_that_are_pending_are_left_out(dataset, tmp_path):
    url, clips = dataset
    run = write_run(tmp_path / "run", LAYOUT, columns_of(clips), pending_shards=(0,))
    assert evaluate_lift(run, open_ground_truth(url))["staa"].n_clips == 4
    assert np.isnan(metrics_of(run)["mask_covered"][:4]).all()


def test_all_attention_on_the_actor_has_the_highest_lift(dataset, tmp_path):
    url, clips = dataset
    columns, truth = columns_of(clips, failed={}), open_ground_truth(url)
    for row, clip in enumerate(clips):
        mask = truth.patches(clip.video_id, columns["frame_index"][row], PREPROCESSING, GRID)
        columns["spatial"][row] = mask == mask.max(axis=(1, 2), keepdims=True)
        columns["spatial"][row] /= columns["spatial"][row].sum(axis=(1, 2), keepdims=True)
        columns["temporal"][row] = np.arange(2) == mask.max(axis=(1, 2)).argmax()
    on_actor = evaluate_lift(write_run(tmp_path / "best", LAYOUT, columns), truth)
    chance = evaluate_lift(write_run(tmp_path / "any", LAYOUT, columns_of(clips, {})), truth)
    highest = on_actor["staa"]
    assert highest.value > max(on_actor["center_gaussian"].value, chance["staa"].value, 2)
    assert {lift.covered for lift in chance.values()} == {highest.covered}


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_second_evaluation_replaces_the_first(dataset, tmp_path, prefix):
    url, clips = dataset
    run = write_run(tmp_path / "run", LAYOUT, columns_of(clips))
    first, second = (evaluate_lift(f"{prefix}{run}/", open_ground_truth(url)) for _ in range(2))
    assert first == second
    assert np.isfinite(metrics_of(run)["mask_share_staa"][:]).sum() == 6


def refuse(capsys, *argv):
    assert run_job(EvaluateConfig, evaluate, verb="evaluate", argv=argv) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("evaluate: error: ")
    assert stderr.count("\n") == 1
    return stderr


def test_the_job_prints_a_line_for_each_method_and_where_the_values_are(capsys, dataset, tmp_path):
    url, clips = dataset
    run = write_run(tmp_path / "run", LAYOUT, columns_of(clips))
    argv = [run, "--ground-truth", url]
    assert run_job(EvaluateConfig, evaluate, verb="evaluate", argv=argv) == 0
    lines = capsys.readouterr().out.splitlines()
    lifts = evaluate_lift(run, open_ground_truth(url))
    assert [line.split()[0] for line in lines[1:4]] == list(METHODS)
    for line, lift in zip(lines[1:4], lifts.values(), strict=True):
        _, share, covered, value, error = line.split()
        assert share == f"{lift.share:.1%}"
        assert covered == f"{lift.covered:.1%}"
        assert (value, error) == (f"{lift.value:.2f}", f"({lift.standard_error:.2f})")
    assert lines[4] == f"evaluate: 6 clips; values per clip in {run}/metrics.zarr"


def test_a_run_or_a_ground_truth_that_is_not_there_is_one_line(capsys, dataset, tmp_path):
    url, clips = dataset
    run = write_run(tmp_path / "run", LAYOUT, columns_of(clips))
    none = str(tmp_path / "none")
    assert f"no store at {none}" in refuse(capsys, none, f"--ground-truth={url}")
    for other in (none, f"{run}/attributions.zarr", str(tmp_path)):
        assert f"no ground truth at {other}" in refuse(capsys, run, f"--ground-truth={other}")
    assert "ground_truth: " in refuse(capsys, run)
    assert not (tmp_path / "run" / "metrics.zarr").exists()


def test_a_clip_without_ground_truth_is_named_and_nothing_is_written(capsys, dataset, tmp_path):
    url, clips = dataset
    columns = columns_of(clips)
    columns["video_id"][4] = "unheard-of"
    run = write_run(tmp_path / "run", LAYOUT, columns)
    assert "'unheard-of'" in refuse(capsys, run, f"--ground-truth={url}")
    assert not (tmp_path / "run" / "metrics.zarr").exists()
    # A row that failed has nothing to be held against it.
    columns = columns_of(clips, {**FAILED, 4: Status.MISSING})
    columns["video_id"][4] = "unheard-of"
    run = write_run(tmp_path / "failed", LAYOUT, columns)
    assert evaluate_lift(run, open_ground_truth(url))["staa"].n_clips == 5


def test_the_ground_truth_of_other_clips_of_the_same_names_is_refused(dataset, tmp_path):
    url, clips = dataset
    columns = columns_of(clips)
    columns["frame_index"][3] = [5, 50, 100, 150]
    run = write_run(tmp_path / "run", LAYOUT, columns)
    with pytest.raises(StoreError, match=f"'{clips[3].video_id}' .* frames 5 to 150"):
        evaluate_lift(run, open_ground_truth(url))


def test_a_run_without_an_ok_clip_is_refused(dataset, tmp_path):
    url, clips = dataset
    failed = dict.fromkeys(range(N_CLIPS), Status.MISSING)
    run = write_run(tmp_path / "run", LAYOUT, columns_of(clips, failed))
    with pytest.raises(StoreError, match="no clip is ok"):
        evaluate_lift(run, open_ground_truth(url))


@pytest.mark.filterwarnings("error")
def test_a_run_that_saw_no_action_is_refused(capsys, dataset, tmp_path):
    url, clips = dataset
    columns = columns_of(clips, {})
    for row, clip in enumerate(clips):
        start, end = clip.scene.window
        rests = [f for f in range(clip.scene.n_frames) if not start <= f / 8 <= end]
        columns["frame_index"][row] = rests[0]
    run = write_run(tmp_path / "run", LAYOUT, columns)
    assert "saw no action" in refuse(capsys, run, f"--ground-truth={url}")


def test_a_folder_in_which_no_metrics_can_be_written_is_one_line(capsys, dataset, tmp_path):
    url, clips = dataset
    run = write_run(tmp_path / "run", LAYOUT, columns_of(clips))
    (tmp_path / "run" / "metrics.zarr").write_text("a file")
    message = refuse(capsys, run, f"--ground-truth={url}")
    assert f"can't write metrics to {run}/metrics.zarr" in message
