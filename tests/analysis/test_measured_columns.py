"""Columns of what `jobs.evaluate` has measured, for the rows of a run."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr

from analysis import open_run
from analysis.measured_columns import MEASURED, OF_MASKS, metric_columns
from analysis.page.classes import class_table
from analysis.page.run_tables import RunTables
from analysis.score_table import score_run, with_current_metrics
from jobs.cli import run_job
from jobs.evaluate import EvaluateConfig, evaluate
from pipeline.run.serial import execute_serially
from pipeline.store.measured import UNITS, read_sample
from pipeline.store.objects import note_objects
from tests.support.runs import prepared, write_inputs

N_CLIPS = 8
MISSING = 2


def test_metrics_of_another_run_are_left_out_and_said(scored, tmp_path):
    url, _, _ = scored
    ds = open_run(url)
    notes = []
    assert metric_columns(str(tmp_path / "no run"), ds, notes) == {}
    assert notes == []
    group = zarr.open_group(tmp_path / "run" / "metrics.zarr", mode="w")
    group.attrs["identity"] = ds.attrs["identity"]
    group["mask_covered"] = np.array([0, *[0.5] * 22], np.float32)
    group["mask_share_attribution"] = np.full(23, 0.75, np.float32)
    found = metric_columns(str(tmp_path / "run"), ds, notes)
    assert np.isnan(found["lift"][0])
    assert (found["lift"][1:] == 1.5).all()
    group.attrs["identity"] = {"other": 1}
    assert metric_columns(str(tmp_path / "run"), ds, notes) == {}
    assert "is of another run" in notes[0]


def test_what_was_measured_after_the_scores_stands_in_the_place_of_what_was_before(
    scored, tmp_path
):
    """The audit holds classes against each other by the region's share and area."""
    ds = open_run(scored[0])
    run = str(tmp_path / "run")
    table = pd.DataFrame({"entropy": np.zeros(23), "mask_covered": np.full(23, 0.1)})
    assert set(with_current_metrics(table, run, ds)) == {"entropy"}
    group = zarr.open_group(tmp_path / "run" / "metrics.zarr", mode="w")
    group.attrs["identity"] = ds.attrs["identity"]
    group["mask_covered"] = np.full(23, 0.5, np.float32)
    group["mask_share_attribution"] = np.full(23, 0.75, np.float32)
    current = with_current_metrics(table, run, ds)
    assert set(current) == {"entropy", "lift", *OF_MASKS}
    assert (current["mask_covered"] == 0.5).all()


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Run of which a sample was perturbed, and one of the same clips by another method."""
    folder = tmp_path_factory.mktemp("asked")
    inputs = write_inputs(folder, N_CLIPS, {MISSING: "missing"})
    execute_serially(prepared(inputs.config(folder / "run")))
    execute_serially(prepared(inputs.config(folder / "other", method={"name": "rollout"})))
    argv = [str(folder / "run"), "--faithfulness", "--serial", "--device=cpu", "--clips=5"]
    assert run_job(EvaluateConfig, evaluate, verb="evaluate", argv=argv) == 0
    return folder


def test_gaps_stand_at_the_rows_of_the_clips_that_were_asked_about(asked):
    notes = []
    columns = metric_columns(str(asked / "run"), open_run(str(asked / "run")), notes)
    assert notes == []
    told = read_sample(str(asked / "run"), str(asked / "run" / "faithfulness"))
    sample = zarr.open_group(asked / "run" / "faithfulness" / "metrics.zarr", mode="r")
    for unit in UNITS:
        values = columns[f"gap_{unit}"]
        assert set(np.flatnonzero(np.isfinite(values))) == set(sample["run_row"][:])
        assert np.nanmean(values) == pytest.approx(
            told.averages("faithfulness")[f"gap {unit}"].mean, abs=1e-6
        )


def test_a_sample_of_another_run_is_left_out_and_said(asked):
    other = str(asked / "other")
    shutil.copytree(asked / "run" / "faithfulness", asked / "other" / "faithfulness")
    notes = []
    assert metric_columns(other, open_run(other), notes) == {}
    assert "is of another run" in notes[0]


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damaged", "damage", "left"),
    [
        ("faithfulness/metrics.zarr/gap/c/0/0/0", flip, "lift"),
        ("faithfulness/metrics.zarr/run_row/zarr.json", Path.unlink, "lift"),
        ("faithfulness/metrics.zarr/zarr.json", halve, "lift"),
        ("metrics.zarr/lift/c/0", halve, "gap_patches"),
        ("metrics.zarr/lift/c/0", Path.unlink, "gap_patches"),
        ("faithfulness/metrics.zarr/gap/c/0/0/0", Path.unlink, "lift"),
    ],
)
def test_damaged_values_are_left_out_and_said(asked, tmp_path, damaged, damage, left):
    run = shutil.copytree(asked / "run", tmp_path / "run")
    group = zarr.open_group(run / "metrics.zarr", mode="w")
    group.attrs["identity"] = open_run(str(run)).attrs["identity"]
    group["lift"] = np.ones(N_CLIPS, np.float32)
    note_objects(group)
    damage(run / damaged)
    notes = []
    columns = metric_columns(str(run), open_run(str(run)), notes)
    assert {"lift", "gap_patches"} & set(columns) == {left}
    (note,) = notes
    assert "is left out" in note
    assert damaged.partition(".zarr/")[0] in note


def test_the_page_has_them_by_class_though_they_were_measured_after_the_scores(asked):
    run = str(asked / "run")
    shutil.move(asked / "run" / "faithfulness", asked / "kept")
    score_run(run)
    shutil.move(asked / "kept", asked / "run" / "faithfulness")
    tables = RunTables.of_run(run)
    told = class_table(tables.table, tables.groups, tables.statistics, {})
    classes = read_sample(run, f"{run}/faithfulness").by_class("faithfulness", "gap patches")
    assert classes
    for name, gap in zip(told["name"], told["gap_patches"], strict=True):
        if name in classes:
            assert gap == pytest.approx(classes[name].mean, abs=1e-6)
        else:
            assert np.isnan(gap)
    assert "lift" not in told
    assert set(MEASURED) - set(told) == {"lift"}
