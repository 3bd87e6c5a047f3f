"""How much a run takes at its target, and whether it fits there, where the storage tells."""

import shutil
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import StoreError
from pipeline.storage.files import open_filesystem
from pipeline.store.schema import StoreLayout

SMALLEST_SHARE = 0.8
"""Smallest share of their size that maps take when compressed; they are nearly all of a row. Their
low bits are noise, and stores have 0.86 to 0.9 of it."""


def free_bytes(url: str) -> int | None:
    """Free space at a URL's storage, bytes; None if the storage doesn't say."""
    filesystem, path = open_filesystem(url)
    if not isinstance(filesystem, LocalFileSystem):
        return None
    folder = Path(path)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_space(run_url: str, layout: StoreLayout, n_rows: int) -> None:
    """Refuse a target that has less space than the rows will take even if they compress well.

    Parameters
    ----------
    n_rows
        Rows that are still to be written.

    Raises
    ------
    StoreError
        Says how much is needed, and how much is free.
    """
    needed = int(n_rows * layout.map_bytes * SMALLEST_SHARE)
    free = free_bytes(run_url)
    if free is not None and free < needed:
        raise StoreError(
            f"out: {run_url} has {size(free)} free, and the maps of {n_rows:,} clips take "
            f"{size(needed)} at the least"
        )


def size(n_bytes: float) -> str:
    """Size for messages, as 1.2 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.3g} TB" if n_bytes < 1000 else f"{n_bytes:,.0f} TB"
