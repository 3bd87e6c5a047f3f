"""What the model has told by class: against a groupby of the stored values."""

from datetime import UTC, datetime

import numpy as np
import pytest

from analysis import measured_by_class
from pipeline.errors import StoreError
from tests.analysis.stores import (
    CLASS_NAMES,
    random_columns,
    small_layout,
    write_run,
    write_sample,
)


def test_each_class_has_the_mean_of_its_clips_and_flags_are_told(tmp_path):
    seed = int(datetime.now(UTC).strftime("%Y%m%d"))
    print(f"seed {seed}")
    columns = random_columns(small_layout(40), seed)
    columns["label"][::5] = -1
    run = write_run(tmp_path / "run", small_layout(40), columns)
    rows = np.sort(np.random.default_rng(seed).choice(40, 30, replace=False))
    values = write_sample(run, rows, seed=seed)
    table = measured_by_class(run)
    labels = columns["label"][rows]
    gap = (values["gap"] - values["random_gap"])[:, :, 0].mean(axis=1)
    expected = {
        "gap patches": gap,
        "T of the map": values["temporal_agreement"],
        "max-sensitivity": values["max_sensitivity"],
    }
    for figure, of_clips in expected.items():
        of_figure = table[table["figure"] == figure].set_index("class")
        for label, name in enumerate(CLASS_NAMES):
            chosen = of_clips[labels == label]
            assert of_figure.loc[name, "n_clips"] == len(chosen)
            assert of_figure.loc[name, "mean"] == pytest.approx(chosen.mean(), abs=1e-6)
            if len(chosen) >= 5:
                assert of_figure.loc[name, "low"] < chosen.mean() < of_figure.loc[name, "high"]
    of_time = table[table["group"] == "time"]
    assert {"T of the map", "change of pixels"} == set(of_time["figure"])
    for label, name in enumerate(CLASS_NAMES):
        own = values["shapley_agreement"][labels == label].mean()
        assert of_time.loc[of_time["class"] == name, "own"].tolist() == pytest.approx([own] * 2)
    assert table.loc[table["group"] != "time", "own"].isna().all()
    (note,) = [note for note in table.attrs["notes"] if "computed again" in note]
    assert f"at {values['recomputed'].mean():.3f} only" in note
    assert set(table["group"]) == {"faithfulness", "time", "sanity"}
    assert set(table.loc[table["flagged"], "figure"]) == {
        *("gap frames", "CAM entropy", "paper's faithfulness", "paper's tau")
    }


def test_a_sample_of_one_group_has_that_alone(tmp_path):
    run = write_run(tmp_path / "run", small_layout(8), random_columns(small_layout(8)))
    write_sample(run, np.arange(4), ("time",))
    table = measured_by_class(run)
    assert set(table["figure"]) == {"T of the map", "change of pixels"}
    assert table["low"].isna().all()


def test_a_run_that_was_not_measured_and_a_sample_of_another_are_one_line(tmp_path):
    layout = small_layout(8)
    run = write_run(tmp_path / "run", layout, random_columns(layout))
    with pytest.raises(StoreError, match=r"hasn't been asked about its clips; jobs\.evaluate"):
        measured_by_class(run)
    other = write_run(tmp_path / "other", layout, random_columns(layout), digest="another")
    write_sample(other, np.arange(4))
    (tmp_path / "other" / "faithfulness").rename(tmp_path / "run" / "faithfulness")
    with pytest.raises(StoreError, match=r"is of another run and is left out; jobs\.evaluate"):
        measured_by_class(run)
