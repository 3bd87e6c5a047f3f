"""`jobs.ground_truth`: a run's clips, annotated in the real formats, onto the model's grid."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from jobs.cli import run_job
from jobs.evaluate import EvaluateConfig, evaluate
from jobs.ground_truth import GroundTruthConfig, ground_truth
from pipeline.clips.fetch import digest_of
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import write_manifest
from pipeline.store.create import create_store
from pipeline.store.ground_truth import open_ground_truth
from pipeline.store.opening import open_store
from pipeline.store.run_folder import store_url
from pipeline.store.schema import StoreLayout
from pipeline.store.shards import write_shard
from tests.analysis.stores import random_columns
from tests.support.clips import write_mp4
from tests.support.records import identity_of, record_of

HEIGHT, WIDTH, N_FRAMES = 64, 96, 20
PREPROCESSING = Preprocessing(shortest_edge=64, crop=(64, 64))
LAYOUT = StoreLayout(
    n_rows=3,
    rows_per_shard=2,
    n_frames=4,
    n_times=2,
    height=4,
    width=4,
    n_ranks=2,
    checksums=True,
)
FRAMES = Sampling("uniform", 4).indices(n_frames=N_FRAMES, fps=10)


@pytest.fixture
def run(tmp_path):
    """A run over three clips of 2 s, of which the last failed."""
    clips = tmp_path / "clips"
    clips.mkdir()
    rng = np.random.default_rng(0)
    for name in "abc":
        blocks = rng.integers(0, 255, (N_FRAMES, 4, 6, 3), np.uint8)
        write_mp4(clips / f"{name}.mp4", blocks.repeat(16, axis=1).repeat(16, axis=2), fps=10)
    listing = tmp_path / "clips.txt"
    listing.write_text("a.mp4\tx\nb.mp4\ty\nc.mp4\tx")
    manifest = str(tmp_path / "clips.parquet")
    write_manifest(
        build_manifest(layout="list", clips=str(clips), annotations=str(listing)), manifest
    )
    columns = random_columns(
        LAYOUT,
        status=np.array([1, 1, 2], np.uint8),
        video_id=np.array(["a", "b", "c"], object),
        frame_index=np.tile(FRAMES.astype(np.int32), (3, 1)),
        start_time=np.array([100.0, 0.0, 0.0]),
    )
    record = record_of(
        LAYOUT,
        identity=identity_of(LAYOUT, preprocessing=PREPROCESSING),
        config={"manifest": manifest},
        class_names=("x", "y", "z"),
    )
    store = create_store(store_url(str(tmp_path / "run")), record)
    for shard in range(LAYOUT.n_shards):
        rows = np.asarray(LAYOUT.shard_rows(shard))
        write_shard(store, {name: column[rows] for name, column in columns.items()}, rows)
    return tmp_path


def call(run, layout, annotations, *more):
    argv = [str(run / "run"), "--layout", layout, "--annotations", str(annotations)]
    argv += ["--out", str(run / "truth.zarr"), *more]
    return run_job(GroundTruthConfig, ground_truth, verb="ground_truth", argv=argv)


def truth_of(run, kind=None):
    truth = open_ground_truth(str(run / "truth.zarr"))
    names = np.array(["a", "b"], object)
    return truth.of_rows(np.array([0, 1]), names, np.empty(0), None, (2, 4, 4), kind)


def test_boxes_of_persons_come_onto_the_grid_through_the_models_crop(run, capsys):
    # Frames 2, 7, 12 and 17 at 10 per second; the clip starts at second 100 of its source.
    boxes = run / "boxes.csv"
    # The crop has columns 16 to 80 of 96: the box is the upper left quarter of what is seen.
    boxes.write_text(f"a,100.2,{16 / 96},0,{48 / 96},0.5,1,0\na,101.2,,,,,,\n")
    assert call(run, "ava-kinetics", boxes, "--tolerance-s", "0.1") == 0
    out = capsys.readouterr().out
    assert "1 of 2 clips are annotated; person known in 2 of 2 time steps" in out
    truth = truth_of(run)
    expected = np.zeros((2, 4, 4))
    # Of the two frames of a step the annotated one alone counts.
    expected[0, :2, :2] = 1
    np.testing.assert_allclose(truth.covered[0], expected, atol=1e-3)
    assert truth.known.tolist() == [[True, True], [False, False]]


def test_each_kind_of_a_file_is_stored_and_evaluated(run, capsys):
    def label(x1, category):
        box = {"x1": x1, "y1": 0, "x2": x1 + 16, "y2": 64}
        return {"box2d": box, "standard_category": category}

    # Seconds 0.2, 0.7, 1.2, 1.7 are frames 3, 9, 15 and 21 at 12 per second, counted from 1.
    frames = [
        {"name": f"x/{number:04d}.jpg", "labels": [label(16, "hand"), label(48, "0000")]}
        for number in range(1, 30)
    ]
    path = run / "boxes.json"
    path.write_text(json.dumps({"a": frames, "b": frames[:5]}))
    assert call(run, "something-else", path) == 0
    assert "hand known in 3 of 4 time steps, object known in 3 of 4" in capsys.readouterr().out
    hand, thing = truth_of(run, "hand"), truth_of(run, "object")
    np.testing.assert_allclose(hand.covered[0, :, :, 0], 1)
    assert not hand.covered[0, :, :, 1:].any()
    np.testing.assert_allclose(thing.covered[0, :, :, 2], 1)
    argv = [str(run / "run"), "--ground-truth", str(run / "truth.zarr"), "--kind", "object"]
    assert run_job(EvaluateConfig, evaluate, verb="evaluate", argv=argv) == 0
    out = capsys.readouterr().out
    assert "evaluate: 2 clips with object; values per clip in" in out
    attributes = zarr.open_group(str(run / "run" / "metrics.zarr"), mode="r").attrs
    assert attributes["ground_truth"] == str(run / "truth.zarr")
    assert attributes["kind"] == "object"
    # The last frames of the second clip have no annotation, and don't count as empty.
    assert "25.0%" in out


def test_a_manifest_of_other_clips_and_annotations_of_none_are_refused(run, capsys):
    path = run / "segments.json"
    path.write_text(json.dumps({"database": {"zzz": {"annotations": []}}}))
    assert call(run, "activitynet", path) == 2
    assert "has none of the run's 2 clips, for example 'a'" in capsys.readouterr().err
    path.write_text(json.dumps({"database": {"a": {"annotations": [{"segment": [0, 200]}]}}}))
    other = str(run / "other.parquet")
    (run / "other.txt").write_text("b.mp4\tx\na.mp4\ty\nc.mp4\tx")
    write_manifest(
        build_manifest(layout="list", clips=str(run / "clips"), annotations=str(run / "other.txt")),
        other,
    )
    assert call(run, "activitynet", path, "--manifest", other) == 2
    assert "is 'b', that of the run is 'a': it is of other clips" in capsys.readouterr().err
    assert call(run, "activitynet", path, "--kind", "person") == 2
    assert "which says it itself" in capsys.readouterr().err


def test_annotations_that_say_nothing_leave_the_truth_that_is_there(run, capsys):
    path = run / "segments.json"
    entry = {"annotations": [{"segment": [0, 200], "label": "x"}]}
    path.write_text(json.dumps({"database": {"a": entry, "b": entry}}))
    assert call(run, "activitynet", path) == 0
    other = run / "other.json"
    other.write_text(json.dumps({"database": {"zzz": entry}}))
    assert call(run, "activitynet", other) == 2
    other.write_text("no JSON")
    assert call(run, "activitynet", other) == 2
    assert "other.json: expected database" in capsys.readouterr().err
    assert truth_of(run).covered.all()
    # Clips that can't be read any more are no fault of the annotations.
    for name in "ab":
        (run / "clips" / f"{name}.mp4").unlink()
    assert call(run, "activitynet", path) == 2
    assert "none of the run's 2 clips can be read again" in capsys.readouterr().err


def test_a_run_is_not_overwritten_by_its_ground_truth(run, capsys):
    path = run / "segments.json"
    path.write_text(json.dumps({"database": {"a": {"annotations": [{"segment": [0, 200]}]}}}))
    for place in ("run", "run/attributions.zarr", "clips"):
        argv = [str(run / "run"), "--layout", "activitynet", "--annotations", str(path)]
        argv += ["--out", str(run / place)]
        assert run_job(GroundTruthConfig, ground_truth, verb="ground_truth", argv=argv) == 2
        assert "something else is there; choose another place" in capsys.readouterr().err
    assert call(run, "activitynet", path) == 0


def test_a_bad_box_is_told_by_its_line(run, capsys):
    boxes = run / "boxes.csv"
    boxes.write_text("a,100.2,0,0,0.5,0.5,1,0\na,100.2,0.6,0,0.5,0.5,1,0\n")
    assert call(run, "ava-kinetics", boxes) == 2
    err = capsys.readouterr().err
    assert f"ground_truth: error: annotations: {boxes}: line 2 is 'a,100.2,0.6" in err


@pytest.mark.parametrize("damage", ["cut", "lost"])
@pytest.mark.parametrize("name", ["video_id", "frame_index", "start_time"])
def test_no_truth_is_made_for_rows_that_are_damaged(run, capsys, name, damage):
    boxes = run / "boxes.csv"
    boxes.write_text("a,100.2,0,0,0.5,0.5,1,0\n")
    path = Path(open_store(store_url(str(run / "run"))).object_url(name, 0))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        path.unlink()
    assert call(run, "ava-kinetics", boxes) == 2
    _, err = capsys.readouterr()
    assert f"/{name} " in err
    assert "; jobs.verify" in err


def test_truth_of_other_frames_is_not_evaluated(run, capsys):
    path = run / "segments.json"
    path.write_text(json.dumps({"database": {"a": {"annotations": [{"segment": [0, 200]}]}}}))
    assert call(run, "activitynet", path) == 0
    record = record_of(
        LAYOUT,
        identity=identity_of(
            LAYOUT, preprocessing=PREPROCESSING, sampling=Sampling("strided", 4, stride=1)
        ),
        class_names=("x", "y", "z"),
    )
    columns = random_columns(LAYOUT, video_id=np.array(["a", "b", "c"], object))
    store = create_store(store_url(str(run / "other")), record)
    for shard in range(LAYOUT.n_shards):
        rows = np.asarray(LAYOUT.shard_rows(shard))
        write_shard(store, {name: column[rows] for name, column in columns.items()}, rows)
    argv = [str(run / "other"), "--ground-truth", str(run / "truth.zarr")]
    assert run_job(EvaluateConfig, evaluate, verb="evaluate", argv=argv) == 2
    assert "was made for another run: sampling.kind is 'uniform' there" in capsys.readouterr().err


def test_a_clip_that_has_changed_is_told_and_is_not_known(run, capsys):
    (run / "clips" / "b.mp4").unlink()
    path = run / "segments.json"
    entry = {"annotations": [{"segment": [0, 200], "label": "x"}]}
    path.write_text(json.dumps({"database": {"a": entry, "b": entry}}))
    assert call(run, "activitynet", path) == 0
    stdout, stderr = capsys.readouterr()
    assert "can't read b: no object at" in stderr
    assert "1 of 2 clips are annotated, 1 can't be read" in stdout
    truth = truth_of(run)
    assert truth.covered[0].all()
    assert not truth.known[1].any()


def test_a_clip_whose_file_is_another_by_now_is_named_and_not_marked(run, capsys):
    layout = replace(LAYOUT, optional=("clip_digest",))
    other = run / "other"
    other.mkdir()
    table = pq.read_table(run / "clips.parquet")
    record = record_of(
        layout,
        identity=identity_of(layout, preprocessing=PREPROCESSING),
        config={"manifest": str(run / "clips.parquet")},
        class_names=("x", "y", "z"),
    )
    digests = np.zeros((3, 16), np.uint8)
    for row, path in enumerate(table["path"].to_pylist()[:2]):
        data = (run / "clips" / path).read_bytes()
        digests[row] = np.frombuffer(digest_of(data), np.uint8)
    columns = random_columns(
        layout,
        status=np.array([1, 1, 2], np.uint8),
        video_id=np.array(["a", "b", "c"], object),
        frame_index=np.tile(FRAMES.astype(np.int32), (3, 1)),
        start_time=np.zeros(3),
        clip_digest=digests,
    )
    store = create_store(store_url(str(other / "run")), record)
    for shard in range(layout.n_shards):
        rows = np.asarray(layout.shard_rows(shard))
        write_shard(store, {name: column[rows] for name, column in columns.items()}, rows)
    (other / "net.json").write_text(
        json.dumps(
            {
                "database": {
                    name: {"annotations": [{"segment": [0, 9], "label": "x"}]} for name in "ab"
                }
            }
        )
    )
    changed = run / "clips" / "b.mp4"
    changed.write_bytes(changed.read_bytes() + bytes(8))
    assert call(other, "activitynet", other / "net.json") == 0
    stderr = capsys.readouterr().err
    assert "can't read b: the file has changed since the run: its bytes are others" in stderr
    truth = open_ground_truth(str(other / "truth.zarr"))
    seen = truth.of_rows(
        np.array([0, 1]), np.array(["a", "b"], object), np.empty(0), None, (2, 4, 4), None
    )
    assert seen.known.all(axis=1).tolist() == [True, False]
