"""The folder for FiftyOne, held against what FiftyOne's own importer does with it.

`imported` follows `LegacyFiftyOneDatasetImporter`, `Sample.from_dict`, `Frame.from_dict`,
`deserialize_value` and `validate_field_name` of fiftyone 1.22.1, step by step. FiftyOne itself
needs a MongoDB that its package downloads, and is no dependency.
"""

import base64
import io
import json
import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis import open_run, score_run
from analysis.audit.audit import save_findings
from analysis.audit.finding import Example
from analysis.audit.settings import AuditSettings
from analysis.export.fiftyone import NO_HEATMAPS, heatmap, nearest_seen, write_fiftyone
from pipeline.clips.preprocess import Preprocessing
from tests.analysis.export.test_tables import finding
from tests.analysis.page.pages import HOSTILE, SEEN, write_dataset
from tests.analysis.stores import random_columns, small_layout, write_run

LABELS = {
    "Classification": {"_cls", "tags", "label", "confidence", "logits", "_id"},
    "Heatmap": {"_cls", "tags", "map", "map_path", "range", "_id", "seen"},
}
"""Fields of the labels that are used; a label may have others, such as ``seen``."""
RESERVED = {"id", "metadata", "created_at", "last_modified_at", "media_type", "pk"}


def value_of(value):
    """A field's value as FiftyOne takes it."""
    if isinstance(value, dict):
        if "_cls" in value:
            assert set(value) <= LABELS[value["_cls"]]
            return {name: value_of(part) for name, part in value.items()}
        assert set(value) == {"$binary"}
        assert value["$binary"]["subType"] == "00"
        data = zlib.decompress(base64.b64decode(value["$binary"]["base64"], validate=True))
        return np.load(io.BytesIO(data), allow_pickle=False)
    if isinstance(value, list):
        assert all(isinstance(part, str) for part in value)
    else:
        # MongoDB holds integers of 64 bits; of null no field's type can be inferred.
        assert isinstance(value, str | bool | int | float)
    return value


def fields_of(document):
    for name in document:
        assert name not in RESERVED
        assert not name.startswith("_") or name in ("_media_type",)
        assert "." not in name
        assert "$" not in name
    return {name: value_of(value) for name, value in document.items()}


def imported(folder):
    """Metadata and samples, each with its frames by number."""
    folder = Path(folder)
    metadata = json.loads((folder / "metadata.json").read_text("ascii"))
    # `_is_legacy_format_data`; with a version it would be taken for the form with a MongoDB.
    assert "version" not in metadata
    assert metadata["media_type"] == "video"
    assert isinstance(metadata["info"]["default_classes"], list)
    samples = []
    for sample in json.loads((folder / "samples.json").read_text("ascii"))["samples"]:
        filepath = sample["filepath"]
        assert os.path.isabs(filepath) or ":" not in filepath  # noqa: PTH117  as FiftyOne asks
        frames = json.loads((folder / sample.pop("frames")).read_text("ascii"))["frames"]
        read = fields_of(sample)
        read["frames"] = {}
        for number, frame in frames.items():
            assert int(number) == frame["frame_number"] >= 1
            read["frames"][int(number)] = fields_of(frame)
        samples.append(read)
    # The schema is inferred from values: a field has one type in all samples.
    for name in {name for sample in samples for name in sample}:
        assert len({type(sample[name]) for sample in samples if name in sample}) == 1, name
    return metadata, samples


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of five clips, the fourth of which failed and the fifth's file is gone."""
    folder = tmp_path_factory.mktemp("run")
    layout = small_layout(5)
    columns = random_columns(
        layout,
        frame_index=np.tile(SEEN, (5, 1)),
        status=np.array([1, 1, 1, 5, 1], np.uint8),
        label=np.array([0, 0, -1, 0, 0], np.int32),
        prediction=np.array([0, 1, 0, 0, 0], np.int32),
    )
    dataset = write_dataset(folder / "dataset", 5)
    url = write_run(folder / "run", layout, columns, class_names=HOSTILE, **dataset)
    next((folder / "dataset").rglob("*4.mp4")).unlink()
    score_run(url)
    shown = replace(finding(HOSTILE[0]), examples=(Example(1, "clip1", None),))
    save_findings([shown], url, AuditSettings())
    return url


def test_fiftyone_gets_answers_scores_tags_and_a_heatmap_for_each_frame(run, tmp_path):
    out = tmp_path / "for_fiftyone"
    written = write_fiftyone(run, str(out))
    assert (written.n_clips, written.n_without_attribution, written.n_without_heatmaps) == (4, 1, 1)
    metadata, samples = imported(out)
    assert metadata["info"]["default_classes"] == list(HOSTILE)
    assert [sample["row"] for sample in samples] == [0, 1, 2, 4]
    right, wrong, unlabelled, gone = samples
    assert Path(right["filepath"]).is_file()
    assert right["ground_truth"]["label"] == right["prediction"]["label"] == HOSTILE[0]
    assert wrong["prediction"]["label"] == HOSTILE[1]
    assert "ground_truth" not in unlabelled
    ds = open_run(run)
    assert right["prediction"]["confidence"] == float(ds["probability"][0])
    assert 0 < right["entropy"] < 1
    assert "right" in right["tags"]
    assert {"wrong", "logo"} <= set(wrong["tags"])
    assert not {"right", "wrong"} & set(unlabelled["tags"])
    assert NO_HEATMAPS in gone["tags"]
    assert gone["frames"] == {}
    first, last = int(SEEN[0]), int(SEEN[-1])
    assert list(right["frames"]) == list(range(first + 1, last + 2))
    seen = [number for number, f in right["frames"].items() if f["attribution"]["seen"]]
    assert seen == [frame + 1 for frame in SEEN]
    joint = ds["spatial"].values[0] * ds["temporal"].values[0][:, None, None].astype(float)
    highest = [right["frames"][int(frame) + 1]["attribution"]["map"].max() for frame in SEEN]
    expected = np.rint(255 * joint.max(axis=(1, 2)) / joint.max())
    assert highest == expected.repeat(2).tolist()
    assert {f["attribution"]["map"].dtype for f in right["frames"].values()} == {np.dtype("uint8")}


def test_heatmaps_of_seen_frames_alone_are_an_option(run, tmp_path):
    write_fiftyone(run, str(tmp_path / "out"), rows=[1], heatmaps="seen-frames")
    _, (sample,) = imported(tmp_path / "out")
    assert list(sample["frames"]) == [frame + 1 for frame in SEEN]


def test_a_heatmap_lies_where_the_crop_lay():
    # 160 x 96 is resized to 106 x 64, of which the middle 64 x 64 are seen.
    preprocessing = Preprocessing(shortest_edge=64, crop=(64, 64))
    joint = np.zeros((4, 4))
    joint[0, 0], joint[3, 3] = 1, 0.5
    placed = heatmap(joint, 1.0, preprocessing, (96, 160))
    assert placed.shape == (16, 26)
    assert abs(placed.shape[1] / placed.shape[0] - 160 / 96) < 0.05
    rows, columns = np.nonzero(placed == 255)
    assert (rows.min(), rows.max()) == (0, 3)
    # The crop begins 21 of 106 pixels from the left: cell 5.2 of 26.
    assert (columns.min(), columns.max()) == (5, 8)
    rows, columns = np.nonzero(placed == 128)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 15, 17, 20)
    whole = heatmap(joint, 1.0, Preprocessing(shortest_edge=None, crop=None), (64, 64))
    np.testing.assert_array_equal(
        whole, np.rint(255 * joint.repeat(4, axis=0).repeat(4, axis=1)).astype(np.uint8)
    )


def test_a_crop_that_is_padded_shows_the_frame_alone():
    joint = np.ones((4, 4))
    placed = heatmap(joint, 1.0, Preprocessing(shortest_edge=None, crop=(64, 64)), (32, 32))
    assert placed.shape == (8, 8)
    assert (placed == 255).all()


def test_a_frame_between_has_the_nearest_seen_one():
    assert nearest_seen(np.array([2, 5, 6, 10])) == {
        **{2: 0, 3: 0, 4: 1, 5: 1, 6: 2},
        **{7: 2, 8: 2, 9: 3, 10: 3},
    }
    assert nearest_seen(np.array([3, 3, 4])) == {3: 0, 4: 2}
