"""Evaluation of a store: every ok clip against its own ground truth, row for row."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from jobs.cli import run_job
from jobs.evaluate import EvaluateConfig, evaluate
from pipeline.attribution.focus import Threshold, apply_steps, joint_attribution, steps_name
from pipeline.attribution.measures import normalised_entropy
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import Views, ViewsConfig
from pipeline.errors import StoreError
from pipeline.evaluation.evaluate import METHODS, VARIANTS, evaluate_run
from pipeline.evaluation.scores import (
    COMPLEXITY,
    LOCALISATION,
    TRANSPORT,
    complexities,
    localisation,
    transported,
)
from pipeline.status import Status
from pipeline.store.ground_truth import Truth, open_ground_truth, write_ground_truth
from pipeline.store.opening import open_store
from pipeline.synthetic.config import SynthesizeConfig
from pipeline.synthetic.dataset import write_dataset
from tests.analysis.stores import (
    CLASS_NAMES,
    PREPROCESSING,
    random_columns,
    small_layout,
    write_run,
)

ROOT = Path(__file__).parents[2]
N_CLIPS = 10
VIEWS = Views.of_config(ViewsConfig(), Sampling("uniform", 4), PREPROCESSING)
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
    lifts = evaluate_run(write_run(tmp_path / "run", LAYOUT, columns), truth).methods
    joint = joint_attribution(columns["spatial"], columns["temporal"])
    covered, on_mask = [], []
    for row, clip in enumerate(clips):
        if row not in FAILED:
            frames = columns["frame_index"][row]
            mask = truth.patches(clip.video_id, frames, PREPROCESSING, GRID).astype(float)
            covered.append(mask.mean())
            on_mask.append((mask * joint[row]).sum())
    assert tuple(lifts) == METHODS
    assert lifts["attribution"].n_clips == len(covered) == 6
    # S in float16 sums to 1 within 1e-3; the share is of what is there.
    lift = np.mean(on_mask) / np.mean(covered)
    assert lifts["attribution"].share == pytest.approx(np.mean(on_mask), rel=1e-3)
    assert lifts["attribution"].value == pytest.approx(lift, rel=1e-3)
    assert lifts["uniform"].value == pytest.approx(1, abs=1e-9)
    assert lifts["uniform"].standard_error == pytest.approx(0, abs=1e-9)
    stored = metrics_of(tmp_path / "run")
    record = open_store(f"{tmp_path}/run/attributions.zarr").record
    metrics = zarr.open_group(f"{tmp_path}/run/metrics.zarr", mode="r")
    assert metrics.attrs["identity"] == record.identity.model_dump(mode="json")
    ok = [row for row in range(N_CLIPS) if row not in FAILED]
    np.testing.assert_allclose(stored["mask_covered"][:][ok], covered, rtol=1e-6)
    np.testing.assert_allclose(stored["mask_share_attribution"][:][ok], on_mask, rtol=1e-3)


def test_metrics_are_rows_of_the_run_and_nan_where_a_clip_failed(dataset, tmp_path):
    url, clips = dataset
    evaluate_run(write_run(tmp_path / "run", LAYOUT, columns_of(clips)), open_ground_truth(url))
    stored = metrics_of(tmp_path / "run")
    assert stored.pop("variant")[:].tolist() == [steps_name(steps) for steps in VARIANTS]
    per_variant = {"variant_mask_share", "variant_kept", "variant_entropy"}
    per_clip = {"mask_covered", *(f"mask_share_{method}" for method in METHODS)}
    per_method = {*LOCALISATION, *TRANSPORT, *COMPLEXITY}
    assert stored.pop("method")[:].tolist() == list(METHODS)
    assert set(stored) == per_clip | per_variant | per_method
    sizes = {"variant": len(VARIANTS), "method": len(METHODS)}
    for name, array in stored.items():
        dims = ("variant",) * (name in per_variant) + ("method",) * (name in per_method)
        assert array.shape == (N_CLIPS, *(sizes[dim] for dim in dims))
        assert array.dtype == np.float32
        assert array.metadata.dimension_names == ("clip", *dims)
        values = array[:].reshape(N_CLIPS, -1)
        empty = set(np.flatnonzero(np.isnan(values).all(axis=1)).tolist())
        assert empty >= set(FAILED)
        assert name in per_method or empty == set(FAILED)
        # Of clips whose actor the model doesn't see, the order of patches has no answer.
        measured = [row for row in range(N_CLIPS) if row not in FAILED]
        if name in per_method:
            measured = [row for row in measured if stored["mask_covered"][row] > 0.1]
        assert np.isfinite(values[measured]).all()


def test_variants_are_what_their_steps_make_of_the_attribution(dataset, tmp_path):
    url, clips = dataset
    columns, truth = columns_of(clips), open_ground_truth(url)
    evaluation = evaluate_run(write_run(tmp_path / "run", LAYOUT, columns), truth)
    joint = joint_attribution(columns["spatial"], columns["temporal"])
    ok = [row for row in range(N_CLIPS) if row not in FAILED]
    stored = xr.open_zarr(tmp_path / "run" / "metrics.zarr", consolidated=False)
    assert tuple(evaluation.variants) == tuple(stored["variant"].values)
    for steps, recorded in zip(VARIANTS, stored["variant"].attrs["steps"], strict=True):
        assert recorded == [step.parameters for step in steps]
        effect = evaluation.variants[steps_name(steps)]
        row_values = stored.sel(variant=steps_name(steps)).isel(clip=ok)
        sharpened = [apply_steps(joint[row], steps) for row in ok]
        masks = [
            truth.patches(clips[row].video_id, columns["frame_index"][row], PREPROCESSING, GRID)
            for row in ok
        ]
        on_mask = [float((a * mask).sum()) for a, mask in zip(sharpened, masks, strict=True)]
        kept = [np.count_nonzero(a) / a.size for a in sharpened]
        entropy = [float(normalised_entropy(a)) for a in sharpened]
        np.testing.assert_allclose(row_values["variant_mask_share"], on_mask, rtol=1e-3)
        np.testing.assert_allclose(row_values["variant_kept"], kept, rtol=1e-6)
        np.testing.assert_allclose(row_values["variant_entropy"], entropy, rtol=1e-5, atol=1e-7)
        assert effect.lift.value == pytest.approx(np.mean(on_mask) / np.mean(masks), rel=1e-3)
        assert effect.kept == pytest.approx(np.mean(kept))
        assert effect.entropy == pytest.approx(np.mean(entropy))
    stored_as_is = evaluation.variants["as stored"]
    assert stored_as_is.lift == evaluation.methods["attribution"]
    assert stored_as_is.kept == 1


def test_cutting_noise_off_around_the_actor_lifts(dataset, tmp_path):
    """Where the peaks lie on the actor; on the others a threshold can only make things worse."""
    url, clips = dataset
    columns, truth = columns_of(clips, failed={}), open_ground_truth(url)
    best = VARIANTS.index((Threshold(kind="otsu"),))
    masks = [
        truth.patches(clip.video_id, columns["frame_index"][row], PREPROCESSING, GRID)
        for row, clip in enumerate(clips)
    ]
    noise = np.random.default_rng(0).uniform(0.0, 0.2, (N_CLIPS, *GRID))
    lifts = {}
    for name, sign in [("on the actor", 1), ("off the actor", -1)]:
        peaks = np.stack([sign * mask == (sign * mask).max() for mask in masks])
        joint = peaks + noise
        joint /= joint.sum(axis=(1, 2, 3), keepdims=True)
        columns["temporal"] = joint.sum(axis=(2, 3)).astype(np.float32)
        columns["spatial"] = (joint / joint.sum(axis=(2, 3), keepdims=True)).astype(np.float16)
        evaluation = evaluate_run(write_run(tmp_path / name, LAYOUT, columns), truth)
        effects = evaluation.variants
        lifts[name] = (
            effects["as stored"].lift.value,
            effects[steps_name(VARIANTS[best])].lift.value,
        )
    assert lifts["on the actor"][1] > 1.2 * lifts["on the actor"][0]
    assert lifts["off the actor"][1] < lifts["off the actor"][0]


def test_rows_that_are_pending_are_left_out(dataset, tmp_path):
    url, clips = dataset
    run = write_run(tmp_path / "run", LAYOUT, columns_of(clips), pending_shards=(0,))
    assert evaluate_run(run, open_ground_truth(url)).n_clips == 4
    assert np.isnan(metrics_of(run)["mask_covered"][:4]).all()


def test_all_attention_on_the_actor_has_the_highest_lift(dataset, tmp_path):
    url, clips = dataset
    columns, truth = columns_of(clips, failed={}), open_ground_truth(url)
    for row, clip in enumerate(clips):
        mask = truth.patches(clip.video_id, columns["frame_index"][row], PREPROCESSING, GRID)
        columns["spatial"][row] = mask == mask.max(axis=(1, 2), keepdims=True)
        columns["spatial"][row] /= columns["spatial"][row].sum(axis=(1, 2), keepdims=True)
        columns["temporal"][row] = np.arange(2) == mask.max(axis=(1, 2)).argmax()
    on_actor = evaluate_run(write_run(tmp_path / "best", LAYOUT, columns), truth).methods
    chance = evaluate_run(write_run(tmp_path / "any", LAYOUT, columns_of(clips, {})), truth).methods
    highest = on_actor["attribution"]
    assert highest.value > max(on_actor["center_gaussian"].value, chance["attribution"].value, 2)
    assert {lift.covered for lift in chance.values()} == {highest.covered}


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_second_evaluation_replaces_the_first(dataset, tmp_path, prefix):
    url, clips = dataset
    run = write_run(tmp_path / "run", LAYOUT, columns_of(clips))
    first, second = (evaluate_run(f"{prefix}{run}/", open_ground_truth(url)) for _ in range(2))
    # By what they print, as intervals of few videos are NaN, which equals nothing.
    assert repr(first) == repr(second)
    assert np.isfinite(metrics_of(run)["mask_share_attribution"][:]).sum() == 6


def refuse(capsys, *argv):
    assert run_job(EvaluateConfig, evaluate, verb="evaluate", argv=argv) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("evaluate: error: ")
    assert stderr.count("\n") == 1
    return stderr


def test_the_job_prints_a_line_for_each_method_and_variant_and_where_the_values_are(
    capsys, dataset, tmp_path
):
    url, clips = dataset
    run = write_run(tmp_path / "run", LAYOUT, columns_of(clips))
    argv = [run, "--ground-truth", url]
    assert run_job(EvaluateConfig, evaluate, verb="evaluate", argv=argv) == 0
    methods, variants, scores, last = capsys.readouterr().out.split("\n\n")
    evaluation = evaluate_run(run, open_ground_truth(url))
    lines = methods.splitlines()[1:]
    for line, (method, lift) in zip(lines, evaluation.methods.items(), strict=True):
        assert line.split() == [
            *(method, f"{lift.share:.1%}", f"{lift.covered:.1%}"),
            *(f"{lift.value:.2f}", f"({lift.standard_error:.2f})"),
        ]
    lines = variants.splitlines()[1:]
    for line, (variant, effect) in zip(lines, evaluation.variants.items(), strict=True):
        assert line.startswith(f"{variant}  ")
        assert line.removeprefix(variant).split() == [
            *(f"{effect.lift.share:.1%}", f"{effect.kept:.1%}"),
            *(f"{effect.lift.value:.2f}", f"({effect.lift.standard_error:.2f})"),
            f"{effect.entropy:.3f}",
        ]
    lines = scores.splitlines()[1:]
    for line, (metric, of_methods) in zip(lines, evaluation.scores.items(), strict=True):
        assert line.startswith(metric.replace("_", " "))
        for score in of_methods.values():
            assert f"{score.mean:.3f} ({score.standard_error:.3f})" in line
    for table in (methods, variants, scores):
        assert max(map(len, table.splitlines())) <= 80
    assert last == f"evaluate: 6 clips; values per clip in {run}/metrics.zarr\n"


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
    assert evaluate_run(run, open_ground_truth(url)).n_clips == 5


def test_the_ground_truth_of_other_clips_of_the_same_names_is_refused(dataset, tmp_path):
    url, clips = dataset
    columns = columns_of(clips)
    columns["frame_index"][3] = [5, 50, 100, 150]
    run = write_run(tmp_path / "run", LAYOUT, columns)
    with pytest.raises(StoreError, match=f"'{clips[3].video_id}' .* frames 5 to 150"):
        evaluate_run(run, open_ground_truth(url))


def test_a_run_without_an_ok_clip_is_refused(dataset, tmp_path):
    url, clips = dataset
    failed = dict.fromkeys(range(N_CLIPS), Status.MISSING)
    run = write_run(tmp_path / "run", LAYOUT, columns_of(clips, failed))
    with pytest.raises(StoreError, match="no clip is ok"):
        evaluate_run(run, open_ground_truth(url))


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


def test_order_and_transport_are_the_metrics_of_each_clip_and_a_sample(dataset, tmp_path):
    url, clips = dataset
    columns, truth = columns_of(clips, failed={}), open_ground_truth(url)
    run = write_run(tmp_path / "run", LAYOUT, columns)
    evaluation = evaluate_run(run, truth, n_transported=3)
    stored = metrics_of(tmp_path / "run")
    joint = joint_attribution(columns["spatial"], columns["temporal"])
    seen = truth.of_rows(
        np.arange(N_CLIPS), columns["video_id"], columns["frame_index"], VIEWS, GRID
    )
    expected = localisation(joint, seen) | complexities(joint)
    method = METHODS.index("attribution")
    for name, values in expected.items():
        np.testing.assert_allclose(stored[name][:, method], values, rtol=1e-5, atol=1e-6)
        score = evaluation.scores[name]["attribution"]
        assert score.mean == pytest.approx(np.nanmean(values), rel=1e-5)
        assert score.n_clips == np.isfinite(values).sum()
        assert score.n_undefined == np.isnan(values).sum()
    chosen = [0, 4, 9]
    of_chosen = Truth(seen.covered[chosen], seen.known[chosen])
    for name, values in transported(joint[chosen], of_chosen).items():
        np.testing.assert_allclose(stored[name][:][chosen, method], values, rtol=1e-5)
        others = np.delete(stored[name][:], chosen, axis=0)
        assert np.isnan(others).all()
        assert evaluation.scores[name]["uniform"].n_clips <= 3
    uniform = evaluation.scores["auroc"]["uniform"]
    assert uniform.mean == pytest.approx(0.5)


def test_transport_is_taken_of_clips_that_have_a_truth(dataset, tmp_path):
    _, clips = dataset
    columns = columns_of(clips, failed={})
    run = write_run(tmp_path / "run", LAYOUT, columns)
    rows = np.array([3, 7])
    truth = Truth(np.full((2, *GRID), 0.5, np.float32), np.ones((2, 2), bool))
    url = str(tmp_path / "truth.zarr")
    blocks = [(rows, "person", truth)]
    write_ground_truth(url, ("person",), columns["video_id"], GRID, blocks, {})
    evaluation = evaluate_run(run, open_ground_truth(url), n_transported=2)
    assert evaluation.scores["emd_space"]["attribution"].n_clips == 2
    assert np.flatnonzero(np.isfinite(metrics_of(run)["emd_space"][:, 0])).tolist() == [3, 7]
    # Without any, it is still told apart from a run without an ok clip.
    write_ground_truth(url, ("person",), columns["video_id"], GRID, (), {})
    for n_transported in (0, 2):
        with pytest.raises(StoreError, match="no clip that is ok has ground truth"):
            evaluate_run(run, open_ground_truth(url), n_transported=n_transported)


def test_a_kind_that_is_not_there_is_one_line(capsys, dataset, tmp_path):
    url, clips = dataset
    run = write_run(tmp_path / "run", LAYOUT, columns_of(clips))
    message = refuse(capsys, run, f"--ground-truth={url}", "--kind=hand")
    assert "has no 'hand', expected one of actor" in message


def test_the_share_of_each_class_is_printed_the_lowest_first(capsys, dataset, tmp_path):
    url, clips = dataset
    columns = columns_of(clips)
    run = write_run(tmp_path / "run", LAYOUT, columns)
    argv = [run, "--ground-truth", url, "--by-class"]
    assert run_job(EvaluateConfig, evaluate, verb="evaluate", argv=argv) == 0
    *_, table, last = capsys.readouterr().out.split("\n\n")
    assert last.startswith("evaluate: 6 clips")
    classes = evaluate_run(run, open_ground_truth(url)).classes
    lines = table.splitlines()[1:]
    assert len(lines) == len(classes) > 1
    # Six clips of three classes: each has too few videos for an interval.
    assert all("  (few videos)  " in line for line in lines)
    ratios = [classes[line.split("  ")[0]].ratio for line in lines]
    assert ratios == sorted(ratios)
    stored = metrics_of(tmp_path / "run")
    for name, each in classes.items():
        chosen = columns["label"] == CLASS_NAMES.index(name)
        chosen &= np.nan_to_num(stored["mask_covered"][:]) > 0
        assert each.n_clips == chosen.sum()
        expected = stored["mask_share_attribution"][:][chosen].mean()
        assert each.share == pytest.approx(expected, rel=1e-5)


def test_segments_of_few_videos_make_no_error_smaller_and_one_video_has_none(
    capsys, dataset, tmp_path
):
    url, clips = dataset
    one = [clips[0]] * N_CLIPS
    columns = columns_of(one, {})
    for name in ("spatial", "temporal", "frame_index"):
        columns[name][:] = columns[name][:1]
    run = write_run(tmp_path / "run", LAYOUT, columns, segments=True)
    evaluation = evaluate_run(run, open_ground_truth(url))
    assert evaluation.n_clips == N_CLIPS
    assert np.isnan(evaluation.methods["attribution"].standard_error)
    assert np.isnan(evaluation.scores["auroc"]["attribution"].standard_error)
    assert all(np.isnan(each.interval).all() for each in evaluation.classes.values())
    argv = [run, "--ground-truth", url, "--by-class"]
    assert run_job(EvaluateConfig, evaluate, verb="evaluate", argv=argv) == 0
    stdout = capsys.readouterr().out
    assert "nan" not in stdout
    assert "(n/a)" in stdout


def test_a_call_that_was_cut_off_is_gone_on_with_in_the_same_bits(dataset, tmp_path):
    """What is cut off loses one shard at most, and no reader sees a part of the metrics."""
    url, clips = dataset
    truth, columns = open_ground_truth(url), columns_of(clips, {8: Status.TOO_SHORT})
    run = write_run(tmp_path / "run", LAYOUT, columns)
    whole = evaluate_run(write_run(tmp_path / "whole", LAYOUT, columns), truth)
    calls = []

    def broken_off():
        calls.append(len(calls))
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, truth, before_writing=broken_off)
    assert not (tmp_path / "run" / "metrics.zarr").exists()
    done = zarr.open_group(f"{run}/metrics.partial.zarr", mode="r")["done"][:]
    assert done.tolist() == [True, True, False]
    resumed = []
    assert repr(evaluate_run(run, truth, before_writing=lambda: resumed.append(1))) == repr(whole)
    # The last shard, and the metrics.
    assert len(resumed) == 2
    assert not (tmp_path / "run" / "metrics.partial.zarr").exists()
    expected = metrics_of(tmp_path / "whole")
    for name, array in metrics_of(run).items():
        np.testing.assert_array_equal(array[:], expected[name][:], err_msg=name)


def test_what_another_call_has_left_is_not_gone_on_with(dataset, tmp_path):
    url, clips = dataset
    truth = open_ground_truth(url)
    run = write_run(tmp_path / "run", LAYOUT, columns_of(clips, {}))

    def cut_off(**given):
        calls = []

        def broken_off():
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            evaluate_run(run, truth, before_writing=broken_off, **given)

    chosen = np.arange(N_CLIPS) < 5
    for given in ({"n_transported": 2}, {"chosen": chosen}):
        cut_off(**given)
        calls = []
        evaluate_run(run, truth, before_writing=lambda calls=calls: calls.append(1))
        assert len(calls) == 4
    cut_off()
    calls = []
    evaluate_run(run, truth, resume=False, before_writing=lambda: calls.append(1))
    assert len(calls) == 4


def test_a_process_that_is_killed_loses_one_shard_at_most(dataset, tmp_path):
    url, clips = dataset
    run = write_run(tmp_path / "run", LAYOUT, columns_of(clips, {}))
    script = (
        "import os, signal, sys\n"
        "from pipeline.evaluation.evaluate import evaluate_run\n"
        "from pipeline.store.ground_truth import open_ground_truth\n"
        "calls = []\n"
        "def kill():\n"
        "    calls.append(1)\n"
        "    if len(calls) == 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "evaluate_run(sys.argv[1], open_ground_truth(sys.argv[2]), before_writing=kill)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, run, url], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    calls = []
    evaluation = evaluate_run(run, open_ground_truth(url), before_writing=lambda: calls.append(1))
    assert evaluation.n_clips == N_CLIPS
    assert len(calls) == 3


def test_of_a_sample_each_class_has_as_many_clips_and_others_are_nan(capsys, dataset, tmp_path):
    url, clips = dataset
    columns = columns_of(clips, {})
    columns["label"][:] = [0] * 6 + [1] * 3 + [2]
    run = write_run(tmp_path / "run", LAYOUT, columns)
    argv = [run, "--ground-truth", url, "--clips=5", "--seed=3"]
    assert run_job(EvaluateConfig, evaluate, verb="evaluate", argv=argv) == 0
    assert "evaluate: 5 clips; values" in capsys.readouterr().out
    measured = np.flatnonzero(np.isfinite(metrics_of(run)["mask_covered"][:]))
    counts = np.bincount(columns["label"][measured])
    assert counts.tolist() == [2, 2, 1]
    # All of them, as before, where none are asked for.
    assert run_job(EvaluateConfig, evaluate, verb="evaluate", argv=argv[:3]) == 0
    assert "evaluate: 10 clips; values" in capsys.readouterr().out


def test_clips_are_in_memory_some_at_a_time(dataset, tmp_path):
    """A shard of many clips has the values that its clips have one by one."""
    url, clips = dataset
    many = [clips[row % N_CLIPS] for row in range(600)]
    layout = replace(LAYOUT, n_rows=600, rows_per_shard=600)
    rng = np.random.default_rng(1)
    frames = [np.sort(rng.choice(clip.scene.n_frames, 4, replace=False)) for clip in many]
    video_ids = np.array([clip.video_id for clip in many], object)
    given = {"frame_index": np.array(frames, np.int32), "video_id": video_ids}
    columns = random_columns(layout, 1, **given)
    run = write_run(tmp_path / "run", layout, columns)
    evaluate_run(run, open_ground_truth(url), n_transported=0)
    chosen = [0, 255, 256, 300, 511, 512, 599]
    part = {name: values[chosen] for name, values in columns.items()}
    few = write_run(tmp_path / "few", replace(layout, n_rows=7, rows_per_shard=7), part)
    evaluate_run(few, open_ground_truth(url), n_transported=0)
    expected = metrics_of(few)
    for name, array in metrics_of(run).items():
        if name not in ("variant", "method"):
            np.testing.assert_array_equal(array[:][chosen], expected[name][:], err_msg=name)


@pytest.mark.parametrize("name", ["spatial", "frame_index", "label", "status"])
def test_what_is_damaged_of_a_run_is_one_line(capsys, dataset, tmp_path, name):
    url, clips = dataset
    run = write_run(tmp_path / "run", LAYOUT, columns_of(clips))
    path = Path(open_store(f"{run}/attributions.zarr").object_url(name, 0))
    path.write_bytes(path.read_bytes()[:5])
    assert f"{name}" in (told := refuse(capsys, run, f"--ground-truth={url}"))
    assert "can't be read" in told
    assert "jobs.verify" in told
    assert not (tmp_path / "run" / "metrics.zarr").exists()
