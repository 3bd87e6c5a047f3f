"""Simulated runs with planted effects, drawn from the day's seed, as an audit reads them."""

from datetime import UTC, datetime

import pytest

from tests.analysis.simulated_runs import ALL, without_false_alarm


@pytest.fixture(scope="package")
def day_seed():
    seed = int(datetime.now(UTC).strftime("%Y%m%d"))
    print("seeds from", seed)
    return seed


@pytest.fixture(scope="package")
def planted(day_seed):
    """One run in which every kind is planted, and what an audit reads of it."""
    run = without_false_alarm(day_seed, ALL)
    return run, run.evidence()


@pytest.fixture(scope="package")
def clean(day_seed):
    """A clean twin, as an audit reads it."""
    return without_false_alarm(day_seed).evidence()
