"""What a store says of its making: read back whole, and refused on one line where it is damaged."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.attribution.method import Method
from pipeline.clips.views import ViewsConfig
from pipeline.errors import StoreError
from pipeline.store.record import SCHEMA_VERSION, RunIdentity, RunRecord
from pipeline.store.schema import StoreLayout
from tests.support.records import identity_of, record_of

LAYOUT = StoreLayout(
    n_rows=10, rows_per_shard=4, n_frames=8, n_times=8, height=8, width=8, n_ranks=5
)
RECORD = record_of(LAYOUT)

VERSION_1: dict[str, Any] = {
    "schema": {"name": "staa", "version": 1},
    "class_names": ["bounce", "spin"],
    "config": {"manifest": "m.parquet", "model": "folder", "out": "run"},
    "identity": {
        "attribution_version": 3,
        "batch_size": 8,
        "compile_model": False,
        "manifest": "48b2",
        "method": {"heads": "mean", "layers": [0, 1, 2], "name": "rollout", "residual": False},
        "model": {"config": {"num_frames": 8}, "weights": "9c1e"},
        "precision": "float32",
        "preprocessing": {
            "crop": [64, 64],
            "crop_position": 0.5,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "offset": False,
            "resample": 2,
            "rescale_factor": 0.00392156862745098,
            "resize": None,
            "shortest_edge": 64,
        },
        "rows_per_shard": 16,
        "sampling": {
            "kind": "uniform",
            "n_samples": 8,
            "position": 0.5,
            "stride": None,
            "target_fps": 30.0,
        },
        "views": {"clips": 1, "crops": 3},
    },
    "layers": [0, 1, 2],
    "layout": {
        "height": 8,
        "n_frames": 8,
        "n_heads": 0,
        "n_layers": 1,
        "n_ranks": 5,
        "n_rows": 60,
        "n_times": 8,
        "n_views": 3,
        "rows_per_shard": 16,
        "width": 8,
    },
    "model": {"family": "timesformer", "name": "x", "revision": None, "weights_digest": "9c1e"},
    "packages": {"staa": "0.1.0"},
    "preprocessing": {},
    "sampling": {},
    "status_codes": {"ok": 1},
    "views": {},
}
"""As the first release wrote it, of a rollout over three crops."""


def test_a_record_comes_back_from_its_attributes():
    assert RunRecord.from_attributes(RECORD.to_attributes(), "there") == RECORD
    assert RECORD.to_attributes()["schema"] == {"name": "staa", "version": SCHEMA_VERSION}


def test_a_record_of_schema_1_is_read():
    # Its crops leave nothing to differ, which is for the run to refuse and not for the reader.
    attributes = copy.deepcopy(VERSION_1)
    record = RunRecord.from_attributes(attributes, "there")
    assert record.identity.method == Method(name="rollout")
    assert record.layers == (0, 1, 2)
    assert record.layout.n_rows == 60
    assert record.layout.optional == ()
    assert record.identity.preprocessing.crop == (64, 64)
    assert record.identity.views == ViewsConfig(crops=3)
    assert attributes == VERSION_1


def paths_of(value, prefix=()):
    """Every key of nested attributes."""
    for key, item in value.items():
        yield (*prefix, key)
        if isinstance(item, dict):
            yield from paths_of(item, (*prefix, key))


FREE = {("config",), ("status_codes",), ("packages",), ("identity", "model", "config")}
"""Tables whose keys are not the record's own."""
DEFAULTED = {
    *("optional", "n_layers", "n_heads", "n_channels", "checksums", "decoder", "segments"),
    *("measures", "measured", "taken_in"),
}


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in paths_of(RECORD.to_attributes())
        if path[0] not in ("schema", "zarr_conventions", "attributions") and path[:-1] not in FREE
    ],
    ids=".".join,
)
def test_a_missing_and_an_unknown_key_are_named_on_one_line(path):
    attributes = RECORD.to_attributes()
    owner = attributes
    for key in path[:-1]:
        owner = owner[key]
    value = owner.pop(path[-1])
    own = path[:2] not in {("identity", part) for part in ("sampling", "preprocessing", "views")}
    if own and path[-1] not in DEFAULTED and path[:2] != ("identity", "method"):
        with pytest.raises(StoreError) as caught:
            RunRecord.from_attributes(attributes, "there")
        assert str(caught.value).splitlines() == [
            f"there: its record lacks the key {'.'.join(path)!r}"
        ]
    owner[path[-1]] = value
    owner[f"{path[-1]}_of_tomorrow"] = value
    with pytest.raises(StoreError, match=r"^there: its record .*_of_tomorrow.*$"):
        RunRecord.from_attributes(attributes, "there")


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, "2", None])
def test_a_schema_of_another_release_is_refused(version):
    attributes = RECORD.to_attributes() | {"schema": {"name": "staa", "version": version}}
    with pytest.raises(StoreError, match=rf"there: its schema is version {version!r}"):
        RunRecord.from_attributes(attributes, "there")


@pytest.mark.parametrize("attributes", [{}, {"schema": 3}, {"schema": {"name": "other"}}])
def test_attributes_of_something_else_are_refused(attributes):
    with pytest.raises(StoreError, match="hold no record of a run"):
        RunRecord.from_attributes(attributes, "there")


def test_values_that_can_not_be_used_are_named():
    attributes = RECORD.to_attributes()
    attributes["identity"]["sampling"]["n_samples"] = 0
    with pytest.raises(StoreError, match=r"there: its record can't be used: .*n_samples is 0"):
        RunRecord.from_attributes(attributes, "there")
    attributes["identity"]["sampling"]["n_samples"] = "many"
    with pytest.raises(StoreError, match=r"identity.sampling.n_samples='many'"):
        RunRecord.from_attributes(attributes, "there")


def test_differences_name_key_and_both_values():
    other = identity_of(
        LAYOUT,
        batch_size=3,
        method=Method(name="staa-paper", layers=(0, 5)).resolved(12, pools_mean=False),
    )
    assert RECORD.identity.differences(other) == [
        ("batch_size", 1, 3),
        ("method.layers", [11], [0, 5]),
    ]
    assert RECORD.identity.differences(identity_of(LAYOUT)) == []


def test_an_option_that_is_left_at_its_default_does_not_change_a_runs_name():
    run = RECORD.run_id("s3://bucket/kinetics/")
    assert run.startswith("kinetics-")
    assert record_of(replace(LAYOUT, n_rows=11)).run_id("kinetics") == run
    assert record_of(LAYOUT, identity=identity_of(LAYOUT, batch_size=2)).run_id("kinetics") != run


def test_an_option_that_a_later_release_adds_leaves_a_runs_name_as_it_is():
    class Later(RunIdentity):
        colour: str = "grey"

    values = dict(RECORD.identity)
    for colour, same in (("grey", True), ("red", False)):
        later = RECORD.model_copy(update={"identity": Later(**values, colour=colour)})
        assert (later.run_id("kinetics") == RECORD.run_id("kinetics")) == same


@given(st.integers(1, 7), st.integers(1, 5), st.integers(0, 10**6))
def test_rows_are_videos_times_views_plus_view(clips, crops, row):
    identity = identity_of(LAYOUT, views=ViewsConfig(clips=clips, crops=crops))
    sampling = replace(identity.sampling, kind="strided", stride=2)
    views = record_of(LAYOUT, identity=identity.model_copy(update={"sampling": sampling})).views
    assert len(views) == clips * crops
    assert views.video(row) * len(views) + views.view(row) == row
    assert views.of(row) == list(views)[views.view(row)]
    rows = np.arange(row, row + 9)
    assert views.video(rows).tolist() == [views.video(int(one)) for one in rows]


def test_a_run_from_before_there_was_a_choice_decoded_with_decord_and_sampled_by_frames():
    attributes = record_of(LAYOUT).to_attributes()
    for key in ("decoder", "segments"):
        del attributes["identity"][key]
    del attributes["identity"]["sampling"]["clock"]
    old = RunRecord.from_attributes(attributes, "the run").identity
    assert (old.decoder, old.segments, old.sampling.clock) == ("decord", False, "frame")
    new = identity_of(LAYOUT, decoder="pyav", sampling=replace(old.sampling, clock="time"))
    assert old.differences(new) == [
        ("decoder", "decord", "pyav"),
        ("sampling.clock", "frame", "time"),
    ]


def test_times_of_frames_are_an_array_of_stores_that_have_it():
    assert "frame_time" not in LAYOUT.arrays()
    spec = replace(LAYOUT, optional=("frame_time",)).arrays()["frame_time"]
    assert (spec.dims, spec.shape, spec.dtype) == (
        ("clip", "frame"),
        (LAYOUT.n_frames,),
        "float64",
    )
