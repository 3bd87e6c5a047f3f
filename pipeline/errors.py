"""Errors that a user can fix; each says what was found, what was expected, and where."""

import re

_CHECKSUMS = re.compile(r"(?<=checksum do not match)\. Stored: b['\"].*", re.DOTALL)


class StaaError(Exception):
    """Base of every error that is the input's fault; jobs print it on one line and exit with 2."""


class ConfigError(StaaError):
    """A configuration value can't be used."""


class ManifestError(StaaError):
    """A dataset layout or a manifest can't be read as one."""


class ModelError(StaaError):
    """A checkpoint can't be loaded, or isn't of a known family."""


class StoreError(StaaError):
    """A Zarr store isn't what this version writes, or can't be written."""


class RunMismatchError(StoreError):
    """A store was made by another run than the one that wants to continue it."""


class LeaseError(StaaError):
    """Somebody else is working on the run."""


class StorageError(Exception):
    """A storage couldn't be reached, however often it was tried; jobs exit with 1.

    The input may not be at fault, and the same command may succeed later.
    """


class ClusterError(StorageError):
    """The cluster that carries out a run was lost or stands still; jobs exit with 1."""


class StoreGoneError(StorageError):
    """The store was deleted during a run; jobs exit with 1, and nothing is left."""


class LeaseLostError(StorageError):
    """Somebody else has taken over the run; jobs exit with 1."""


class ManifestChangedError(Exception):
    """A manifest changed while a run read it; jobs exit with 1, and what was written stays."""


class CredentialsError(PermissionError):
    """A storage refuses the credentials, they have expired, or there are none."""


def reason_of(error: Exception) -> str:
    """Say on one line why a library failed, without the path, which our message names.

    Zarr's two checksums are left out, whose bytes push the path out of a line.
    """
    strerror = error.strerror if isinstance(error, OSError) else None
    said = " ".join(str(error).split())
    return strerror or _CHECKSUMS.sub("", said) or type(error).__name__
