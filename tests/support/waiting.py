"""Waiting for what another process does."""

import time

HANG_S = 60
"""Only a guard: what is waited for takes a second or two."""


def wait_for(condition):
    """Return once a condition holds."""
    deadline = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < deadline
        # Others need the CPU to bring it about.
        time.sleep(0.05)
