"""Stores that keep the convention, and many that break it, each with its own line."""

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.errors import StoreError
from pipeline.store.conforming import open_conforming, problems_of
from tests.analysis.stores import random_columns, small_layout, write_run
from tests.store.foreign_stores import ATTRIBUTES, foreign_columns, write_foreign


def without(columns, name):
    return {key: value for key, value in columns.items() if key != name}


def changed(name, row, value):
    """Columns of which one has another value in a row."""
    columns = foreign_columns()
    columns[name][row] = value
    return columns


def attributes(**about):
    return {**ATTRIBUTES, "attributions": {**ATTRIBUTES["attributions"], **about}}


def emptied(key):
    return {name: value for name, value in ATTRIBUTES.items() if name != key}


COLUMNS = foreign_columns()

BROKEN = {
    "missing array": (
        {"columns": without(COLUMNS, "temporal")},
        "the array 'temporal' is missing: T: when; not negative, and sums to 1. ",
    ),
    "wrong dimensions": (
        {"dims": {"spatial": ("clip", "time", "x", "y")}},
        "spatial has the dimensions (clip, time, x, y), expected (clip, time, y, x)",
    ),
    "dimensions without names": (
        {"dims": {"temporal": None}},
        "temporal has the dimensions (none named), expected (clip, time)",
    ),
    "wrong dtype": (
        {"columns": {**COLUMNS, "status": COLUMNS["status"].astype(np.float32)}},
        "status is of dtype float32, expected unsigned integers",
    ),
    "shares in percent": (
        {"columns": {**COLUMNS, "spatial": COLUMNS["spatial"] * 100}},
        "row 0: spatial sums to 100 over (y, x), expected 1",
    ),
    "a time step of nothing": (
        {"columns": changed("spatial", (2, 1), 0)},
        "row 2: spatial sums to 0 over (y, x), expected 1",
    ),
    "times that don't sum to 1": (
        {"columns": changed("temporal", 3, 0.25)},
        "row 3: temporal sums to 0.5 over time, expected 1",
    ),
    "NaN where ok": (
        {"columns": changed("spatial", (4, 0, 0, 0), np.nan)},
        "row 4: spatial has NaN or infinity, and its status is ok",
    ),
    "negative": (
        {"columns": changed("temporal", 5, [1.5, -0.5])},
        "row 5: temporal has the value -0.5, expected 0 or more",
    ),
    "unknown status": (
        {"columns": changed("status", 1, 77)},
        "row 1: status is 77, expected one of the codes 0 to 11",
    ),
    "no convention": (
        {"attributes": emptied("zarr_conventions")},
        "zarr_conventions doesn't declare the convention 'attributions': expected an entry with",
    ),
    "another convention": (
        {"attributes": {**ATTRIBUTES, "zarr_conventions": [{"uuid": "0"}, "attributions"]}},
        "zarr_conventions doesn't declare the convention",
    ),
    "an entry with too much": (
        {
            "attributes": {
                **ATTRIBUTES,
                "zarr_conventions": [{**ATTRIBUTES["zarr_conventions"][0], "version": 1}],
            }
        },
        "zarr_conventions: its entry has the key 'version', expected uuid, schema_url",
    ),
    "wrong version": (
        {"attributes": attributes(version=2)},
        "attributions.version is 2: this release reads version 1",
    ),
    "nothing declared": (
        {"attributes": emptied("attributions")},
        "attributions: Input should be a valid dictionary",
    ),
    "no class": (
        {"attributes": attributes(class_names=[])},
        "attributions.class_names: Tuple should have at least 1 item",
    ),
    "more than its classes": (
        {"columns": changed("prediction", 2, 3)},
        "row 2: prediction is 3, expected 0 to 2: there are 3 class names",
    ),
    "an unknown prediction": (
        {"columns": changed("prediction", 2, -1)},
        "row 2: prediction is -1, expected 0 to 2",
    ),
    "logits": (
        {"columns": changed("probability", 0, 7.5)},
        "row 0: probability is 7.5, expected 0 to 1",
    ),
    "other numbers of clips": (
        {"columns": {**COLUMNS, "probability": COLUMNS["probability"][:4]}},
        "probability has 4 of clip, and status has 6: expected one size",
    ),
    "other numbers of time steps": (
        {"columns": {**COLUMNS, "temporal": np.full((6, 4), 0.25, np.float32)}},
        "temporal has 4 of time, and spatial has 2: expected one size",
    ),
    "frames that don't fit": (
        {"columns": {**COLUMNS, "frame_index": np.zeros((6, 3), np.int32)}},
        "frame_index has 3 frames, expected a multiple of the 2 time steps",
    ),
    "no clip": (
        {"columns": {name: values[:0] for name, values in COLUMNS.items()}},
        "status has no clip: expected 1 or more",
    ),
}


@pytest.mark.parametrize(("store", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_store_has_its_line(tmp_path, store, said):
    url = write_foreign(tmp_path / "a.zarr", **store)
    (problem,) = problems_of(url)
    assert problem.startswith(said)
    assert "\n" not in problem


def test_every_broken_store_has_a_line_of_its_own():
    assert len({said for _, said in BROKEN.values()}) >= len(BROKEN) - 1


def test_all_problems_of_the_metadata_and_one_of_each_kind_of_the_values_are_told(tmp_path):
    columns = without(without(COLUMNS, "temporal"), "video_id")
    assert len(problems_of(write_foreign(tmp_path / "a.zarr", columns))) == 2
    columns = foreign_columns()
    columns["spatial"][1:] = -1
    columns["probability"][[2, 5]] = 2
    url = write_foreign(tmp_path / "b.zarr", columns)
    assert [problem.partition(":")[0] for problem in problems_of(url)] == ["row 1", "row 2"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_store_of_another_tool_keeps_it_in_any_precision(tmp_path, dtype):
    columns = foreign_columns(40, height=16, width=16)
    columns["spatial"] = columns["spatial"].astype(dtype)
    columns["status"][3] = 4
    columns["spatial"][3] = columns["temporal"][3] = np.nan
    columns["prediction"][3] = -1
    columns["more"] = np.zeros((3, 3))
    url = write_foreign(tmp_path / "a.zarr", columns, dims={"more": ("p", "q")})
    assert problems_of(url) == []
    group, about = open_conforming(url)
    assert about.method == "captum.Occlusion"
    assert group["spatial"].dtype == dtype


def test_blocks_count_rows_of_the_whole(tmp_path):
    url = write_foreign(tmp_path / "a.zarr", changed("probability", 5, 2))
    seen = []
    assert problems_of(url, on_rows=lambda *rows: seen.append(rows), rows_at_once=4) == [
        "row 5: probability is 2, expected 0 to 1"
    ]
    assert seen == [(4, 6), (6, 6)]


def test_runs_of_this_product_keep_it_while_they_go_on_and_when_they_are_done(tmp_path):
    layout = small_layout(9)
    columns = random_columns(layout)
    columns["status"][4] = 5
    for name, pending in (("half", (1,)), ("whole", ())):
        url = write_run(tmp_path / name, layout, columns, pending_shards=pending)
        assert problems_of(f"{url}/attributions.zarr") == []


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match="is no Zarr group that can be read"):
        problems_of(str(tmp_path / "nothing"))
    with pytest.raises(StoreError, match=r"a.zarr: the array 'status' is missing"):
        open_conforming(write_foreign(tmp_path / "a.zarr", without(COLUMNS, "status")))


def test_a_store_that_can_not_be_read_is_told(tmp_path):
    url = write_foreign(tmp_path / "a.zarr")
    chunk = next(path for path in Path(url, "temporal", "c").rglob("*") if path.is_file())
    chunk.write_bytes(b"not zstd")
    (problem,) = problems_of(url)
    assert problem.startswith("rows 0 to 5 can't be read")
    Path(url, "temporal", "zarr.json").write_text("{")
    (problem,) = problems_of(url)
    assert problem.startswith("temporal: its metadata can't be read")


def test_a_store_of_zarr_2_is_refused(tmp_path):
    group = zarr.create_group(str(tmp_path / "a.zarr"), zarr_format=2)
    group.attrs.put(json.loads(json.dumps(deepcopy(ATTRIBUTES))))
    # Whose arrays have no names of dimensions to look at.
    group.create_array("status", shape=(2,), dtype="uint8")
    assert problems_of(str(tmp_path / "a.zarr"))[0] == "its Zarr format is 2, expected 3"
