"""Looks at a manifest's root and some of its clips before anything is started.

A root that isn't there would make every clip `missing`, and a storage that is closed every clip
`unreadable`, for good. What is looked at is clips: many servers give files and refuse their folder.
"""

from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from pipeline.clips.fetch import holds_something, is_there, locate
from pipeline.dataset.manifest import Manifest
from pipeline.errors import CredentialsError, ManifestError, StorageError
from pipeline.storage.files import open_filesystem
from pipeline.text import without_credentials

N_LOOKED_AT = 16
"""Clips that are asked for, evenly spread over the manifest."""


def find_witness(manifest: Manifest, rows: NDArray[np.integer] | None = None) -> str | None:
    """Path of a clip that can be read; None where all that were looked at are absent.

    Parameters
    ----------
    rows
        Of the manifest, in order: those that count. By default all.

    Raises
    ------
    ManifestError
        When the root isn't there or is empty, its protocol or driver isn't known, its storage
        doesn't know the credentials, or none of the clips may be read.
    StorageError
        When the storage couldn't be reached for as long as it was tried.
    """
    root = without_credentials(manifest.root)
    try:
        filesystem, _ = open_filesystem(manifest.root)
    except (ImportError, ValueError) as error:
        raise ManifestError(f"clips: no access to {root}: {error}") from error
    n_rows = manifest.n_rows if rows is None else len(rows)
    places = np.unique(np.linspace(0, n_rows - 1, N_LOOKED_AT).astype(np.int64))
    looked_at = manifest.take(places if rows is None else rows[places])
    paths = [str(path) for path in looked_at["path"].to_pylist()]
    refused: dict[str, OSError] = {}
    away: list[StorageError] = []
    pool = ThreadPoolExecutor(len(paths))
    try:
        looks = {pool.submit(_look, manifest.root, path): path for path in paths}
        for look in as_completed(looks):
            fault = look.exception()
            if fault is None and look.result():
                return looks[look]
            if isinstance(fault, CredentialsError):
                raise ManifestError(f"clips: no access to {root}: {fault}") from fault
            if isinstance(fault, StorageError):
                away.append(fault)
            elif isinstance(fault, OSError):
                refused[looks[look]] = fault
            elif fault is not None:
                raise fault
    finally:
        # One that was found is enough, and the others may be tried again for long.
        pool.shutdown(wait=False, cancel_futures=True)
    if away:
        raise away[0]
    if refused:
        path, reason = next(iter(refused.items()))
        raise ManifestError(
            f"clips: none of {len(paths)} clips below {root} can be read; {path!r}: "
            f"{reason.strerror or reason}"
        )
    if isinstance(filesystem, LocalFileSystem) and not holds_something(manifest.root):
        raise ManifestError(
            f"clips: {root} isn't there, or is empty, and the manifest has {manifest.n_rows} clips "
            "below it: expected the folder that they are in, mounted"
        )
    if not isinstance(filesystem, LocalFileSystem):
        _check_container(manifest.root)
    return None


def _look(root: str, path: str) -> bool:
    if "\0" in path:
        return False
    try:
        filesystem, location = locate(root, path)
        return is_there(filesystem, location)
    except ValueError:
        # A name that no URL can have: as little an answer as an absent one.
        return False


def _check_container(root: str) -> None:
    """Refuse a bucket or container that isn't there, where the storage has such things."""
    filesystem, base = open_filesystem(root)
    protocols = filesystem.protocol
    names = {protocols} if isinstance(protocols, str) else set(protocols)
    if not names & {"s3", "s3a", "gs", "gcs", "az", "abfs"}:
        return
    bucket = base.partition("/")[0]
    if not is_there(filesystem, bucket):
        raise ManifestError(f"clips: there is no bucket {bucket!r}, that of {root}")
