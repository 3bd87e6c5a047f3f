"""Windows, rows and sessions that no stream gave, for tests of what keeps them."""

import numpy as np

from pipeline.store.schema import StoreLayout
from pipeline.stream.engine import model_input
from pipeline.stream.ring import Cut
from pipeline.stream.session import Paths, Session
from pipeline.stream.source import Source
from pipeline.stream.windows import Window
from tests.analysis.stores import random_columns
from tests.support.records import identity_of, record_of

ROWS_PER_SHARD = 4
SOURCES = (Source("cam", "rtsp://eve:hunter2@cam/1"), Source("door", "rtsp://door"))


def layout_of(n_rows):
    return StoreLayout(
        n_rows=n_rows,
        rows_per_shard=ROWS_PER_SHARD,
        n_frames=4,
        n_times=2,
        height=3,
        width=5,
        n_ranks=2,
        checksums=True,
        optional=("frame_time", "clip_digest"),
    )


def window(number, stream="cam", newest_s=0.0):
    rng = np.random.default_rng(number)
    times = number + np.arange(4) / 4
    cut = Cut(
        tuple(rng.integers(0, 256, (16, 16, 3), np.uint8) for _ in range(4)),
        (10 * number + np.arange(4)).astype(np.int32),
        times,
        newest_s,
    )
    return Window(stream, number, float(number), number + 1.0, cut, times)


def explained(batch, seed=0):
    """Stands in for a model: columns of the store for the columns of windows, random ones."""
    n_rows = len(batch["row"])
    own = random_columns(layout_of(n_rows), seed=seed + int(batch["start_time"][0]))
    frames = {"frames"}
    given = {name: values for name, values in batch.items() if name not in frames}
    return own | given


def rows_of(windows):
    """What the engine hands to a recorder: each window with its row's columns."""
    return [(each, explained(model_input([each]))) for each in windows]


def session(folder):
    """A session in a folder, whose record says its manifest's digest and size."""

    def record(manifest):
        layout = layout_of(manifest.n_rows)
        identity = identity_of(layout, manifest=manifest.digest, segments=True)
        config = {"manifest": manifest.url, "model": "org/model", "out": str(folder)}
        return record_of(layout, identity=identity, config=config, class_names=("a", "b", "c"))

    return Session(str(folder), record, Paths.of(SOURCES, str(folder)), ROWS_PER_SHARD)
