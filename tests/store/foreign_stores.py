"""Stores of another tool's attributions, written by zarr alone."""

import numpy as np
import zarr

CLASS_NAMES = ("a", "b", "c")

ATTRIBUTES = {
    "zarr_conventions": [
        {"uuid": "8ae620d4-5ea9-4aff-ad13-0667198c787e", "name": "attributions"},
        {"schema_url": "https://example.org/another/v1/schema.json"},
    ],
    "attributions": {
        "version": 1,
        "method": "captum.Occlusion",
        "class_specific": True,
        "class_names": list(CLASS_NAMES),
    },
}

DIMS = {
    "spatial": ("clip", "time", "y", "x"),
    "temporal": ("clip", "time"),
    "frame_index": ("clip", "frame"),
    "top_classes": ("clip", "rank"),
    "top_probabilities": ("clip", "rank"),
}


def foreign_columns(n=6, *, n_times=2, height=3, width=4, seed=0):
    """Arrays that keep the convention, with the required ones and a label."""
    rng = np.random.default_rng(seed)
    spatial = rng.gamma(0.5, size=(n, n_times, height, width)) + 1e-6
    temporal = rng.gamma(1.0, size=(n, n_times)) + 1e-6
    return {
        "status": np.ones(n, np.uint8),
        "video_id": np.array([f"video {row}" for row in range(n)], object),
        "spatial": (spatial / spatial.sum((2, 3), keepdims=True)).astype(np.float32),
        "temporal": (temporal / temporal.sum(1, keepdims=True)).astype(np.float32),
        "prediction": rng.integers(0, 3, n).astype(np.int32),
        "probability": rng.random(n).astype(np.float32),
        "label": rng.integers(-1, 3, n).astype(np.int64),
    }


def write_foreign(path, columns=None, attributes=ATTRIBUTES, dims=None):
    """Write a store; gives its URL."""
    group = zarr.create_group(str(path), attributes=attributes)
    for name, values in (columns or foreign_columns()).items():
        array = group.create_array(
            name,
            shape=values.shape,
            dtype="str" if values.dtype == object else values.dtype,
            dimension_names={**DIMS, **(dims or {})}.get(name, ("clip",)),
        )
        array[:] = values
    return str(path)
