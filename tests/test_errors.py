"""Errors: which are the input's fault, and reasons on one line."""

import errno
import os

import pytest

from pipeline import errors
from pipeline.errors import (
    CredentialsError,
    ManifestChangedError,
    StaaError,
    StorageError,
    reason_of,
)
from pipeline.status import DecodeError, Status


def test_what_may_pass_by_itself_is_not_the_inputs_fault():
    """A job ends with 2 for the one and with 1 for the other."""
    inputs = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, StaaError)
    }
    assert inputs >= {"ConfigError", "ManifestError", "ModelError", "StoreError"}
    for kind in (StorageError, ManifestChangedError, CredentialsError, DecodeError):
        assert not issubclass(kind, StaaError)
    # As with any lack of permission, waiting doesn't help.
    assert issubclass(CredentialsError, PermissionError)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a/path"), "No space left on device"),
        (OSError("of a driver"), "of a driver"),
        (ValueError("two\n   lines\tand more"), "two lines and more"),
        (KeyError(), "KeyError"),
        # Bytes of any kind, quotes and spaces among them.
        (
            ValueError(
                "Stored and computed checksum do not match. Stored: b\"'. x\". Computed: b'y'."
            ),
            "Stored and computed checksum do not match",
        ),
        (RuntimeError(""), "RuntimeError"),
    ],
)
def test_a_reason_is_one_line_and_never_empty(error, reason):
    assert reason_of(error) == reason


def test_a_clips_error_has_its_status_and_message():
    error = DecodeError(Status.EMPTY, "no bytes")
    assert (error.status, error.message, str(error)) == (Status.EMPTY, "no bytes", "no bytes")
