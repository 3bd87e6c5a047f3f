"""Runs that are made of another tool's attributions."""

import numpy as np
import pytest

from pipeline.errors import StoreError
from pipeline.run.recompute import plan_again
from pipeline.run.sample import plan_sample
from pipeline.status import Status
from pipeline.store.conforming import open_conforming, problems_of
from pipeline.store.conventions import Attributions
from pipeline.store.foreign import take_in, write_attributions
from pipeline.store.opening import open_store
from pipeline.store.verify import verify_store
from tests.store.foreign_stores import ATTRIBUTES, CLASS_NAMES, foreign_columns, write_foreign

ABOUT = Attributions.model_validate(ATTRIBUTES["attributions"])


def test_a_run_holds_what_the_store_held_and_says_what_it_lacked(tmp_path):
    columns = foreign_columns()
    columns["status"][1] = Status.UNREADABLE
    columns["spatial"][1] = columns["temporal"][1] = columns["probability"][1] = np.nan
    url = write_foreign(tmp_path / "a.zarr", columns)
    seen = []
    where = take_in(url, str(tmp_path / "run"), on_rows=lambda *rows: seen.append(rows))
    assert where == f"{tmp_path}/run/attributions.zarr"
    assert seen == [(6, 6)]
    store = open_store(where)
    assert verify_store(store) == []
    assert problems_of(where) == []
    for name in ("status", "temporal", "prediction", "probability", "label"):
        np.testing.assert_array_equal(store.array(name)[:], columns[name])
    np.testing.assert_array_equal(store.array("spatial")[:], columns["spatial"].astype(np.float16))
    assert store.array("video_id")[:].tolist() == columns["video_id"].tolist()
    assert set(store.array("message")[:]) == {""}
    assert (store.array("frame_index")[:] == -1).all()
    right = columns["label"] == columns["prediction"]
    np.testing.assert_array_equal(
        store.array("label_probability")[:], np.where(right, columns["probability"], np.nan)
    )
    np.testing.assert_array_equal(store.array("top_classes")[:, 0], columns["prediction"])
    record = store.record
    assert (record.method_name, record.class_specific) == ("captum.Occlusion", True)
    assert record.class_names == CLASS_NAMES
    assert record.config["from"] == url


def test_what_the_store_has_besides_is_taken_in_too(tmp_path):
    columns = foreign_columns(n=600)
    columns |= {
        "frame_index": np.arange(2400, dtype=np.int32).reshape(600, 4),
        "frame_time": np.arange(2400.0).reshape(600, 4) / 25,
        "top_classes": np.zeros((600, 3), np.int64),
        "top_probabilities": np.full((600, 3), 0.25, np.float64),
        "message": np.array(["none"] * 600, object),
        "start_time": np.arange(600.0),
        "label_probability": np.full(600, 0.125),
    }
    url = write_foreign(tmp_path / "a.zarr", columns, dims={"frame_time": ("clip", "frame")})
    store = open_store(take_in(url, str(tmp_path / "run")))
    assert store.layout.n_shards == 3
    for name in set(columns) - {"spatial", "video_id", "message"}:
        np.testing.assert_array_equal(store.array(name)[:], columns[name], err_msg=name)


def test_runs_of_two_methods_are_two_runs(tmp_path):
    records = []
    for method in ("captum.Occlusion", "captum.Saliency"):
        about = {**ATTRIBUTES["attributions"], "method": method}
        url = write_foreign(
            tmp_path / f"{method}.zarr", attributes={**ATTRIBUTES, "attributions": about}
        )
        records.append(open_store(take_in(url, str(tmp_path / method))).record)
    first, second = records
    assert first.identity.differences(second.identity) == [
        ("model.config.attributions.method", "captum.Occlusion", "captum.Saliency")
    ]


def test_nothing_asks_the_model_of_such_a_run(tmp_path):
    run = str(tmp_path / "run")
    store = open_store(take_in(write_foreign(tmp_path / "a.zarr"), run))
    refused = r"run: .*/run was made of another tool's attributions \(captum.Occlusion\)"
    with pytest.raises(StoreError, match=refused):
        plan_again(run, store)
    with pytest.raises(StoreError, match=refused):
        plan_sample(run, str(tmp_path / "sample"), (), {}, n_videos=2, seed=0, options={})


def test_maps_in_any_unit_become_a_store_that_keeps_the_convention(tmp_path):
    joint = np.random.default_rng(3).gamma(0.4, size=(5, 3, 2, 4)) * 1e6
    joint[1, 2] = 0
    answers = {
        "video_id": ["a", "b", "c", "d", "e"],
        "prediction": np.array([0, 1, 2, 0, 1]),
        "probability": np.full(5, 0.5, np.float32),
    }
    url = write_attributions(str(tmp_path / "a.zarr"), joint, ABOUT, **answers)
    assert problems_of(url) == []
    group, about = open_conforming(url)
    assert about == ABOUT
    whole = group["spatial"][:] * group["temporal"][:][..., None, None]
    expected = joint / joint.sum(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(whole, expected, atol=1e-6)
    assert group["video_id"][:].tolist() == answers["video_id"]
    with pytest.raises(StoreError, match="is there already"):
        write_attributions(url, joint, ABOUT, **answers)


@pytest.mark.parametrize(
    ("joint", "given", "said"),
    [
        (np.ones((2, 3, 4)), {}, r"joint of shape \(2, 3, 4\): expected \(clip, time, y, x\)"),
        (np.full((1, 1, 2, 2), -1.0), {}, "none of them negative"),
        (np.full((1, 1, 2, 2), np.nan), {}, "finite"),
        (np.zeros((1, 1, 2, 2)), {}, "not all of them 0"),
        (np.ones((1, 1, 2, 2)), {"logits": np.ones(1)}, "logits is no array of the convention"),
    ],
)
def test_maps_that_are_none_are_refused(tmp_path, joint, given, said):
    with pytest.raises(StoreError, match=said):
        write_attributions(str(tmp_path / "a.zarr"), joint, ABOUT, **given)
    assert not (tmp_path / "a.zarr").exists()


def test_what_breaks_the_convention_is_refused_before_anything_is_written(tmp_path):
    columns = foreign_columns()
    columns["temporal"][:] = columns["probability"][:] = 3
    url = write_foreign(tmp_path / "a.zarr", columns)
    with pytest.raises(StoreError, match=r"row 0: temporal sums to 6 over time.*, and 1 more"):
        take_in(url, str(tmp_path / "run"))
    columns = foreign_columns()
    columns["status"][4] = 0
    with pytest.raises(StoreError, match="row 4 is pending"):
        take_in(write_foreign(tmp_path / "b.zarr", columns), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_there_is_not_written_over(tmp_path):
    url = write_foreign(tmp_path / "a.zarr")
    take_in(url, str(tmp_path / "run"))
    with pytest.raises(StoreError, match="is there already"):
        take_in(url, str(tmp_path / "run"))
