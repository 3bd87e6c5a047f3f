"""A small store for tests: its layout, its identity, and columns that differ between rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.store.schema import StoreLayout
from pipeline.store.shards import write_shard
from tests.support.records import record_of

LAYOUT = StoreLayout(
    n_rows=10, rows_per_shard=4, n_frames=8, n_times=4, height=3, width=2, n_ranks=5
)

CHECKED = replace(LAYOUT, checksums=True)

RECORD = record_of(LAYOUT)
IDENTITY = RECORD.identity


EXPECTED = {
    "spatial": (("clip", "time", "y", "x"), np.float16),
    "temporal": (("clip", "time"), np.float32),
    "status": (("clip",), np.uint8),
    "label": (("clip",), np.int32),
    "prediction": (("clip",), np.int32),
    "probability": (("clip",), np.float32),
    "label_probability": (("clip",), np.float32),
    "top_classes": (("clip", "rank"), np.int32),
    "top_probabilities": (("clip", "rank"), np.float32),
    "frame_index": (("clip", "frame"), np.int32),
    "start_time": (("clip",), np.float64),
    "video_id": (("clip",), str),
    "message": (("clip",), str),
}
"""The table in the design, which is the format that a store's readers rely on."""


def columns_of(layout, rows, seed=0):
    """Columns of a shard that differ between rows and contain no fill value."""
    rng = np.random.default_rng([seed, rows[0]])
    sizes = {
        "time": layout.n_times, "frame": layout.n_frames, "rank": layout.n_ranks,
        "y": layout.height, "x": layout.width,
    }  # fmt: skip
    columns = {}
    for name, (dims, dtype) in EXPECTED.items():
        shape = (len(rows), *(sizes[dim] for dim in dims[1:]))
        if dtype is str:
            columns[name] = np.array([f"{name} {row} é" for row in rows], dtype=object)
        elif np.issubdtype(dtype, np.floating):
            columns[name] = rng.uniform(0.1, 1, shape).astype(dtype)
        else:
            columns[name] = rng.integers(1, 9, shape).astype(dtype)
    spatial = columns["spatial"].astype(np.float64)
    columns["spatial"] = (spatial / spatial.sum(axis=(-2, -1), keepdims=True)).astype(np.float16)
    return columns


def write(group, shard, seed=0):
    rows = group.layout.shard_rows(shard)
    columns = columns_of(group.layout, rows, seed)
    write_shard(group, columns, np.array(rows))
    return columns


def objects(folder):
    """Every object of a store with its bytes, except metadata."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in paths
        if path.name != "zarr.json"
    }
