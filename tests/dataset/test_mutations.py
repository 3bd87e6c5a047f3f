"""Manifests and annotation files that are damaged at random: read, or refused in one line."""

import json
from collections import Counter
from random import Random

import pyarrow as pa
import pytest

from pipeline.dataset.columns import SCHEMA
from pipeline.dataset.layouts import build_manifest
from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.errors import ManifestError
from tests.support.mutations import mutated_bytes, mutated_json, mutated_text, seed_of_the_day

N_MUTATED = 300
VIDEOS = range(9)
TEXTS = {
    "kinetics": "label,youtube_id,time_start,time_end,split\n"
    + "".join(f"l{video},v{video},{video},{video + 9},val\n" for video in VIDEOS),
    "list": "".join(f"{video}.mp4 {video}\n" for video in VIDEOS),
    "table": "path,label\n" + "".join(f"{video}.mp4,{video}\n" for video in VIDEOS),
    "ucf101": "".join(f"A/{video}.avi {video + 1}\n" for video in VIDEOS),
    "ssv2": json.dumps([{"id": str(video), "template": "a [b] c"} for video in VIDEOS]),
    "charades": "id,actions\n" + "".join(f"v{video},c00{video} 1.0 2.0\n" for video in VIDEOS),
    "activitynet": json.dumps(
        {
            "database": {
                f"v{video}": {"subset": "t", "annotations": [{"label": "x"}]} for video in VIDEOS
            }
        }
    ),
    "ava-kinetics": "".join(f"v{video},0902,0.1,0.2,0.3,0.4,{video},1\n" for video in VIDEOS),
}


@pytest.fixture
def clips(tmp_path):
    (tmp_path / "clips").mkdir()
    for video in VIDEOS:
        (tmp_path / "clips" / f"{video}.mp4").touch()
    return tmp_path / "clips"


def assert_refused_well(error, folder):
    told = str(error)
    assert "\n" not in told
    assert len(told.replace(str(folder), "")) < 300


@pytest.mark.parametrize("layout", TEXTS)
def test_annotation_files(tmp_path, clips, layout):
    random = Random(f"{seed_of_the_day()} {layout}")
    kinds = [mutated_bytes, mutated_text]
    if TEXTS[layout][0] in "[{":
        kinds.append(mutated_json)
    file = tmp_path / "annotations"
    outcomes = Counter()
    for _ in range(N_MUTATED):
        file.write_bytes(random.choice(kinds)(TEXTS[layout].encode(), random))
        try:
            table = build_manifest(layout=layout, clips=str(clips), annotations=str(file))
            assert table.num_rows
            outcomes["read"] += 1
        except ManifestError as error:
            assert_refused_well(error, tmp_path)
            outcomes["refused"] += 1
    assert min(outcomes["read"], outcomes["refused"]) > N_MUTATED / 30, outcomes


def test_manifests(tmp_path, clips):
    random = Random(seed_of_the_day())
    metadata = {"staa.manifest_version": "1", "staa.root": f"file://{clips}", "staa.layout": "list"}
    rows = [
        {"video_id": str(row), "path": f"{row}.mp4", "label": str(row % 7), "start_time": row / 3}
        for row in range(200)
    ]
    url = tmp_path / "clips.parquet"
    write_manifest(pa.Table.from_pylist(rows, SCHEMA.with_metadata(metadata)), str(url))
    whole = url.read_bytes()
    outcomes = Counter()
    for _ in range(N_MUTATED):
        url.write_bytes(mutated_bytes(whole, random))
        try:
            manifest = read_manifest(str(url))
            manifest.distinct_labels()
            assert len(manifest.rows(0, manifest.n_rows)) == manifest.n_rows
            outcomes["read"] += 1
        except ManifestError as error:
            assert_refused_well(error, tmp_path)
            outcomes["refused"] += 1
    assert outcomes["refused"] > N_MUTATED / 2, outcomes
