"""The files of a checkpoint's weights: where they are, why one isn't there, and their digest.

A checkpoint is a folder, or a hub id whose files are in the cache or are downloaded.
"""

import hashlib
from pathlib import Path

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import LocalEntryNotFoundError, cached_file

from pipeline.errors import ModelError
from pipeline.models.checkpoint_files import read_json, weight_files_of


def weight_files(name: str, revision: str | None) -> list[Path]:
    """Find the safetensors files of a checkpoint: one, or all that its index lists.

    Raises
    ------
    ModelError
        Names the first file that isn't there, and says why.
    """
    if single := find_file(name, SAFE_WEIGHTS_NAME, revision):
        return [single]
    expected = [SAFE_WEIGHTS_NAME]
    if index := find_file(name, SAFE_WEIGHTS_INDEX_NAME, revision):
        expected = weight_files_of(read_json(index, name), index.name, name)
    files = {file: find_file(name, file, revision) for file in expected}
    for file, path in files.items():
        if path is None:
            raise ModelError(f"model: {_lack(name, file, revision)}")
    return [path for path in files.values() if path]


def find_file(name: str, file: str, revision: str | None) -> Path | None:
    """Find a file of a checkpoint; None if it doesn't exist or is out of reach."""
    found = cached_file(
        name,
        file,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return Path(found) if found else None


def _lack(name: str, file: str, revision: str | None) -> str:
    """Say why a checkpoint's file isn't there: it doesn't exist, or is out of reach."""
    try:
        cached_file(name, file, revision=revision)
    except OSError as error:
        if isinstance(error.__cause__, LocalEntryNotFoundError):
            return (
                f"{file} of {name!r} is not in the cache, and the hub is out of reach (offline, or "
                "HF_HUB_OFFLINE is set): download the checkpoint first"
            )
    return f"{name!r} has no {file}; only safetensors are loaded"


def digest_of_files(files: list[Path]) -> str:
    """SHA-256 over the SHA-256 of each file, in hexadecimal."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
