"""The codes of the store's format, which are frozen, and what counts as failed."""

import numpy as np
import pytest
import xarray as xr

from pipeline.status import Status, failed_rows

CODES = {
    "pending": 0,
    "ok": 1,
    "missing": 2,
    "empty": 3,
    "unreadable": 4,
    "truncated": 5,
    "too_short": 6,
    "timeout": 7,
    "crashed": 8,
    "model_error": 9,
    "removed": 10,
    "unused": 11,
}
"""As stores that were made before have them; a new code goes to the end."""


def test_codes_and_names_are_never_changed():
    assert {status.label: int(status) for status in Status if status.label in CODES} == CODES
    assert [int(status) for status in Status] == list(range(len(Status)))


def test_every_code_fits_the_array_and_is_one_of_five_kinds():
    for status in Status:
        assert np.uint8(status) == status
        others = (Status.PENDING, Status.OK, Status.REMOVED, Status.UNUSED)
        kinds = (*(status is other for other in others), status.failed)
        assert sum(kinds) == 1


@pytest.mark.parametrize("wrap", [np.array, lambda codes: xr.DataArray(codes, dims="clip")])
def test_failed_rows_are_those_that_were_looked_at_and_have_no_attribution(wrap):
    codes = wrap([int(status) for status in Status])
    assert list(map(bool, failed_rows(codes))) == [status.failed for status in Status]
