"""The table of scores, a row for each row of a run."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import zarr

from analysis import describe_scores, score_run, scores
from analysis.clip_scores import SCORES, map_scores
from analysis.measured_columns import MEASURED
from pipeline.errors import StoreError
from pipeline.status import Status
from tests.analysis.stores import CLASS_NAMES, small_layout, write_run


def test_the_table_has_a_row_for_each_row_beside_the_manifests_columns(scored):
    url, columns, result = scored
    table = scores(url)
    assert result.notes == ()
    assert len(table) == 23
    assert table["video_id"].tolist() == columns["video_id"].tolist()
    assert table["path"].tolist() == [f"{row}.mp4" for row in range(23)]
    assert table["split"].tolist() == ["train" if row % 3 else "val" for row in range(23)]
    names = [CLASS_NAMES[label] if label >= 0 else None for label in columns["label"]]
    assert table["label"].astype(object).where(table["label"].notna(), None).tolist() == names
    assert table["status"].tolist() == [Status(code).label for code in columns["status"]]
    ok = columns["status"] == 1
    expected = map_scores(columns["spatial"][ok], columns["temporal"][ok])
    for name in SCORES:
        assert table.loc[~ok, name].isna().all()
        np.testing.assert_array_equal(
            table.loc[ok, name], expected.scores[name].astype(np.float32), err_msg=name
        )
    # Tubelets of two frames: a time step begins with the first of them.
    first = 2 * columns["temporal"][ok].argmax(axis=1)
    assert table.loc[ok, "peak_frame"].tolist() == first.tolist()
    seconds = columns["frame_time"][np.flatnonzero(ok), first]
    np.testing.assert_array_equal(table.loc[ok, "peak_s"], seconds)
    assert table.loc[~ok, "peak_s"].isna().all()
    assert pd.isna(table.loc[5, "correct"])
    right = columns["label"] == columns["prediction"]
    assert (
        table.loc[ok, "correct"].dropna().tolist() == right[ok & (columns["label"] >= 0)].tolist()
    )
    # Nothing was measured of this run.
    assert set(describe_scores().index) - set(table.columns) == set(MEASURED)
    assert list(scores(url, ["gini"]).columns) == ["gini"]
    with pytest.raises(StoreError, match="has no column 'ginny'; it has row"):
        scores(url, ["ginny"])


def test_agreement_is_with_the_classs_other_clips(scored):
    url, columns, _ = scored
    table = scores(url)
    ok = columns["status"] == 1
    joint = columns["spatial"].astype(np.float64) * columns["temporal"][:, :, None, None]
    maps = joint.sum(axis=1).reshape(23, -1)
    for row in np.flatnonzero(ok & (columns["label"] >= 0)):
        others = ok & (columns["label"] == columns["label"][row])
        others[row] = False
        expected = np.sqrt(maps[row] * maps[others].mean(axis=0)).sum()
        assert table.loc[row, "class_agreement"] == pytest.approx(min(expected, 1), abs=2e-3)
    assert np.isnan(table.loc[5, "class_agreement"])
    assert np.isfinite(table.loc[5, "dataset_agreement"])


def test_a_table_of_a_run_that_has_gone_on_is_refused(scored, tmp_path):
    _, columns, _ = scored
    layout = replace(small_layout(23), optional=("frame_time",))
    url = write_run(tmp_path / "run", layout, columns, pending_shards=(1,))
    notes = score_run(url).notes
    assert len(notes) == 1
    assert "can't read manifest clips.parquet" in notes[0]
    assert scores(url)["status"].tolist()[4:8] == ["pending"] * 4
    zarr.open_group(f"{url}/attributions.zarr", mode="r+")["status"][4:8] = Status.EMPTY
    with pytest.raises(
        StoreError, match=r"doesn't match the run's rows as they are now \(23 of 23 are done"
    ):
        scores(url)
