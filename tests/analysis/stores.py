"""Runs for the tests of analysis: stores with random attributions that keep every promise."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.clips.preprocess import Preprocessing
from pipeline.dataset.manifest import METADATA_KEYS, SCHEMA, read_manifest, write_manifest
from pipeline.evaluation.measures import measures_of
from pipeline.status import Status
from pipeline.store.create import create_store
from pipeline.store.measured import GROUPS, Group
from pipeline.store.opening import open_store
from pipeline.store.run_folder import faithfulness_url, metrics_url, store_url
from pipeline.store.schema import StoreLayout
from pipeline.store.shards import write_shard
from tests.support.records import identity_of, record_of

Columns = dict[str, NDArray[Any]]

FRAME_SIZE = 64
PREPROCESSING = Preprocessing(shortest_edge=FRAME_SIZE, crop=(FRAME_SIZE, FRAME_SIZE))
CLASS_NAMES = ("archery", "bowling", "cooking")


def small_layout(n_rows: int, rows_per_shard: int = 4) -> StoreLayout:
    """Layout of a model of 4 frames in tubelets of 2, and 3 x 5 patches."""
    return StoreLayout(
        n_rows=n_rows,
        rows_per_shard=rows_per_shard,
        n_frames=4,
        n_times=2,
        height=3,
        width=5,
        n_ranks=2,
    )


def random_columns(
    layout: StoreLayout, seed: int = 0, *, n_classes: int = 3, **given: NDArray[Any]
) -> Columns:
    """Columns of a whole run; ``given`` ones replace random ones, and failed rows are emptied."""
    rng = np.random.default_rng(seed)
    n, times = layout.n_rows, layout.n_times
    spatial = rng.gamma(0.3, size=(n, times, layout.height, layout.width)) + 1e-6
    temporal = rng.gamma(1.0, size=(n, times)) + 1e-6
    columns: Columns = {
        "status": np.full(n, Status.OK, np.uint8),
        "video_id": np.array([f"clip{row}" for row in range(n)], object),
        "start_time": np.zeros(n),
        "frame_index": np.tile(np.arange(layout.n_frames, dtype=np.int32), (n, 1)),
        "spatial": (spatial / spatial.sum(axis=(2, 3), keepdims=True)).astype(np.float16),
        "temporal": (temporal / temporal.sum(axis=1, keepdims=True)).astype(np.float32),
        "label": rng.integers(0, n_classes, n).astype(np.int32),
        "prediction": rng.integers(0, n_classes, n).astype(np.int32),
        "probability": rng.random(n, np.float32),
        "label_probability": rng.random(n, np.float32),
        "top_classes": rng.integers(0, n_classes, (n, layout.n_ranks)).astype(np.int32),
        "top_probabilities": rng.random((n, layout.n_ranks), np.float32),
        **given,
    }
    failed = columns["status"] != Status.OK
    messages = [f"clip{row} is broken" if failed[row] else "" for row in range(n)]
    columns.setdefault("message", np.array(messages, object))
    for name in ("prediction", "top_classes"):
        columns[name][failed] = -1
    for name in ("spatial", "temporal", "probability", "label_probability", "top_probabilities"):
        columns[name][failed] = np.nan
    return columns


def write_run(
    url: str | Path,
    layout: StoreLayout,
    columns: Columns,
    *,
    class_names: tuple[str, ...] = CLASS_NAMES,
    pending_shards: tuple[int, ...] = (),
    manifest: str = "clips.parquet",
    digest: str = "0",
    layers: tuple[int, ...] = (11,),
    **identity: Any,
) -> str:
    """Write a run's store, without the shards that are still pending; gives the run's URL."""
    method = {"name": "staa", "layers": "last", "heads": "mean", "residual": False}
    record = record_of(
        layout,
        identity=identity_of(
            layout, **{"manifest": digest, "preprocessing": PREPROCESSING, **identity}
        ),
        config={"manifest": manifest, "model": "org/model", "out": str(url), "method": method},
        class_names=class_names,
        layers=layers,
    )
    store = create_store(store_url(str(url)), record)
    for shard in range(layout.n_shards):
        if shard not in pending_shards:
            rows = np.asarray(layout.shard_rows(shard))
            write_shard(store, {name: column[rows] for name, column in columns.items()}, rows)
    return str(url)


def write_sample(
    run_url: str, rows: NDArray[np.int64], groups: tuple[Group, ...] = GROUPS, seed: int = 0
) -> Columns:
    """Write a sample of some rows of a run with random measures beside it; gives its columns."""
    run = open_store(store_url(run_url))
    layout = replace(run.layout, n_rows=len(rows), measures=measures_of(groups, run.layout))
    identity = run.record.identity
    measured = {"by": ",".join(groups), "run": identity.manifest}
    record = run.record.model_copy(
        update={
            "layout": layout,
            "identity": identity.model_copy(update={"measured": measured, "manifest": "sample"}),
        }
    )
    rng = np.random.default_rng(seed)
    columns: Columns = {
        "status": np.full(len(rows), Status.OK, np.uint8),
        "message": np.full(len(rows), "", object),
        "video_id": np.array([f"clip{row}" for row in rows], object),
        **{
            each.name: rng.uniform(-1, 1, (len(rows), *each.shape)).astype(each.dtype)
            for each in layout.measures
        },
        "run_row": rows,
        "n_forward": np.full(len(rows), 7),
    }
    store = create_store(metrics_url(faithfulness_url(run_url)), record)
    for shard in range(layout.n_shards):
        part = np.asarray(layout.shard_rows(shard))
        write_shard(store, {name: column[part] for name, column in columns.items()}, part)
    return columns


def manifest_of(folder: Path, n: int) -> tuple[str, str]:
    """Write a manifest of `random_columns`' videos; gives its URL and its digest."""
    table = pa.table(
        {
            "video_id": [f"clip{row}" for row in range(n)],
            "path": [f"{row}.mp4" for row in range(n)],
            "label": pa.array([None] * n, pa.string()),
            "start_time": pa.array([None] * n, pa.float64()),
            "end_time": pa.array([None] * n, pa.float64()),
            "split": ["train" if row % 3 else "val" for row in range(n)],
        },
        schema=SCHEMA.with_metadata(
            dict(zip(METADATA_KEYS, ("1", "file:///clips", "files"), strict=True))
        ),
    )
    url = str(folder / "clips.parquet")
    write_manifest(table, url)
    return url, read_manifest(url).digest


def refuse_to_compute(*_args: Any, **_kwargs: Any) -> None:
    """A Dask scheduler for what must stay lazy."""
    raise AssertionError("something was computed")
