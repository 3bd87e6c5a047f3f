"""What a store says of its making: schema, sizes, and the run's identity."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from zarr.core.common import JSON
from zarr.core.group import Group

from pipeline.errors import RunMismatchError
from pipeline.store.schema import StoreLayout

SCHEMA: dict[str, JSON] = {"name": "staa", "version": 1}
"""Marks a group as a store of this product; the version changes with the arrays' meaning."""


_BEFORE = {"decoder": "decord", "sampling.clock": "frame", "segments": False}
"""What runs did whose identity doesn't say it, as there was nothing to choose when they began."""


def store_layout(group: Group) -> StoreLayout:
    """Sizes of an open store."""
    return StoreLayout(**group.attrs["layout"])  # type: ignore[arg-type]


def check_identity(group: Group, identity: Mapping[str, Any]) -> None:
    """Refuse to go on with another run's store.

    Raises
    ------
    RunMismatchError
        Names each key that differs, with both values.
    """
    stored = _BEFORE | _flatten(group.attrs["identity"])
    wanted = _BEFORE | _flatten(identity)
    differences = [
        f"{key} is {stored.get(key)!r} there and {wanted.get(key)!r} here"
        for key in sorted(stored.keys() | wanted.keys())
        if stored.get(key) != wanted.get(key)
    ]
    if differences:
        longer = any(difference.startswith("manifest ") for difference in differences)
        raise RunMismatchError(
            f"out: the store at {group.store} was made by another run: {'; '.join(differences)}. "
            "Choose another folder, or start anew with --overwrite"
            + ("; rows at the manifest's end are taken in with --append" if longer else "")
        )


def run_id(run_url: str, identity: Mapping[str, Any]) -> str:
    """Short name of a run for logs and metrics: its folder's name and a digest of its identity."""
    # As JSON, a tuple that is to be stored and the list that was read are the same.
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{run_url.rstrip('/').rpartition('/')[2] or 'run'}-{digest[:8]}"


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: list(value) if isinstance(value, tuple) else value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat
