"""Which failures of a storage are tried again, for how long, and what is said in the end."""

import errno

import pytest

from pipeline.storage.retries import is_transient


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (FileNotFoundError(), False),
        (PermissionError(), False),
        (OSError(errno.ENOSPC, "full"), False),
        (OSError(errno.EINVAL, "no such name"), False),
        (ValueError("a bug"), False),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (OSError(errno.EBUSY, "slow down"), True),
        (OSError("of a driver, without a number"), True),
        (RuntimeError("of a driver that isn't known here"), True),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_may_pass_is_tried_again_and_nothing_else(error, transient):
    assert is_transient(error) == transient
