"""Errors that a user can mend; each says what was found, what was expected, and where."""


class StaaError(Exception):
    """Base of every error that is the input's fault; jobs print it on one line and exit with 2."""


class ConfigError(StaaError):
    """A configuration value can't be used."""


class ManifestError(StaaError):
    """A dataset layout or a manifest can't be read as one."""


class ModelError(StaaError):
    """A checkpoint can't be loaded, or isn't a family that is known."""


class StoreError(StaaError):
    """A Zarr store isn't what this version writes, or can't be written."""


class RunMismatchError(StoreError):
    """A store was made by another run than the one that wants to go on with it."""


class LeaseError(StaaError):
    """Somebody else is working on the run."""


class StorageError(Exception):
    """A storage couldn't be reached for as long as it was tried; jobs exit with 1.

    It isn't known to be the input's fault, and the same command may succeed later.
    """


class ClusterError(StorageError):
    """The cluster that carries a run out was lost, or stands still; jobs exit with 1."""


class StoreGoneError(StorageError):
    """The store was deleted while a run went on; jobs exit with 1, and nothing is left."""


class LeaseLostError(StorageError):
    """Somebody else has taken over the run; jobs exit with 1."""


class ManifestChangedError(Exception):
    """A manifest was rewritten while a run read it; jobs exit with 1, and what is written stays."""


class CredentialsError(PermissionError):
    """A storage doesn't know the credentials, or they have expired, or there are none."""


def reason_of(error: Exception) -> str:
    """Say on one line why a library failed, without the path, which a message names itself."""
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or " ".join(str(error).split()) or type(error).__name__
