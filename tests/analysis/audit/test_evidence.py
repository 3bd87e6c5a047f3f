"""What an audit reads of a run: a row for each video and label."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from analysis.audit.audit import audit
from analysis.audit.evidence import per_video, read_evidence
from pipeline.errors import StoreError
from tests.analysis.simulated_runs import CLASS_NAMES, simulated
from tests.analysis.stores import write_run


def test_views_of_a_video_count_once(day_seed):
    run = simulated(day_seed, ("logo",), clips_per_class=20)
    evidence = run.evidence()
    twice = np.repeat(np.arange(len(evidence.table)), 2)
    doubled = type(evidence)(
        **{
            **vars(evidence),
            "table": evidence.table.iloc[twice].reset_index(drop=True),
            "maps": evidence.maps[twice],
            "when": evidence.when[twice],
        }
    )
    back = per_video(doubled)
    assert len(back.table) == len(evidence.table)
    np.testing.assert_allclose(back.maps, evidence.maps, rtol=1e-6)
    assert [f.key for f in audit(back)] == [f.key for f in audit(evidence)]


def test_the_view_that_the_model_is_surest_of_stands_for_a_video(clean):
    n = len(clean.table)
    views = np.repeat(np.arange(n), 3)
    surest = np.arange(3 * n) % 3 == 2
    table = clean.table.iloc[views].reset_index(drop=True)
    table["row"] = np.arange(3 * n)
    table["probability"] = np.where(surest, 0.9, 0.4)
    table["prediction_index"] = np.where(surest, table["label_index"], -1)
    video = per_video(
        replace(clean, table=table, maps=clean.maps[views], when=clean.when[views])
    ).table
    assert (video["row"] == 3 * np.arange(n) + 2).all()
    assert (video["prediction_index"] == video["label_index"]).all()
    np.testing.assert_allclose(video["probability"], (0.4 + 0.4 + 0.9) / 3)


def three_labels(clean, **columns):
    """Rows of one file that is labelled 0, 1 and 2; the model says 1 of all."""
    rows = clean.table.iloc[[0, 0, 0]].reset_index(drop=True)
    table = rows.assign(path="a.mp4", label_index=[0, 1, 2], prediction_index=1, **columns)
    return replace(clean, table=table, maps=clean.maps[:3], when=clean.when[:3])


@pytest.mark.parametrize(
    ("columns", "wrong"),
    [
        ({}, [False, False, False]),
        ({"start_time": [0.0, 1.0, 5.0], "end_time": [2.0, 3.0, 6.0]}, [False, False, True]),
        ({"start_time": [0.0, 2.0, 5.0], "end_time": [2.0, 3.0, 6.0]}, [True, False, True]),
        ({"path": ["a.mp4", "b.mp4", "b.mp4"]}, [True, False, False]),
        ({"label_index": [0, 2, 3]}, [True, True, True]),
    ],
)
def test_an_answer_is_right_if_it_is_any_label_of_what_the_clip_shows(clean, columns, wrong):
    evidence = three_labels(clean)
    assert replace(evidence, table=evidence.table.assign(**columns)).wrong.tolist() == wrong


def test_an_answer_about_a_clip_without_a_label_is_not_wrong(clean):
    table = clean.table.assign(label_index=-1)
    assert not replace(clean, table=table).wrong.any()


def test_a_file_or_segment_with_several_labels_counts_once(clean):
    assert len(three_labels(clean).of_clips().table) == 1
    of_times = three_labels(clean, start_time=[0.0, 0.0, 1.0], end_time=[1.0, 1.0, 2.0])
    assert of_times.of_clips().table["label_index"].tolist() == [0, 2]


def test_what_a_frame_weighs_is_its_importance_where_a_run_has_stored_it(day_seed, tmp_path):
    layout, columns = simulated(day_seed, clips_per_class=10).columns()
    importance = np.random.default_rng(day_seed).dirichlet(
        np.ones(layout.n_times), len(columns["status"])
    )
    columns["frame_importance"] = importance.astype(np.float32)
    layout = replace(layout, optional=(*layout.optional, "frame_importance"))
    url = write_run(tmp_path / "run", layout, columns, class_names=CLASS_NAMES)
    evidence = read_evidence(url)
    ok = evidence.table["row"].to_numpy()
    np.testing.assert_array_equal(evidence.frame_weight, columns["frame_importance"][ok])
    np.testing.assert_allclose(evidence.score("first_frame_mass"), importance[ok, 0], rtol=1e-6)
    np.testing.assert_allclose(evidence.score("last_frame_mass"), importance[ok, -1], rtol=1e-6)
    assert not np.allclose(evidence.when, evidence.frame_weight)


@pytest.fixture
def small_run(tmp_path, day_seed):
    layout, columns = simulated(day_seed, clips_per_class=10).columns()

    def write(**others):
        return write_run(tmp_path / "run", layout, columns, class_names=CLASS_NAMES, **others)

    return layout, write


def test_a_run_without_an_ok_clip_is_refused(small_run):
    layout, write = small_run
    url = write(pending_shards=tuple(range(layout.n_shards)))
    with pytest.raises(StoreError, match="no clip is ok, so there is nothing to audit"):
        read_evidence(url)


def test_an_attribution_that_was_lost_is_told(small_run, tmp_path):
    _, write = small_run
    url = write()
    assert len(read_evidence(url).table) == 10 * len(CLASS_NAMES)
    shutil.rmtree(tmp_path / "run" / "attributions.zarr" / "temporal" / "c" / "0")
    with pytest.raises(StoreError, match=r"no attribution|c/0"):
        read_evidence(url)
