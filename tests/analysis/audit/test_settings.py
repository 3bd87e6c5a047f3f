"""Thresholds of an audit are bounded where they are set."""

import pytest
from pydantic import ValidationError

from analysis.audit.settings import AuditSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [("q", 0), ("q", 1), ("min_clips", 2), ("least_logo_ratio", 1), ("duplicate_ratio", 1)],
)
def test_a_threshold_that_means_nothing_is_refused(name, value):
    with pytest.raises(ValidationError, match=name):
        AuditSettings(**{name: value})


def test_a_misspelt_threshold_is_refused():
    with pytest.raises(ValidationError, match="min_clip"):
        AuditSettings(min_clip=10)
