"""A run on Ray, small clips and a small model: what it stores, against a loop without Ray."""

import re
import time
from dataclasses import asdict, replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import xarray as xr

from pipeline.attribution.method import Method
from pipeline.execution.passes import execute
from pipeline.execution.sink import gathering
from pipeline.models.checkpoint import read_checkpoint
from pipeline.status import Status
from pipeline.store.opening import open_store
from pipeline.store.schema import StoreLayout
from tests.support.checkpoints import CLASS_NAMES
from tests.support.runs import (
    assert_same_columns,
    objects,
    plain_columns,
    prepared,
    stored_columns,
)


def test_what_is_stored_is_what_a_plain_loop_gives_bit_for_bit(finished_run, one_thread):
    plan = prepared(finished_run.inputs.config(finished_run.out))
    assert plan.layout.n_rows % plan.layout.rows_per_shard != 0
    assert_same_columns(stored_columns(finished_run.out), plain_columns(plan))


@pytest.mark.slow
def test_a_methods_own_arrays_are_those_of_a_plain_loop(finished_run, tmp_path, one_thread):
    """Other methods are tested without Ray, which hands over whatever columns there are."""
    method = Method(name="evidence", layers="all", heads="keep", target="label")
    plan = prepared(finished_run.inputs.config(tmp_path / "run", method=method))
    summary = execute(plan)
    assert summary.n_pending == 0
    expected = plain_columns(plan)
    assert {"head_spatial", "signed", "target"} <= expected.keys()
    assert_same_columns(stored_columns(tmp_path / "run"), expected)
    assert open_store(plan.store_url).group.attrs["layers"] == [0, 1]


def test_rows_are_those_of_the_manifest_in_its_order(finished_run):
    stored = stored_columns(finished_run.out)
    assert stored["video_id"].tolist() == list(finished_run.inputs.video_ids)
    assert stored["video_id"].tolist() != sorted(finished_run.inputs.video_ids)
    assert stored["label"].tolist() == list(finished_run.inputs.labels)
    assert -1 in stored["label"]


def test_every_clip_gets_its_own_attribution(finished_run):
    stored = stored_columns(finished_run.out)
    ok = stored["status"] == Status.OK
    for name in ("spatial", "temporal", "probability"):
        values = stored[name][ok]
        assert len(np.unique(values.reshape(len(values), -1), axis=0)) == ok.sum()


def test_attributions_of_ok_clips_are_distributions(finished_run):
    stored = stored_columns(finished_run.out)
    ok = stored["status"] == Status.OK
    spatial, temporal = stored["spatial"][ok].astype(np.float64), stored["temporal"][ok]
    np.testing.assert_allclose(spatial.sum(axis=(-2, -1)), 1, atol=1e-3)
    np.testing.assert_allclose(temporal.sum(axis=-1), 1, atol=1e-3)
    assert (spatial >= 0).all()
    assert (temporal >= 0).all()
    for name, values in stored.items():
        if values.dtype.kind == "f" and name not in ("label_probability", "start_time"):
            assert np.isfinite(values[ok]).all(), name
    labelled = ok & (stored["label"] >= 0)
    assert (np.isfinite(stored["label_probability"]) == labelled).all()


def test_damaged_clips_stay_rows_with_their_status_and_no_attribution(finished_run):
    stored = stored_columns(finished_run.out)
    statuses = {
        row: Status(code).label for row, code in enumerate(stored["status"]) if code != Status.OK
    }
    assert statuses == finished_run.damaged
    failed = list(statuses)
    for name in ("spatial", "temporal", "probability", "label_probability", "top_probabilities"):
        assert np.isnan(stored[name][failed]).all(), name
    for name in ("prediction", "top_classes", "frame_index"):
        assert (stored[name][failed] == -1).all(), name
    assert all(stored["message"][failed])
    assert not any(np.delete(stored["message"], failed))


def test_failures_are_listed_with_row_id_path_status_and_message(finished_run):
    stored = stored_columns(finished_run.out)
    table = pq.read_table(finished_run.out / "failures.parquet")
    assert table.column_names == ["row", "video_id", "path", "view", "status", "message"]
    for failure in table.to_pylist():
        row = failure["row"]
        assert failure["video_id"] == finished_run.inputs.video_ids[row]
        assert failure["path"] == f"{failure['video_id']}.mp4"
        assert failure["status"] == finished_run.damaged[row]
        assert failure["message"] == stored["message"][row]
    assert table["row"].to_pylist() == list(finished_run.damaged)


def test_xarray_opens_the_store_with_nothing_but_its_url(finished_run):
    dataset = xr.open_zarr(str(finished_run.out / "attributions.zarr"), consolidated=False)
    assert dict(dataset.sizes) == {
        "clip": 14, "time": 3, "y": 2, "x": 2, "frame": 3, "rank": len(CLASS_NAMES), "byte": 16,
        "channel": 32,
    }  # fmt: skip
    assert dataset.attrs["class_names"] == list(CLASS_NAMES)
    assert dataset.attrs["config"]["manifest"] == finished_run.inputs.manifest
    checkpoint = read_checkpoint(finished_run.inputs.model)
    assert dataset.attrs["model"]["weights_digest"] == checkpoint.weights_digest
    assert dataset.attrs["identity"]["sampling"] == asdict(
        replace(checkpoint.sampling, clock="time")
    )
    assert dataset.attrs["status_codes"]["too_short"] == Status.TOO_SHORT
    expected = stored_columns(finished_run.out)["temporal"]
    np.testing.assert_array_equal(dataset["temporal"].values, expected)


def test_the_summary_counts_every_row_once_and_the_bar_ends_with_them(finished_run):
    assert re.search(
        r"^attribute: 14 clips: 9 ok, 1 missing, 1 empty, 1 unreadable, 1 truncated, 1 too_short, "
        r"in \d+\.\d s$",
        finished_run.stdout,
        re.MULTILINE,
    )
    assert f"failures in {finished_run.out}/failures.parquet" in finished_run.stdout
    last = finished_run.stderr.replace("\r", "\n").split("attribute: 100%")[-1]
    assert "14/14" in last
    assert "failed=5" in last


def test_a_finished_run_does_nothing_when_it_is_run_again(finished_run):
    before = objects(finished_run.out)
    summary = execute(prepared(finished_run.inputs.config(finished_run.out)))
    assert summary.seconds == 0
    assert summary.n_rows == 14
    assert summary.n_pending == 0
    # A clip that is too short is no fault.
    assert summary.failed_fraction == 4 / 14
    assert objects(finished_run.out) == before


def test_nobody_gathers_shards_once_a_pass_has_ended(local_ray):
    layout = StoreLayout(8, 4, n_frames=1, n_times=1, height=1, width=1, n_ranks=1)
    with gathering(layout) as actor:
        assert ray.get(actor.add.remote({"row": np.arange(4)}))

    def add_until_it_is_gone():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            ray.get(actor.add.remote({"row": np.arange(4)}))

    # Ray kills an actor soon, not at once.
    with pytest.raises(ray.exceptions.RayActorError):
        add_until_it_is_gone()
