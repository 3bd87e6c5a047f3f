"""Explains a batch in little memory: ``python -m tests.support.attributor_in_little_memory MODEL``.

Each argument after the model's folder is the number of bytes that the process may use beyond what
it has after one clip. For each, it prints the batch's outcome as a line of JSON. It is a separate
process, since such a limit hits whatever else runs in it.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.attribution.method import Method
from pipeline.models.attributor import Attributor
from pipeline.models.checkpoint import read_checkpoint
from pipeline.store.schema import StoreLayout

N_CLIPS = 8


def explained(folder: str, room_bytes: int) -> dict[str, Any]:
    """Explain a batch twice with that much memory."""
    checkpoint = read_checkpoint(folder)
    grid = checkpoint.geometry
    layout = StoreLayout(
        *(N_CLIPS, N_CLIPS, grid.n_frames, grid.n_times, grid.height, grid.width), n_ranks=2
    )
    attributor = Attributor(
        checkpoint,
        Method(name="staa-paper"),
        layout,
        device="cpu",
        precision="float32",
        n_threads=1,
    )
    rng = np.random.default_rng(0)
    batch = {
        "row": np.arange(N_CLIPS),
        "frames": rng.integers(0, 256, (N_CLIPS, grid.n_frames, *grid.input_size, 3), np.uint8),
        "label": np.zeros(N_CLIPS, np.int32),
        "status": np.ones(N_CLIPS, np.uint8),
        "message": np.full(N_CLIPS, "", object),
    }
    attributor({name: column[:1] for name, column in batch.items()})
    data_pages = int(Path("/proc/self/statm").read_text().split()[5])
    limit = data_pages * resource.getpagesize() + room_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
    columns, again = attributor(batch), attributor(batch)
    resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return {
        "status": columns["status"].tolist(),
        "messages": columns["message"].tolist(),
        "top_classes": columns["top_classes"].tolist(),
        "temporal": columns["temporal"].tolist(),
        "same_again": bool(np.array_equal(columns["temporal"], again["temporal"], equal_nan=True)),
    }


if __name__ == "__main__":
    for room in sys.argv[2:]:
        print(json.dumps(explained(sys.argv[1], int(room))), flush=True)
