"""What became of a clip: one code per outcome, the same in every store, log and summary."""

from enum import IntEnum
from typing import Any


class Status(IntEnum):
    """Outcome of one row of the manifest, as stored in the ``status`` array (uint8).

    ``PENDING`` is the fill value: a row is accounted for once its code is not 0. The codes are part
    of the store's format, so a code is never reused or renumbered.
    """

    PENDING = 0
    OK = 1
    MISSING = 2
    """No object at the manifest's path."""
    EMPTY = 3
    """The object has no bytes."""
    UNREADABLE = 4
    """Not a video, no video stream, a codec that the decoder lacks, or a file that may not be
    read."""
    TRUNCATED = 5
    """A video of which some requested frames can't be decoded."""
    TOO_SHORT = 6
    """Fewer frames than the model sees; frames are never repeated to fill up."""
    TIMEOUT = 7
    """Decoding took longer than ``decode_timeout`` and was stopped."""
    CRASHED = 8
    """The decoder crashed its process in each of several tries, or wanted too much memory."""
    MODEL_ERROR = 9
    """The model gave NaN or infinity."""
    REMOVED = 10
    """Taken out by `jobs.forget`: nothing about it is kept, and it is never computed again."""
    UNUSED = 11
    """A place in a shard of `jobs.live` that was committed before it was full: no window is in
    it."""

    @property
    def label(self) -> str:
        """Lower-case name for summaries and tables, for example ``too_short``."""
        return self.name.lower()

    @property
    def failed(self) -> bool:
        """Whether the row was tried and couldn't be given an attribution."""
        return self not in (Status.OK, *NOT_TRIED)


NOT_TRIED = (Status.PENDING, Status.REMOVED, Status.UNUSED)
"""Statuses of rows that have no attribution and have not failed."""


class DecodeError(Exception):
    """One clip has no frames for the model; this becomes the row's ``status`` and ``message``."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def failed_rows(status: Any) -> Any:
    """Whether each row of a ``status`` array (NumPy, Dask or xarray) was tried and failed."""
    failed = status != Status.OK
    for other in NOT_TRIED:
        failed = failed & (status != other)
    return failed
